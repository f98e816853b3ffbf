"""A well and a missing cell, however a table spells them."""

from rxrx_jax.base.spellings import canonical_well, is_missing


def test_wells_have_one_name():
    assert {canonical_well(text) for text in ("A1", "A01", "a01", "A001", "1,1", "A,1", "a,01", "01,001")} == {"A01"}
    assert [canonical_well(text) for text in ("A00", "A49", "AG01", "11", "", "A", "1,", "well", "33,1")] == [None] * 9


def test_a_missing_cell_has_many_spellings():
    assert all(map(is_missing, ("", "None", "nan", "NA", "n/a", "NULL", "-", "<NA>")))
    assert not any(map(is_missing, ("0", "nano", "DMSO", "--")))
