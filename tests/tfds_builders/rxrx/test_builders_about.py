"""What the builders of the published datasets say of themselves, and that their rows have the columns they promise."""

import itertools

import pytest
import table_tools
import test_builders_metadata
import test_builders_rxrx2
import test_builders_rxrx3

from rxrx_jax.base.errors import UserError
from tfds_builders import prepare
from tfds_builders.common.types import SITE_COLUMNS

NAMES = ("rxrx1", "rxrx1_wilds", "rxrx2", "rxrx19a", "rxrx19b", "rxrx3", "rxrx3_core")
every = pytest.mark.parametrize("name", NAMES)
SIX = ("nucleus", "endoplasmic reticulum", "actin", "nucleolus and RNA", "mitochondria", "Golgi")
TABLES = {
    "rxrx1": [test_builders_metadata.HEADER, test_builders_metadata.GOOD],
    "rxrx1_wilds": [test_builders_metadata.HEADER, test_builders_metadata.GOOD],
    **{module.__name__.split(".")[2]: [header, f"{test_builders_rxrx2.START},{test_builders_rxrx2.GOOD[module]}"]
       for module, header in test_builders_rxrx2.HEADERS.items()},
    "rxrx3": [test_builders_rxrx3.HEADER, test_builders_rxrx3.CRISPR, test_builders_rxrx3.COMPOUND],
    "rxrx3_core": [f"{test_builders_rxrx3.HEADER},well_type_label", f"{test_builders_rxrx3.CRISPR},Query guides"],
}  # fmt: skip


def builder(name, tmp_path, source):
    return prepare.builder_class(name)(data_dir=tmp_path / "out", source=source)


@every
def test_rows_have_the_columns_that_the_builder_promises(name, tmp_path):
    table_tools.write(tmp_path, metadata=TABLES[name])
    made = builder(name, tmp_path, tmp_path)
    rows = table_tools.exhaust(made.read_table()).rows
    assert len(rows) == len(TABLES[name]) - 1
    for row in rows:
        assert set(row) == {*SITE_COLUMNS, *made.extra_columns}
        assert all(type(row[key]) is kind for key, kind in made.extra_columns.items())


@every
def test_what_a_builder_says(name):
    kind = prepare.builder_class(name)
    assert kind.channels == {"rxrx19a": SIX[:4] + SIX[5:], "rxrx1_wilds": SIX[:3]}.get(name, SIX)
    assert kind.bits == (16 if name == "rxrx3" else 8)
    assert all(kind.about[key].strip() for key in ("description", "homepage", "license", "citation"))
    owner = {
        "rxrx3": "Recursion Non-Commercial End User License Agreement",
        "rxrx19a": "CC BY 4.0",
        "rxrx1": "CC BY-NC-SA 4.0",
    }
    expected = owner[
        {"rxrx1_wilds": "rxrx1", "rxrx2": "rxrx1", "rxrx19b": "rxrx19a", "rxrx3_core": "rxrx3"}.get(name, name)
    ]
    assert kind.about["license"].startswith(expected)
    assert kind.published.keys() <= {"sites", "experiments", "plates", "perturbations"}


@every
def test_without_a_source_a_builder_says_what_to_fetch(name, tmp_path):
    for source, ask in itertools.product((None, tmp_path / "nowhere"), ("read_table", "image_source")):
        with pytest.raises(UserError, match=f"tfds_builders.prepare {name} --source=DIR"):
            getattr(builder(name, tmp_path, source), ask)()
