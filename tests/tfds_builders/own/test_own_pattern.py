"""File names to plate, well, site and channel."""

import pytest

from rxrx_jax.base.errors import UserError
from tfds_builders.own.pattern import Pattern, Place

NAMES = {
    "phenix": (
        "{plate}/r{row}c{column}f{site}-ch{channel}*.tiff",
        "BR00117006/r01c24f09-ch10sk1fk1fl1.tiff",
        Place("", "BR00117006", "A24", 9, "10"),
    ),
    "date": ("{plate}__*/{well}_s{site}_w{channel}.tif", "BR1__2020-11/A1_s2_w05.tif", Place("", "BR1", "A01", 2, "5")),
    "star": ("{plate}*/{well}_{channel}*.png", "BR1-x/b2_DNAx-y.png", Place("", "BR1", "B02", 1, "DNAx")),
    "digits": ("{plate}/{well}_{channel}.tif", "22123/AF48_405nm.tif", Place("", "22123", "AF48", 1, "405nm")),
    "underline": (
        "{experiment}/{plate}_{well}.tif",
        "a-1/Week1_22123_P24.tif",
        Place("a-1", "Week1_22123", "P24", 1, ""),
    ),
    "twice": ("{plate}/{plate}_{well}.tif", "x1/x1_A01.tif", Place("", "x1", "A01", 1, "")),
    "folders": ("**/{plate}/{row}{column}.tif", "a/b/c/x/AA07.tif", Place("", "x", "AA07", 1, "")),
    "no folders": ("**/{plate}/{row}{column}.tif", "x/H12.tif", Place("", "x", "H12", 1, "")),
    "one": ("{plate}/t?_{well}.tif", "x/t0_H12.tif", Place("", "x", "H12", 1, "")),
}


@pytest.mark.parametrize(("text", "name", "place"), NAMES.values(), ids=list(NAMES))
def test_a_name_says_what_it_says(text, name, place):
    assert Pattern(text).match(name) == place


def test_what_does_not_fit_is_none_and_what_cannot_be_has_a_reason():
    pattern = Pattern("{plate}/{plate}_r{row}c{column}.tif")
    assert pattern.match("x/y_r1c1.tif") is None and pattern.match("x/x_r1c1.tif.bak") is None
    assert pattern.match("x/x_r33c1.tif") == "33,1 is not a well of A01..AF48"
    assert pattern.match("x/x_r1c49.tif") == "1,49 is not a well of A01..AF48"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{plate}/{wel}.tif", "{wel} is not one of {experiment}, {plate}"),
        ("{plate}/{well.tif", "{ is not one of"),
        ("{plate}/{row}.tif", "does not say {column} ({well}, or {row} and {column})"),
        ("{well}.tif", "does not say {plate}"),
        ("{plate}/{well}{row}.tif", "use {well}, or {row} and {column}"),
    ],
)
def test_a_pattern_that_says_too_little_is_one_line(text, why):
    with pytest.raises(UserError) as caught:
        Pattern(text)
    assert why in str(caught.value) and str(caught.value).startswith(f"--pattern={text}: ")
