"""`build`: profiles of wells become a folder with a map.

map.parquet          one row per perturbation: perturbation, kind (gene, compound, control), gene, guide,
                     concentration_um, n_replicates, n_batches, embedding
replicates.parquet   the aligned wells, and which row of the map they are of (`map_row`)
aligner.npz          what was fitted, to align other wells of these batches
build.json           how it was made, and what was left out
"""

import dataclasses
import json
import pathlib
import re

import numpy as np

from rxrx_jax.base import embeddings, files
from rxrx_jax.base.errors import UserError, shortened
from rxrx_jax.base.seen import join
from rxrx_jax.base.spellings import NEGATIVE_CONTROL, canonical_well, is_missing
from rxrx_jax.maps import table
from rxrx_jax.maps.benchmark import genome as genomes
from rxrx_jax.maps.build import align, arms
from rxrx_jax.maps.build.aggregate import HOW, aggregate
from rxrx_jax.maps.table import Profiles

MAP, REPLICATES, ALIGNER, FACTS = "map.parquet", "replicates.parquet", "aligner.npz", "build.json"
GUIDE = re.compile(r"(.+)_guide_(\w+)")  # of RxRx3's treatments


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a map is made; the fields are the options of `build`."""

    align: str = "none"
    batch: str = ""
    controls: str = ""
    aggregate: str = "mean"
    by: str = ""
    arms: str = ""
    drop_invalid: bool = False


def build(source: Profiles, out: pathlib.Path, settings: Settings, genome=None, expression=None) -> dict:
    """Makes a map of profiles in the folder `out` and returns what build.json says.

    Args: genome, a `benchmark.genome.Genome`, needed with settings.arms; expression, gene -> zFPKM, or None for all
    genes to count as unexpressed.
    Raises UserError for what cannot be used, naming the row or column.
    """
    if settings.aggregate not in HOW:
        raise UserError(f"--aggregate={settings.aggregate}: expected {', '.join(HOW)}")
    if settings.arms and genome is None:
        raise UserError(f"--arms={settings.arms} needs to know where genes lie: --genome=FILE")
    profiles, dropped = table.check(source, settings.drop_invalid)
    by = [name for name in settings.by.split(",") if name] or _usual(profiles)
    columns = [profiles.column(name) for name in by]
    named = np.array([not is_missing(str(name).strip()) for name in columns[0].tolist()])
    dropped["rows without " + by[0]] = int((~named).sum())
    if not named.all():
        profiles = profiles.take(named)
        columns = [column[named] for column in columns]
    if not len(profiles):
        raise UserError(f"{profiles.path}: no row has a {by[0]}")
    profiles, dropped["rows without a dose"] = _dosed(profiles, by, settings)
    columns = [profiles.column(name) for name in by]
    batch = batches(profiles, settings.batch, settings.align)
    is_control = controls(profiles, settings.controls, by[0])
    well = wells(profiles) if align.needs_wells(settings.align) else None
    aligner, x = align.fit(settings.align, profiles.features, batch, is_control, well=well)

    codes, first = table.codes([*columns, is_control])
    centres, counts = aggregate(x, codes, settings.aggregate)
    about = _about(profiles.take(first), by, is_control[first])
    _check_labels(about, profiles.path)
    pairs = np.unique(np.stack([codes, np.unique(batch, return_inverse=True)[1]]), axis=1)
    about |= {
        "n_replicates": counts.astype(np.int32),
        "n_batches": np.bincount(pairs[0], minlength=len(counts)).astype(np.int32),
    }
    facts = {
        **dataclasses.asdict(settings), "by": by, "rows": len(source), "dropped": dropped, "features": x.shape[1],
        "controls_found": int(is_control.sum()), "batches": len(np.unique(batch)),
        "kinds": {str(kind): int(n) for kind, n in zip(*np.unique(about["kind"].astype(str), return_counts=True))},
        "marks": aligner.marks,
    }  # fmt: skip
    if settings.arms:
        centres, facts["arm_centring"] = arms.centred(centres, about, genome, expression, settings.arms)
    metadata, facts["marks"] = _provenance(source.path, aligner.marks)
    _write(out, about, centres, codes, x, batch, is_control, profiles, metadata)
    aligner.save(out / ALIGNER)
    files.write(out / FACTS, json.dumps(facts, indent=1) + "\n")
    return facts


def batches(profiles: Profiles, names: str, alignment: str) -> np.ndarray:
    """The batch of each row, text as object [n]: the values of the columns `names`, which have commas between them; by
    default of the column experiment, or one for all where there is none and nothing is aligned. Raises UserError for a
    missing column and a row without a batch."""
    if not names and alignment == "none" and profiles.find("experiment") is None:
        return np.full(len(profiles), "all", object)
    names = names or "experiment"
    columns = [profiles.column(name) for name in names.split(",")]
    text = np.array(["/".join(map(str, values)) for values in zip(*(c.tolist() for c in columns))], object)
    if (empty := np.array([is_missing(one) for one in text])).any():
        raise UserError(f"{profiles.path}: {profiles.row(int(np.flatnonzero(empty)[0]))} has no {names}")
    return text


def wells(profiles: Profiles) -> np.ndarray:
    """The well of each row such as B02, text as object [n]. Raises UserError for a row without one."""
    found = [canonical_well(str(one)) for one in profiles.column("well").tolist()]
    if None in found:
        i = found.index(None)
        given = shortened(str(profiles.column("well")[i]))
        raise UserError(f"{profiles.path}: {profiles.row(i)} has the well {given!r}, which is not one such as B02")
    return np.array(found, object)


def controls(profiles: Profiles, wanted: str, label: str) -> np.ndarray:
    """Which rows are controls, bool [n]: those with `wanted` in the column `label`, or in one that COLUMN=NAME names;
    negative controls where nothing is wanted and there is a column well_type. Raises UserError where no row is one."""
    if not wanted:
        kinds = profiles.find("well_type")
        return np.zeros(len(profiles), bool) if kinds is None else kinds == NEGATIVE_CONTROL
    column, _, name = wanted.rpartition("=")
    values = profiles.column(column or label).astype(str)
    found = values == name
    if not found.any():
        there = ", ".join(np.unique(values)[:5].tolist())
        raise UserError(f"--controls={wanted}: no row has {name} in {column or label}, but {shortened(there)} ...")
    return found


def _dosed(profiles: Profiles, by: list[str], settings: Settings) -> tuple[Profiles, int]:
    """(the rows without those that have no dose while others of their perturbation have one, which would be taken for
    another perturbation; how many these were); controls stay. Raises UserError for the first, unless told to drop."""
    dose = profiles.find("concentration_um")
    if "concentration_um" not in by or dose is None or dose.dtype.kind != "f":
        return profiles, 0
    label = profiles.column(by[0]).astype(str)
    bad = np.isnan(dose) & np.isin(label, label[~np.isnan(dose)]) & ~controls(profiles, settings.controls, by[0])
    if bad.any() and not settings.drop_invalid:
        i = int(np.flatnonzero(bad)[0])
        others = f"and others of {shortened(label[i])} have one; --drop-invalid leaves such out and counts them"
        raise UserError(f"{profiles.path}: {profiles.row(i)} has no concentration_um, {others}")
    return profiles.take(~bad) if bad.any() else profiles, int(bad.sum())


def _usual(profiles: Profiles) -> list[str]:
    dose = profiles.find("concentration_um")
    return ["perturbation"] + (["concentration_um"] if dose is not None and dose.dtype.kind in "if" else [])


def _about(rows: Profiles, by: list[str], is_control: np.ndarray) -> dict[str, np.ndarray]:
    """The columns of map.parquet that say what each row is."""
    n, label = len(rows), rows.column(by[0]).astype(str)
    text = lambda name: [""] * n if rows.find(name) is None else rows.find(name).astype(str).tolist()  # noqa: E731
    dose = rows.find("concentration_um") if "concentration_um" in by else None
    if dose is None:
        dose = np.full(n, np.nan)
    elif dose.dtype.kind not in "if":
        raise UserError(f"{rows.path}: the column concentration_um must hold numbers")
    guides = [GUIDE.fullmatch(name) for name in label.tolist()]
    kind, gene, guide = [], [], []
    for i, (said, own, treated) in enumerate(zip(text("kind"), text("gene"), text("SMILES"))):
        compound = said.upper() == "COMPOUND" or (not said and (np.isfinite(dose[i]) or not is_missing(treated)))
        kind.append("control" if is_control[i] else "compound" if compound else "gene")
        own = "" if is_missing(own) else own
        gene.append((own or (guides[i][1] if guides[i] else label[i])) if kind[i] == "gene" else "")
        guide.append(guides[i][2] if guides[i] else "")
    if "guide" in by:
        guide = text("guide")
    columns = {"perturbation": label, "kind": kind, "gene": gene, "guide": guide}
    return {name: np.array(values, object) for name, values in columns.items()} | {
        "concentration_um": np.asarray(dose, float)
    }


def _check_labels(about: dict[str, np.ndarray], path: str) -> None:
    labels = [about[name].tolist() for name in ("perturbation", "guide", "concentration_um")]
    seen = set()
    for one in zip(*labels):
        one = tuple("" if is_missing(str(value)) else str(value) for value in one)
        if one in seen:
            raise UserError(f"{path}: two rows of the map would be {' '.join(filter(None, one))}: --by must tell them "
                            "apart by perturbation, guide and concentration_um alone")  # fmt: skip
        seen.add(one)


def _provenance(path: str, marks: str) -> tuple[dict[bytes, bytes] | None, str]:
    """Metadata of map.parquet with what the embeddings' parameters have seen, and the marks of what is computed on it:
    those of the embeddings, "?" where they say nothing, and of the alignment."""
    own = pathlib.Path(path)
    told = embeddings.read_provenance(own) if own.is_dir() or own.suffix == ".parquet" and own.exists() else None
    if told is None:
        return {embeddings.MARKS: join("?", marks).encode()}, join("?", marks)
    return embeddings.provenance(join(told[0], marks), told[1]), join(told[0], marks)


def _write(out, about, centres, codes, x, batch, is_control, profiles, metadata) -> None:
    out.mkdir(parents=True, exist_ok=True)
    columns = {"map_row": codes.astype(np.int32), "batch": batch, "is_control": is_control.astype(np.int32)}
    for name in ("well_id", "plate", "well"):
        if (found := profiles.find(name)) is not None:
            columns[name] = found.astype(str)
    embeddings.write(out / REPLICATES, columns, x.astype(np.float32), metadata)
    embeddings.write(out / MAP, about, centres.astype(np.float32), metadata)


def read_genome(genome: pathlib.Path | None, expression: pathlib.Path | None):
    """(Genome or None, gene -> zFPKM or None) of the files that options name."""
    found = genomes.read(genome) if genome else None
    return found, genomes.read_expression(expression) if expression else None
