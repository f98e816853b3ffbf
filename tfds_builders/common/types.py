"""What readers, the plan and the plates pass to each other. Imports nothing heavy, so that workers start fast."""

import dataclasses
from collections.abc import Iterable
from typing import Any, NamedTuple

# The columns of sites.csv, the same for every dataset; a builder may add its own.
SITE_COLUMNS = (
    "split",
    "site_id",
    "well_id",
    "cell_type",
    "experiment",
    "plate",
    "well",
    "site",
    "well_type",
    "perturbation",
    "perturbation_id",
)


class BadSite(Exception):
    """A site's image cannot be used; the message is the reason that the report gives."""


class SetAside(NamedTuple):
    """A site that does not become a record; experiment and split are '' when its row does not say."""

    site_id: str
    reason: str
    experiment: str = ""
    split: str = ""


@dataclasses.dataclass
class Table:
    """What a source's tables hold, before any image is read; facts and notes are complete when rows are exhausted."""

    rows: Iterable[dict[str, Any] | SetAside]  # one per site, in any order
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)  # into metadata.json and the report
    notes: list[str] = dataclasses.field(default_factory=list)  # what a user should know, one sentence each
    classes: int | None = None  # number of perturbation ids; None: as many as there are names
