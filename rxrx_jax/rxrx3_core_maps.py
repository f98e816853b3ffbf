"""Maps of RxRx3-core from one kind of features, scored as its authors do; `python -m rxrx_jax.reproduce rxrx3_core
--data=DIR --out=DIR` runs it.

    python -m rxrx_jax.rxrx3_core_maps --config=rxrx_jax/rxrx3_core_maps.py:features=published --workdir=DIR \
        --config.data.folder=DIR

data.folder holds benchmark_annotations/, copied from EFAAR_benchmarking (CORUM.txt and so on, with
compound_gene_interactions.csv); for published features also metadata_rxrx3_core.csv and
OpenPhenom_rxrx3_core_embeddings.parquet, from Hugging Face; for the others the prepared dataset. features: pretrained,
of the run in init.path; untrained, of the encoder that the config `encoder` names, with fresh parameters; handcrafted,
image statistics, and handcrafted_spatial, these with spatial ones; published. The workdir gets features.parquet,
config.json and metrics.jsonl, whose last evaluation has map/NAME of `rxrx_jax.maps.benchmark.rxrx3_core`.
"""

import pathlib
import sys

import ml_collections
import numpy as np

from rxrx_jax.base import command, config, config_flag, embeddings, files
from rxrx_jax.base.config import parse_arguments
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.seen import join
from rxrx_jax.base.spellings import is_missing
from rxrx_jax.maps import foreign, table
from rxrx_jax.maps.benchmark import compounds, relations
from rxrx_jax.maps.benchmark import rxrx3_core as benchmark
from rxrx_jax.maps.build.aggregate import aggregate

NAME = "rxrx3_core"
HANDCRAFTED = ("handcrafted", "handcrafted_spatial")
FEATURES = ("pretrained", "untrained", *HANDCRAFTED, "published")
ENCODER = f"channel_agnostic_mae.py:data={NAME},paper=True,openphenom=True"  # CA-MAE-S/16 with OpenPhenom's decoder
METADATA, PUBLISHED = "metadata_rxrx3_core.csv", "OpenPhenom_rxrx3_core_embeddings.parquet"
ANNOTATIONS, TARGETS = "benchmark_annotations", "compound_gene_interactions.csv"
OWN, MINIBATCH = "features.parquet", 64


def get_config(argument=None):
    arg = parse_arguments(argument, features="published", seed=0)
    if arg.features not in FEATURES:
        raise UserError(f"config argument features={arg.features}: expected {', '.join(FEATURES)}")
    data = {"folder": ""} if arg.features == "published" else {"name": NAME, "folder": "", "builder": {}}
    made = {"features": arg.features, "data": data, "draws": benchmark.DRAWS, "seed": arg.seed}
    made |= {"init": {"path": ""}} if arg.features == "pretrained" else {}
    made |= {"encoder": ENCODER} if arg.features in ("untrained", *HANDCRAFTED) else {}
    return ml_collections.ConfigDict(made)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    run(*config_flag.run_arguments("rxrx3_core_maps", __doc__, "features=published", argv))


def run(values: dict, workdir: pathlib.Path) -> None:
    """Makes the features unless the workdir has them, and scores them. Raises UserError for what is missing."""
    if not values["data"]["folder"]:
        raise UserError("--config.data.folder: name the folder with RxRx3-core's files; `reproduce` takes --data=DIR")
    folder = pathlib.Path(values["data"]["folder"])
    known = relations.read_folder(folder / ANNOTATIONS)
    targets = compounds.read(folder / ANNOTATIONS / TARGETS)

    from rxrx_jax.training.provenance.recorded import recorded  # with jax, when the files are known to be there

    if values["features"] == "published":
        about = foreign.read_columns(folder / METADATA)
        data = f"{PUBLISHED} {files.sha256(folder / PUBLISHED, embeddings.AGAIN)}"
        wells, x, marks = *read_published(folder / PUBLISHED), "?"
    else:
        about, data = _from_images(values, workdir)
        columns, x = embeddings.read(workdir / OWN)
        told = embeddings.read_provenance(workdir / OWN)
        images = "T" if "seen" in columns and (columns["seen"] != "").any() else ""  # by pretraining on them
        wells, x = by_well(columns["well_id"], x)
        marks = join(told[0] if told else "?", images)
    found, marks, unlisted = score(wells, x, about, known, targets, marks, values["draws"])
    with recorded(workdir, values, data) as write:
        print(", ".join(f"{name} {value:.3f}" for name, value in found.items() if "uM" not in name), flush=True)
        write({f"map/{name}": value for name, value in found.items()} | {"marks/map": marks, "unlisted": unlisted})


def score(wells, x, about, known, targets, marks: str, draws: int) -> tuple[dict[str, float], str, int]:
    """(numbers of `benchmark.score`, marks, wells without a row in the table).

    Args: wells [n], sorted; x [n, d]; about, columns of the table of wells; known and targets, as there.
    """
    profiles = table.Profiles(x, about, tuple(map(str, range(x.shape[1]))), METADATA)
    place = np.minimum(np.searchsorted(wells, profiles.column("well_id").astype(str)), len(wells) - 1)
    listed = np.flatnonzero(wells[place] == profiles.column("well_id").astype(str))
    if not len(listed):
        raise UserError(f"no embedding is of a well of {METADATA}: their columns well_id differ")
    column = lambda name: profiles.column(name)[listed]  # noqa: E731
    kind = np.char.upper(column("kind").astype(str))
    dose = column("concentration_um")
    if dose.dtype.kind not in "if":
        if any(not is_missing(one) for one in dose.tolist()):
            raise UserError(f"{METADATA}: the column of concentrations must hold numbers")
        dose = np.full(len(dose), np.nan)
    about_wells = column("treatment").astype(str), kind, dose.astype(float), column("experiment").astype(str)
    rows, told = benchmark.aligned(x[place[listed]], *about_wells)
    return benchmark.score(rows, known, targets, draws), join(marks, told), len(wells) - len(np.unique(place[listed]))


def by_well(well: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(names of wells [w], sorted; the mean [w, d] of each one's rows): published embeddings are of its tiles."""
    names, of = np.unique(well.astype(str), return_inverse=True)
    return names, aggregate(x, of)[0]


def read_published(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """`by_well` of a published table: well_id, feature_0 and so on."""
    columns, x, _ = foreign.read(path)
    if "well_id" not in columns:
        raise UserError(f"{path} has no column well_id")
    if len(wrong := np.flatnonzero(~np.isfinite(x).all(1))):
        raise UserError(f"{path}: well {columns['well_id'][wrong[0]]} has a NaN or infinite value")
    return by_well(columns["well_id"], x)


def _from_images(values: dict, workdir: pathlib.Path) -> tuple[dict[str, np.ndarray], str]:
    """Writes features.parquet if it is not there; (columns of the dataset's table, its fingerprint)."""
    import jax

    from rxrx_jax import data, embed
    from rxrx_jax.base.seen import Seen
    from rxrx_jax.weights import export

    dataset = data.open_dataset(NAME, values["data"]["builder"], values["data"]["folder"])
    about = foreign.read_columns(dataset.folder / "sites.csv")
    out = workdir / OWN
    if values["features"] in HANDCRAFTED:
        if not out.exists():
            normalisation = config.load(values["encoder"])["normalisation"]
            _handcrafted(dataset, normalisation, values["features"] == HANDCRAFTED[1], out)
    else:
        if values["features"] == "pretrained":
            model = embed.open_model(values["init"]["path"], dataset.image_shape[2])
        else:
            stage = config.load(values["encoder"])
            encoder, crop = export.make_encoder(stage, workdir), stage["augment"]["crop"]
            view = np.zeros((1, crop, crop, dataset.image_shape[2]), np.float32)
            params = jax.jit(encoder.init)(jax.random.key(values["seed"]), view)["params"]
            model = embed.Model(encoder, params, crop, stage["normalisation"], Seen())
        out.parent.mkdir(parents=True, exist_ok=True)
        embed.embed_dataset(model, dataset, out, minibatch=MINIBATCH)
    return about, f"fingerprint {data.fingerprint(dataset)}"


def _handcrafted(dataset, normalisation: str, spatial: bool, out: pathlib.Path) -> None:
    """Writes the image statistics of every site, of whole images normalised as the encoder's."""
    import jax

    from rxrx_jax import data
    from rxrx_jax.base.seen import Seen
    from rxrx_jax.data.augment import TRANSDUCTIVE_NORMALISATIONS, plain, plate_statistics
    from rxrx_jax.evaluate.embeddings import columns
    from rxrx_jax.models.handcrafted import Handcrafted

    augment, statistics = plain(normalisation, min(dataset.image_shape[:2])), plate_statistics(dataset, normalisation)
    encoder = Handcrafted(spatial=spatial)
    compute = jax.jit(lambda minibatch: encoder.apply({}, augment.evaluation(minibatch, statistics))[0])
    rows, parts = np.arange(len(dataset.sites)), []
    for minibatch in data.evaluation_minibatches(dataset, rows, MINIBATCH):
        valid = minibatch["valid"]
        parts.append(np.asarray(compute({key: minibatch[key] for key in ("image", "plate")}))[valid])
    marks = "T" * (normalisation in TRANSDUCTIVE_NORMALISATIONS)
    out.parent.mkdir(parents=True, exist_ok=True)
    embeddings.write(
        out, columns(dataset, rows), np.concatenate(parts), embeddings.provenance(marks, Seen().to_bytes())
    )


if __name__ == "__main__":
    sys.exit(command.run(main))
