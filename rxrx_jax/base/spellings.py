"""The words of a table of sites, and how tables spell the same thing: a well, and a cell that is missing."""

import functools
import re

SPLITS = ("train", "id_test", "val", "test")  # of the shards that hold the records; a record's role is a protocol's
WELL_TYPES = TREATMENT, POSITIVE_CONTROL, NEGATIVE_CONTROL = ("treatment", "positive_control", "negative_control")
REPEATED = "HUVEC-18"  # of RxRx1: its layout is RPE-03's with the plates shifted, so its labels are as good as known
UNSPECIFIED = "unspecified"  # a cell type that a table does not say
ROWS = [*"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "AA", "AB", "AC", "AD", "AE", "AF"]  # of a plate of 1,536 wells, top to bottom
COLUMNS = 48
SPAN = f"A01..{ROWS[-1]}{COLUMNS}"  # for messages
MISSING = ("none", "nan", "na", "n/a", "null", "-", "<na>")  # a blank cell, in any case


def is_missing(text: str) -> bool:
    """Whether a cell without spaces around it says nothing."""
    return not text or text.lower() in MISSING


@functools.lru_cache(4096)
def canonical_well(text: str) -> str | None:
    """The name A01 of A1, a01, A001 or '1,1' (row, column); None if it is not a well."""
    match = re.fullmatch(r"([A-Za-z]{1,2}|\d+),?(\d{1,3})", text.replace(" ", ""), re.ASCII)
    if not match or (match[1].isdigit() and "," not in text):
        return None
    row, column = match[1].upper(), int(match[2])
    if row.isdigit():
        row = ROWS[int(row) - 1] if 1 <= int(row) <= len(ROWS) else ""
    return f"{row}{column:02d}" if row in ROWS and 1 <= column <= COLUMNS else None
