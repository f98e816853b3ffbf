"""Profiles: rows of embeddings with their columns, from our embeddings files, published ones and anybody's tables."""

import dataclasses
import pathlib
import tempfile
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rxrx_jax.base import embeddings
from rxrx_jax.base.errors import UserError, shortened
from rxrx_jax.maps import exchange, foreign

SUFFIXES = (".parquet", ".csv", ".csv.gz", ".h5ad")
# What tables of others call our columns: RxRx3's metadata and the names that `embed --names=cytominer` writes.
KNOWN_AS = {
    "experiment": ("experiment_name", "Metadata_Batch"),
    "well": ("address",),
    "perturbation": ("treatment",),
    "kind": ("perturbation_type",),
    "concentration_um": ("concentration",),
}
ROW_NAMES = ("site_id", "well_id")


@dataclasses.dataclass(frozen=True)
class Profiles:
    """features [n, d] float32 or float64, their d names; columns, each [n]; path, that they were read from."""

    features: np.ndarray
    columns: dict[str, np.ndarray]
    names: tuple[str, ...]
    path: str = "the profiles"

    def __len__(self) -> int:
        return len(self.features)

    def take(self, rows: np.ndarray) -> "Profiles":
        """These rows, by number or bool [n]."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return dataclasses.replace(self, features=self.features[rows], columns=columns)

    def find(self, name: str) -> np.ndarray | None:
        """The column of this name, or of one that others give it; None without one."""
        for known in (name, *KNOWN_AS.get(name, ()), exchange.METADATA + name, exchange.in_cytominer(name)):
            if known in self.columns:
                return self.columns[known]
        return None

    def column(self, name: str) -> np.ndarray:
        """The same. Raises UserError, with the columns there are, without one."""
        if (found := self.find(name)) is None:
            raise UserError(f"{self.path} has no column {name}; it has {', '.join(sorted(self.columns)) or 'none'}")
        return found

    def row(self, i: int) -> str:
        """How to name row i in a message."""
        for name in ROW_NAMES:
            if (found := self.find(name)) is not None:
                return f"{name} {shortened(str(found[i]))}"
        return f"row {i}"


def read(*paths: pathlib.Path | str, metadata: pathlib.Path | str | None = None) -> Profiles:
    """Reads profiles, and joins the columns of another table to them.

    Args:
      paths: of our embeddings.parquet or the folder it is in, or a folder with a file for each plate; .h5ad; a wide
        table as .parquet, .csv or .csv.gz. Of several, such as one per plate, the rows follow each other, with the
        features and columns that all have.
      metadata: a table without embeddings, one row per value of site_id or well_id, or else of all shared columns.

    Raises UserError for a file that is not such a table, for files without a common feature, and for a row of which the
    metadata say nothing or twice.
    """
    parts = [_read(pathlib.Path(path)) for path in paths]
    found = parts[0] if len(parts) == 1 else _together(parts)
    return found if metadata is None else _joined(found, pathlib.Path(metadata))


def _together(parts: list[Profiles]) -> Profiles:
    first, *others = parts
    names = [name for name in first.names if all(name in one.names for one in others)]
    if not names:
        raise UserError(f"{first.path} and {others[0].path} have no feature in common")
    features = []
    for one in parts:
        place = {name: i for i, name in enumerate(one.names)}
        same = tuple(names) == one.names
        features.append(one.features if same else one.features[:, [place[name] for name in names]])
    columns = {}
    for name in first.columns:
        if all(name in one.columns for one in others):
            values = [one.columns[name] for one in parts]
            kinds = {value.dtype.kind for value in values}
            mixed = "O" in kinds and len(kinds) > 1  # 7 in one file, 007 in another
            columns[name] = np.concatenate([v.astype(str).astype(object) for v in values] if mixed else values)
    return Profiles(np.concatenate(features), columns, tuple(names), f"{first.path} and {len(others)} more")


def _read(path: pathlib.Path) -> Profiles:
    by_plates = (path / embeddings.PLATES).is_dir()
    path = path / embeddings.NAME if path.is_dir() and not by_plates else path
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if not (by_plates or path.name.endswith(SUFFIXES)):
        raise UserError(f"{path}: expected a file named {', '.join(f'*{suffix}' for suffix in SUFFIXES)}")
    if by_plates or _is_own(path):
        columns, features = embeddings.read(path)
        names = [f"embedding_{i}" for i in range(features.shape[1])]
    else:
        columns, features, names = foreign.read(path)
    if not len(features):
        raise UserError(f"{path} has no rows")
    return Profiles(features, columns, tuple(names), str(path))


def write(profiles: Profiles, path: pathlib.Path, names: str = exchange.NAMES[0], metadata=None) -> None:
    """Writes profiles as our embeddings file (.parquet), or as .h5ad, .csv or with other names; features as float32.
    Args: names, one of exchange.NAMES; metadata, of the file (bytes to bytes)."""
    exchange.check(path)
    if exchange.is_own(path, names):
        embeddings.write(path, profiles.columns, profiles.features, metadata)
        return
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        own = pathlib.Path(folder) / embeddings.NAME
        embeddings.write(own, profiles.columns, profiles.features, metadata)
        exchange.write(own, path, names)


def codes(columns: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(number of each row's combination of values [n], in sorted order; a row of each combination [groups])."""
    number = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        _, inner = np.unique(column if column.dtype.kind in "if" else column.astype(str), return_inverse=True)
        _, number = np.unique(number * (inner.max() + 1) + inner, return_inverse=True)
    return number, np.unique(number, return_index=True)[1]


def check(profiles: Profiles, drop: bool = False) -> tuple[Profiles, dict[str, int]]:
    """Profiles of which every row can be used, and how many rows and features were left out, by reason.

    Raises UserError, naming the first row or feature, unless they are to be dropped: rows with NaN or infinite values,
    rows of zeros, features that are the same in every row, rows that are there twice with all they say. Two rows of one
    site or well that differ cannot be dropped, as nobody knows which is right.
    """
    profiles, repeats = _once(profiles, drop)
    x = profiles.features
    finite = np.isfinite(x).all(1)
    zero = finite & ~x.any(1)
    good = finite & ~zero
    constant = np.zeros(x.shape[1], bool) if good.sum() < 2 else (x[good] == x[good][0]).all(0)
    dropped = {"rows not finite": int((~finite).sum()), "rows of zeros": int(zero.sum()),
               "rows that are there twice": repeats, "constant features": int(constant.sum())}  # fmt: skip
    advice = "; --drop-invalid leaves such out and counts them"
    if not drop and not finite.all():
        i = int(np.flatnonzero(~finite)[0])
        name = profiles.names[int(np.flatnonzero(~np.isfinite(x[i]))[0])]
        raise UserError(f"{profiles.path}: {profiles.row(i)} has a NaN or infinite value of {name}{advice}")
    if not drop and zero.any():
        raise UserError(f"{profiles.path}: {profiles.row(int(np.flatnonzero(zero)[0]))} has only zeros{advice}")
    if not drop and constant.any():
        name = profiles.names[int(np.flatnonzero(constant)[0])]
        raise UserError(f"{profiles.path}: feature {name} is the same in every row{advice}")
    if not good.any() or constant.all():
        raise UserError(f"{profiles.path}: no row or no feature is left without the invalid ones")
    if not good.all():
        profiles = profiles.take(good)
    if constant.any():
        names = tuple(name for name, same in zip(profiles.names, constant) if not same)
        profiles = dataclasses.replace(profiles, features=profiles.features[:, ~constant], names=names)
    return profiles, dropped


def _once(profiles: Profiles, drop: bool) -> tuple[Profiles, int]:
    """(the rows without those that are there twice, how many these were). A row is known by its site, or by its well
    and the number of its site there, or else by all that it holds."""
    site, well, number = (profiles.find(name) for name in ("site_id", "well_id", "site"))
    by = [site] if site is not None else [] if well is None else [well] if number is None else [well, number]
    values = [one.tolist() for one in profiles.columns.values()]
    text = lambda i: [str(one[i]) for one in values]  # noqa: E731  # NaN equals NaN
    key = list(zip(*(one.tolist() for one in by))) if by else None
    seen: dict = {}
    kept = np.ones(len(profiles), bool)
    for i, row in enumerate(profiles.features):
        first = seen.setdefault(key[i] if key else (row.tobytes(), *text(i)), i)
        if first == i:
            continue
        kept[i] = False
        same = row.tobytes() == profiles.features[first].tobytes() and text(i) == text(first)
        if not (drop and same):
            advice = "; --drop-invalid leaves one out and counts it" if same else ", and they differ: remove one"
            where = f"rows {first} and {i}" if by else f"also row {first}"
            raise UserError(f"{profiles.path}: {profiles.row(i)} is there twice, {where}{advice}")
    return profiles if kept.all() else profiles.take(kept), int((~kept).sum())


def _is_own(path: pathlib.Path) -> bool:
    if path.suffix != ".parquet":
        return False
    try:
        form = pq.read_schema(path)
    except (pa.ArrowException, OSError):
        return True  # its reader says what is wrong
    return embeddings.EMBEDDING in form.names


def _joined(profiles: Profiles, path: pathlib.Path) -> Profiles:
    if not path.exists():
        raise UserError(f"{path} does not exist")
    about = foreign.read_columns(path)
    shared = [name for name in profiles.columns if name in about]
    keys = next(([name] for name in ROW_NAMES if name in shared), shared)
    if not keys:
        raise UserError(f"{path} shares no column with {profiles.path}, such as well_id, to join it by")
    key = lambda columns: list(zip(*(map(str, columns[name].tolist()) for name in keys)))  # noqa: E731
    place: dict[tuple, int] = {}
    for i, one in enumerate(key(about)):
        if place.setdefault(one, i) != i:
            raise UserError(f"{path} has two rows of {', '.join(keys)} {shortened(' '.join(one))}")
    try:
        rows = np.array([place[one] for one in key(profiles.columns)])
    except KeyError as error:
        raise UserError(f"{path} has no row of {', '.join(keys)} {shortened(' '.join(error.args[0]))}") from error
    added = {name: values[rows] for name, values in about.items() if name not in profiles.columns}
    return dataclasses.replace(profiles, columns=profiles.columns | added)
