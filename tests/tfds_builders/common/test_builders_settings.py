"""Settings of builders: names of folders, text from the command line, the choice of plates, mistakes."""

import dataclasses

import pytest

from rxrx_jax.base.errors import UserError
from rxrx_jax.simulate.screen import Screen
from tfds_builders import prepare
from tfds_builders.common.screen import _is_chosen
from tfds_builders.common.settings import Records, as_json, config_name, make


@dataclasses.dataclass(frozen=True)
class Example:
    size: int = 3
    rate: float = 0.5
    name: str = "a"
    parts: tuple[str, ...] = ("x", "y")
    limit: int | None = None


def test_config_name_tells_what_is_not_default():
    defaults = (Screen(), Records())
    name = lambda **fields: config_name(make(defaults, fields, ""), defaults)  # noqa: E731
    assert name() == name(seed=0, layout="fixed") == name(encoding="delta") == "default"
    assert name(layout="reshuffled") == "layout_reshuffled"
    assert name(seed=1, layout="reshuffled") == "layout_reshuffled-seed_1"
    assert name(seed=1, encoding="raw", experiments="A-01,A-02") == "encoding_raw-experiments_A-01+A-02-seed_1"
    assert config_name((Example(parts=("p", "q")),), (Example(),)) == "parts_p+q"


def test_config_name_stays_a_folder_name_and_distinct():
    name = lambda text: config_name((Example(name=text),), (Example(),))  # noqa: E731
    long = [name(f"{'n' * 300}{i}") for i in range(2)]
    odd = [name(text) for text in ("a/b", "a b", "a_b")]
    assert len(set(long + odd)) == 5
    assert all(len(name) < 230 and "/" not in name and " " not in name for name in long + odd)


def test_text_becomes_the_type_of_the_default():
    (made,) = make((Example(),), {"size": "7", "rate": "2", "name": "5", "parts": "u, v", "limit": "9"}, "")
    assert made == Example(7, 2.0, "5", ("u", "v"), 9)
    parts = lambda value: make((Example(),), {"parts": value}, "")[0].parts  # noqa: E731
    assert parts(["u"]) == parts("u") == ("u",)
    assert parts("") == ()


def test_the_first_dataclass_that_has_a_field_takes_it():
    screen, records = make((Screen(), Records()), {"plates": "2", "treatments": 4, "bits": "16"}, "")
    assert (screen.plates, records.plates, records.bits) == (2, (), 16)
    assert as_json((screen, records))["plates"] == 2


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"sise": 1}, ["Example", "'sise'", "size, rate, name, parts, limit"]),
        ({"size": "big"}, ["size='big'", "int", "3"]),
        ({"size": 1.5}, ["size=1.5", "int"]),
        ({"size": True}, ["size=True", "int"]),
        ({"encoding": "png"}, ["Example: encoding='png'", "delta, zstd, raw or source"]),
        ({"bits": 12}, ["bits=12", "8 or 16"]),
        ({"plates": "A"}, ["plates='A'", "1,2"]),
        ({"plates": "{[1]: 2}"}, ["plates=", "1,2"]),
        ({"experiments": "[['a']]"}, ["experiments=['a']"]),
    ],
)
def test_mistakes_are_named(fields, words):
    with pytest.raises(UserError) as error:
        make((Example(), Records()), fields, "Example")
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


def test_a_screen_refuses_values_in_one_line():
    with pytest.raises(UserError, match="layout='round'"):
        make((Screen(),), {"layout": "round"}, "rxrx_sim")


def test_one_choice_has_one_name():
    same = [
        {"experiments": "HUVEC-2,HUVEC-01", "plates": "2,1,2"},
        {"experiments": ("HUVEC-01", "HUVEC-02"), "plates": (1, 2)},
    ]
    first, second = (make((Records(),), fields, "")[0] for fields in same)
    assert first == second and first.experiments == ("HUVEC-01", "HUVEC-02") and first.plates == (1, 2)


def test_as_json_survives_json():
    assert as_json((Example(),)) == {"size": 3, "rate": 0.5, "name": "a", "parts": ["x", "y"], "limit": None}


@pytest.mark.parametrize(
    "choice, chosen",
    [
        ({}, True),
        ({"experiments": ("A-01",), "plates": (1,)}, True),
        ({"experiments": ("A-02",)}, False),
        ({"plates": (2,)}, False),
        ({"cell_types": ("A",)}, False),  # nothing tells the cell type of a plate without a row
    ],
)
def test_a_plate_without_rows_is_chosen_by_its_name(choice, chosen):
    assert _is_chosen(("A-01", 1), Records(**choice)) is chosen


@pytest.mark.parametrize(
    "name, fields, words",
    [
        ("rxrx1", {"bits": 16}, "rxrx1: bits=16, but its images have 8"),
        ("rxrx3", {"encoding": "source"}, "rxrx3: encoding=source keeps the files as they are: add bits=16"),
    ],
)
def test_settings_that_do_not_fit_the_images(name, fields, words):
    with pytest.raises(UserError, match=words):
        prepare.find(name, **fields)


def test_a_plate_number_is_not_a_truth_value():
    with pytest.raises(UserError, match="plates=True"):
        make((Records(),), {"plates": "True"}, "x")


def test_the_first_of_two_changed_fields_names_the_folder():
    mine = (Records(bits=16), Records(encoding="raw", bits=16))
    defaults = (Records(), Records(bits=8))
    assert config_name(mine, defaults) == "bits_16-encoding_raw"
    mine = (Records(plates=(1,)), Records(plates=(2,)))
    assert config_name(mine, defaults) == "plates_1"
