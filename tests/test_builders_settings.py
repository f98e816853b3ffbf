"""Settings of builders: names of folders, text from the command line, mistakes."""

import dataclasses

import pytest

from rxrx_jax.errors import UserError
from rxrx_jax.simulate.screen import Screen
from tfds_builders.settings import as_json, config_name, make


@dataclasses.dataclass(frozen=True)
class Example:
    size: int = 3
    rate: float = 0.5
    name: str = "a"
    parts: tuple[str, ...] = ("x", "y")
    limit: int | None = None


def test_config_name_tells_what_is_not_default():
    assert config_name(Screen()) == "default"
    assert config_name(make(Screen, {"seed": 0, "layout": "fixed"}, "")) == "default"
    assert config_name(make(Screen, {"layout": "reshuffled"}, "")) == "layout_reshuffled"
    assert config_name(make(Screen, {"seed": 1, "layout": "reshuffled"}, "")) == "layout_reshuffled-seed_1"
    assert config_name(Example(parts=("p", "q"))) == "parts_p+q"


def test_config_name_stays_a_folder_name_and_distinct():
    long = [config_name(Example(name=f"{'n' * 300}{i}")) for i in range(2)]
    odd = [config_name(Example(name=name)) for name in ("a/b", "a b", "a_b")]
    assert len(set(long + odd)) == 5
    assert all(len(name) < 230 and "/" not in name and " " not in name for name in long + odd)


def test_text_becomes_the_type_of_the_default():
    made = make(Example, {"size": "7", "rate": "2", "name": "5", "parts": "u, v", "limit": "9"}, "")
    assert made == Example(7, 2.0, "5", ("u", "v"), 9)
    assert make(Example, {"parts": ["u"]}, "").parts == make(Example, {"parts": "u"}, "").parts == ("u",)
    assert make(Example, {"parts": ""}, "").parts == ()


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"sise": 1}, ["Example", "'sise'", "size, rate, name, parts, limit"]),
        ({"size": "big"}, ["size='big'", "int", "3"]),
        ({"size": 1.5}, ["size=1.5", "int"]),
        ({"size": True}, ["size=True", "int"]),
    ],
)
def test_mistakes_are_named(fields, words):
    with pytest.raises(UserError) as error:
        make(Example, fields, "Example")
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


def test_a_screen_refuses_values_in_one_line():
    with pytest.raises(UserError, match="layout='round'"):
        make(Screen, {"layout": "round"}, "rxrx_sim")


def test_as_json_survives_json():
    assert as_json(Example()) == {"size": 3, "rate": 0.5, "name": "a", "parts": ["x", "y"], "limit": None}
