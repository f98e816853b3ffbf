"""File names of a screen: '{plate}/r{row}c{column}f{site}-ch{channel}*.tiff' to where and of what an image is."""

import re
from typing import NamedTuple

from rxrx_jax.base.errors import UserError
from rxrx_jax.base.spellings import SPAN, canonical_well

NUMBER = "[0-9]++"
# What a field matches. A number ends with its digits: ch10 is never channel 1.
FIELDS = {
    "experiment": "",
    "plate": "",
    "well": "[A-Za-z]{1,2}[0-9]{1,3}+",
    "row": f"(?:[A-Za-z]{{1,2}}|{NUMBER})",
    "column": NUMBER,
    "site": NUMBER,
    "channel": "",
}
NAME = f"(?:{NUMBER}|[^/]+?)"
BEFORE_STAR = "[A-Za-z0-9]++"  # where nothing else says where a name ends
CHANNEL_BEFORE_STAR = f"(?:{NUMBER}|[A-Za-z]{BEFORE_STAR}|[A-Za-z])"
TOKEN = re.compile(r"\{(\w*)\}|(\*\*/)|(\*)|(\?)|([^{*?]+|\{)")


class Place(NamedTuple):
    """What a file name says; experiment and channel are '' where the pattern does not name them."""

    experiment: str
    plate: str
    well: str  # A01
    site: int
    channel: str


class Pattern:
    """A parsed pattern; `pattern.match('BR1/r01c02f3-ch5sk1.tiff')` gives a Place, a reason, or None.

    `{field}` is one of FIELDS; `*` is any text and `?` any character within a folder's or file's name, `**/` any
    folders. Raises UserError for a pattern that does not say what is needed.
    """

    def __init__(self, text: str):
        self.text = text
        names, parts = [], []
        tokens = list(TOKEN.finditer(text.removeprefix("./")))
        for i, token in enumerate(tokens):
            name, folders, star, one, literal = token.groups()
            if literal == "{" or (name is not None and name not in FIELDS):
                known = ", ".join(f"{{{field}}}" for field in FIELDS)
                raise UserError(f"--pattern={text}: {token[0]} is not one of {known}")
            if name is not None:
                before_star = i + 1 < len(tokens) and tokens[i + 1][3] is not None
                parts.append(f"(?P={name})" if name in names else f"(?P<{name}>{_field(name, before_star)})")
                names.append(name)
            else:
                parts.append("(?:[^/]+/)*" if folders else "[^/]*" if star else "[^/]" if one else re.escape(literal))
        self.fields = frozenset(names)
        self._match = re.compile("".join(parts)).fullmatch
        self._check()

    def _check(self) -> None:
        missing = {"plate"} - self.fields
        if "well" not in self.fields:
            missing |= {"row", "column"} - self.fields
        elif self.fields & {"row", "column"}:
            raise UserError(f"--pattern={self.text}: use {{well}}, or {{row}} and {{column}}")
        if missing:
            both = " ({well}, or {row} and {column})" if missing & {"row", "column"} else ""
            raise UserError(f"--pattern={self.text}: it does not say {{{min(missing)}}}{both}")

    def match(self, name: str) -> Place | str | None:
        """Returns what a path below the source folder says, why it cannot be, or None if the pattern does not fit."""
        match = self._match(name)
        if match is None:
            return None
        found = match.groupdict()
        name_of_well = found["well"] if "well" in found else f"{found['row']},{found['column']}"
        well = canonical_well(name_of_well)
        if well is None:
            return f"{name_of_well} is not a well of {SPAN}"
        site = int(found.get("site", 1))
        if site >= 10**6:
            return f"site {site} is not below 1,000,000"
        return Place(found.get("experiment", ""), found["plate"], well, site, key_of(found.get("channel", "")))


def _field(name: str, before_star: bool) -> str:
    if FIELDS[name]:
        return FIELDS[name]
    if not before_star:
        return NAME
    return CHANNEL_BEFORE_STAR if name == "channel" else BEFORE_STAR


def key_of(channel: str) -> str:
    """Returns a channel as it is compared: 05 is 5."""
    return str(int(channel)) if re.fullmatch("[0-9]+", channel) else channel
