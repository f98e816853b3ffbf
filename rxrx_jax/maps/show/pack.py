"""What the page of a map holds: neighbours, nulls, doses and rows of bytes, small enough for one file.

Cosines that the heat map shows are made in the browser, of rows of eight bits, and neighbours' are stored.
"""

import base64
import dataclasses
from typing import Any

import numpy as np

from rxrx_jax.maps import relate
from rxrx_jax.maps.benchmark.genome import ARMS, Genome
from rxrx_jax.maps.benchmark.relations import Relations
from rxrx_jax.maps.build.arms import arm_numbers
from rxrx_jax.maps.folder import Map
from rxrx_jax.maps.show import order, query
from rxrx_jax.maps.show.query import KINDS, Entities, Nearest

TOP = 50  # neighbours of each
VALUES = 128  # of a row, at most: the largest principal axes of a longer one
CHECKED = 1_000  # rows whose cosines are compared with those of bytes
TAIL = np.geomspace(1e-6, 1e-3, 31)
SHARES = np.unique(np.concatenate([TAIL, np.linspace(0, 1, 1001), 1 - TAIL]))  # at which a null is kept


@dataclasses.dataclass(frozen=True)
class Packed:
    """data, for the page's scripts; views, of the heat map, by title; error, the largest difference of a cosine there
    from the exact one; nearest, of all."""

    data: dict[str, Any]
    views: list[str]
    error: float
    nearest: Nearest


def array(values: np.ndarray) -> list[str]:
    """An array as the page reads it: its type and its bytes."""
    name = {"i1": "Int8", "u1": "Uint8", "i2": "Int16", "u2": "Uint16", "u4": "Uint32", "f4": "Float32"}
    values = np.ascontiguousarray(values)
    little = values.astype(values.dtype.newbyteorder("<"))
    return [f"{name[values.dtype.str[1:]]}Array", base64.b64encode(little.tobytes()).decode()]


def pack(found: Map, entities: Entities, known: list[Relations], genome: Genome | None) -> Packed:
    """All of it. Args: known, whose pairs are shown with neighbours; genome, for chromosome arms."""
    start, genes = entities.start, int((entities.kind == KINDS[0]).sum())
    near = query.nearest(entities, 0, len(start) - 1, min(TOP, max(1, len(start) - 2)))
    width = np.uint16 if len(entities.u) < 2**16 - 1 else np.uint32
    rows, scale, error = small(entities.u)
    views = _views(entities, genes, genome)
    arm = arm_numbers(entities.name[:genes], genome) if genome is not None else np.full(genes, -1)
    data = {
        "names": entities.name[start[:-1]].tolist(), "genes": genes, "start": array(start.astype(np.uint32)),
        "dose": [None if np.isnan(dose) else float(dose) for dose in entities.dose[genes:]],
        "rows": array(rows), "scale": array(scale), "top": near.other.shape[1],
        "other": array(near.other.astype(width)), "own": array(near.own[genes:].astype(width)),  # -1: the largest
        "cosine": array(np.rint(np.nan_to_num(near.cosine) * 32767).astype(np.int16)),
        "nulls": _nulls(entities), "shares": np.round(SHARES, 9).tolist(), "known": _known(entities, near, known),
        "arm": array(np.where(arm < 0, 255, arm).astype(np.uint8)), "arms": list(ARMS),
        "counts": array(_counts(found, entities)), "curves": _curves(entities, genes, near),
        "limits": [cosine_limit(entities, kind) for kind in KINDS],
        "views": [{"order": array(one.astype(np.uint32)), "spans": spans} for _, one, spans in views],
    }  # fmt: skip
    return Packed(data, [title for title, *_ in views], error, near)


def small(u: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """(unit rows u [n, d] in bytes, int8 [n, at most VALUES]; what each is to be multiplied by, float32 [n]; the
    largest error of a cosine among some rows)."""
    rows = u
    if u.shape[1] > VALUES:
        rows = u @ np.linalg.eigh(u.T @ u)[1][:, -VALUES:]
    scale = (np.abs(rows).max(1) / 127).astype(np.float32)
    scale[scale == 0] = 1
    made = np.rint(rows / scale[:, None].astype(float)).astype(np.int8)
    some = np.unique(np.linspace(0, len(u) - 1, min(CHECKED, len(u))).astype(int))
    back = made[some] * scale[some, None].astype(float)
    apart = np.abs(back @ back.T - u[some] @ u[some].T)
    np.fill_diagonal(apart, 0)
    return made, scale, float(apart.max(initial=0))


def _views(entities: Entities, genes: int, genome: Genome | None) -> list[tuple[str, np.ndarray, list]]:
    """(title, rows, names of parts of them) of each order of the heat map."""
    made: list[tuple[str, np.ndarray, list]] = []
    if genes > 1:
        made.append(("genes, clustered", order.clustered(entities.u[:genes]), []))
        if genome is not None:
            made.append(("genes, along the genome", *order.along_genome(entities.name[:genes], genome)))
    if len(entities.u) - genes > 1:
        made.append(("compounds at each dose, clustered", genes + order.clustered(entities.u[genes:]), []))
    return made


def _nulls(entities: Entities) -> dict[str, list[str]]:
    """By two kinds the cosines at SHARES."""
    made = {}
    for one, other in ((0, 0), (0, 1), (1, 1)):
        null = entities.null(KINDS[one], KINDS[other])
        if len(null):
            at = np.rint(SHARES * (len(null) - 1)).astype(np.int64)
            made[f"{one}{other}"] = array(null[at].astype(np.float32))
    return made


def _known(entities: Entities, near: Nearest, known: list[Relations]) -> dict[str, Any]:
    """Which neighbours are known from which source: places in `near.other`, and numbers of sources."""
    start, n = entities.start, len(entities.start) - 1
    of = np.repeat(np.arange(n), np.diff(start))
    first = np.repeat(np.arange(n), near.other.shape[1])
    second = np.where(near.other < 0, -1, of[near.other]).ravel()
    code = np.where(second < 0, -1, np.minimum(first, second) * n + np.maximum(first, second))
    at, source = [], []
    for number, one in enumerate(known):
        i, j = one.among(entities.name[start[:-1]])
        found = np.flatnonzero(np.isin(code, np.minimum(i, j) * n + np.maximum(i, j)))
        at.append(found)
        source.append(np.full(len(found), number))
    both = [np.concatenate(part) if part else np.zeros(0, int) for part in (at, source)]
    names = [one.name for one in known]
    return {"sources": names, "at": array(both[0].astype(np.uint32)), "of": array(both[1].astype(np.uint16))}


def _counts(found: Map, entities: Entities) -> np.ndarray:
    """Of each row of the entities: rows of the map, their replicates, the most batches of one, uint32 [e, 3]."""
    made = np.zeros((len(entities.u), 3), np.uint32)
    here = entities.row_of >= 0
    rows = entities.row_of[here]
    np.add.at(made[:, 0], rows, 1)
    np.add.at(made[:, 1], rows, found.columns["n_replicates"][here].astype(np.uint32))
    np.maximum.at(made[:, 2], rows, found.columns["n_batches"][here].astype(np.uint32))
    return made


def _curves(entities: Entities, genes: int, near: Nearest) -> dict[str, dict[str, Any]]:
    """By number of a compound of several doses its `query.dose_response`, of the gene that is nearest."""
    made = {}
    for i in range(genes, len(entities.start) - 1):
        others = near.other[i][(near.other[i] >= 0) & (near.other[i] < genes)]
        target = entities.name[others[0]] if len(others) else None
        curve = query.dose_response(entities, entities.name[entities.start[i]], target)
        if curve is not None:
            made[str(i)] = {key: _rounded(value) for key, value in curve.items()}
    return made


def _rounded(value):
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return value if isinstance(value, str) else float(f"{value:.4g}") if np.isfinite(value) else None


def cosine_limit(entities: Entities, kind: str) -> float:
    """The |cosine| that one pair in 200 of a kind exceeds."""
    null = np.abs(entities.null(kind, kind))
    return float(relate.order_statistics(null, [int(0.995 * (len(null) - 1))])[0]) if len(null) else 1.0
