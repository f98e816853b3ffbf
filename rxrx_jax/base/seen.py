"""What parameters have seen: the sites whose labels, images or control labels took part in making them.

A run keeps it as seen.parquet beside config.json, united with that of the run it started from; exported weights and
embeddings carry it on. A site is known by its pixels (`data.pixel_digests`), so that neither another dataset's name nor
a copy hides it and the same site id in another simulated world is another site; site ids are there to be read.
"""

import dataclasses
import functools
import hashlib
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from rxrx_jax.base import files
from rxrx_jax.base.errors import UserError, reason

NAME = "seen.parquet"
KINDS = ("labels", "images", "controls")
MARKS = "TCX?"  # of metrics, in order; what they mean says `rxrx_jax.training.provenance.marks`
# `labels` names the stage that used the label, null where none did.
FORM = pa.schema(
    [
        ("site_id", pa.string()),
        ("pixels", pa.uint64()),
        ("labels", pa.string()),
        ("images", pa.bool_()),
        ("controls", pa.bool_()),
    ]
)
UNKNOWN, SUM = b"unknown", b"sha256"  # of the schema's metadata; a file of an earlier version has no sum


@dataclasses.dataclass(frozen=True)
class Seen:
    """rows: a table of FORM, each image once; unknown: names of the weights that training started from and of which it
    is not known what they have seen."""

    rows: pa.Table = dataclasses.field(default_factory=FORM.empty_table)
    unknown: tuple[str, ...] = ()

    @functools.cached_property
    def pixels(self) -> dict[str, np.ndarray]:
        """The sorted digests of the images seen as each of KINDS: uint64 [n]."""
        digests = self.rows["pixels"].to_numpy()
        return {kind: np.sort(digests[self._as(kind)]) for kind in KINDS}

    def count(self, kind: str) -> int:
        """How many sites were seen as `kind`."""
        return len(self.pixels[kind])

    def _as(self, kind: str) -> np.ndarray:
        column = self.rows[kind]
        return np.asarray(column.is_valid() if kind == "labels" else column, bool)

    def hits(self, kind: str, digests: np.ndarray) -> np.ndarray:
        """Which of the digests, uint64 [n], were seen as `kind`: bool [n]."""
        return among(self.pixels[kind], digests)

    def stage(self, digest: np.uint64) -> str:
        """The stage that used the label of an image that was seen."""
        return self.rows["labels"][int(np.flatnonzero(self.rows["pixels"].to_numpy() == digest)[0])].as_py()

    def stages(self) -> list[str]:
        """The stages that used labels, sorted."""
        return sorted(filter(None, self.rows["labels"].unique().to_pylist()))

    def to_bytes(self, names: bool = True) -> bytes:
        """As the content of a Parquet file, about 12 bytes per site, 9 without the site ids."""
        rows = self.rows
        if not names:
            rows = rows.set_column(0, FORM.field(0), pa.array([""]).take(pa.array(np.zeros(len(rows), np.int32))))
        metadata = {UNKNOWN: "\n".join(self.unknown).encode()}
        metadata[SUM] = _digest(rows, metadata[UNKNOWN])
        content = io.BytesIO()
        pq.write_table(
            rows.cast(FORM).replace_schema_metadata(metadata),
            content,
            compression="zstd",
            write_page_checksum=True,
            use_dictionary=["labels"],
            column_encoding={"site_id": "DELTA_BYTE_ARRAY", "pixels": "PLAIN"},
        )
        return content.getvalue()


def among(known: np.ndarray, digests: np.ndarray) -> np.ndarray:
    """Which of the digests [n] are in `known`, sorted: bool [n]. Four times faster than np.isin."""
    if not len(known):
        return np.zeros(len(digests), bool)
    return known[np.minimum(np.searchsorted(known, digests), len(known) - 1)] == digests


def of_rows(dataset, digests: np.ndarray, stage: str, **rows: np.ndarray) -> Seen:
    """What `stage` sees of a dataset. Args: digests, uint64 [n], of all of its rows; rows, by one of KINDS, int [m]."""
    whole = {kind: np.zeros(len(digests), bool) for kind in KINDS}
    for kind, chosen in rows.items():
        whole[kind][chosen] = True
    taking_part = np.flatnonzero(np.logical_or.reduce([*whole.values()]))
    member = {kind: mask[taking_part] for kind, mask in whole.items()}
    columns = [
        pa.array(dataset.sites.site_id[taking_part], pa.string()),
        pa.array(digests[taking_part]),
        pa.array([None, stage], pa.string()).take(pa.array(member["labels"].astype(np.int32))),
        pa.array(member["images"]),
        pa.array(member["controls"]),
    ]
    return unite(Seen(pa.Table.from_arrays(columns, schema=FORM)))


def unite(*parts: Seen) -> Seen:
    """What any of the parts has seen; of an image seen twice the first site id and the first stage stay."""
    whole = pa.concat_tables([part.rows for part in parts])
    kept = [("site_id", "first"), ("labels", "first"), ("images", "any"), ("controls", "any")]
    found = whole.group_by("pixels", use_threads=False).aggregate(kept)
    names = {"pixels": "pixels"} | {f"{name}_{how}": name for name, how in kept}
    found = found.rename_columns([names[name] for name in found.column_names]).select(FORM.names)
    return Seen(found.cast(FORM), tuple(dict.fromkeys(name for part in parts for name in part.unknown)))


def from_bytes(content: bytes) -> Seen:
    """Raises ValueError if it is not such a table."""
    table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
    about, rows = table.schema.metadata or {}, table.select(FORM.names).cast(FORM)
    unknown = about.get(UNKNOWN, b"")
    if SUM in about and _digest(rows, unknown) != about[SUM]:
        raise ValueError("it is not what was written")
    return Seen(rows, tuple(filter(None, unknown.decode().split("\n"))))


def _digest(rows: pa.Table, unknown: bytes) -> bytes:
    """Of all that decides what has been seen; site ids, which are there to be read, have their page's checksum."""
    digest = hashlib.sha256(unknown)
    for name in ("pixels", "images", "controls"):
        digest.update(np.asarray(rows[name]).tobytes())
    labels = rows["labels"].fill_null("").combine_chunks().dictionary_encode()
    names, place = np.unique(np.array(labels.dictionary.to_pylist(), str), return_inverse=True)
    codes = place[np.asarray(labels.indices)]
    digest.update("\0".join(names.tolist()).encode() + codes.astype("<i8").tobytes())
    return digest.hexdigest().encode()


def read(path: epath.PathLike) -> Seen | None:
    """The file of a run or of an exported folder; None if it does not exist. Raises UserError if it cannot be read."""
    path = epath.Path(path)
    if not path.exists():
        return None
    try:
        with files.opened(path, "put back a copy of it") as file:
            return from_bytes(file.read())
    except UserError:
        raise
    except (OSError, ValueError, LookupError, pa.ArrowException) as error:
        raise UserError(
            f"{path} cannot be read ({reason(error)}): put back a copy of it, or delete it, and what these parameters "
            "have seen counts as unknown"
        ) from error


def write(path: epath.PathLike, seen: Seen) -> None:
    """Writes the file, which appears when complete."""
    files.write(path, seen.to_bytes())


def in_words(seen: Seen) -> str:
    """One sentence for a person: how much was seen, and as what."""
    counts = [f"{noun} {seen.count(kind):,} sites" for kind, noun in
              (("labels", "the labels of"), ("images", "the images of"), ("controls", "the control labels of"))
              if seen.count(kind)]  # fmt: skip
    words = " and ".join(", ".join(counts).rsplit(", ", 1)) if len(counts) < 3 else ", ".join(counts)
    text = f"seen: {words or 'nothing'}"
    return text + (f"; unknown, what {', '.join(seen.unknown)} had seen before" if seen.unknown else "")


def join(*marks: str) -> str:
    """The marks of all, each once and in order."""
    return "".join(mark for mark in MARKS if any(mark in some for some in marks))
