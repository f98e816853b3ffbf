"""Writes the simulated screen as RxRx2, RxRx19a, RxRx19b, RxRx3 and RxRx3-core are published: tables and files.

Their plates have 1,536 wells, in which the simulator's 384 spread out (`address`). A treatment occurs at several
concentrations, which do not affect its pixels. Of RxRx19b, RxRx3 and RxRx3-core, whose wells have one site, only
site 1 is written. The pixels are those of `render_site`, from which each layout can be checked exactly.
"""

import collections
import csv
import io
import itertools
import pathlib
import tarfile
from collections.abc import Iterator

import numpy as np

from rxrx_jax.base.spellings import NEGATIVE_CONTROL, ROWS
from rxrx_jax.simulate.design import CHANNELS, Screen, sites
from rxrx_jax.simulate.render import render_site

RXRX2 = ("site_id", "well_id", "cell_type", "experiment", "plate", "well", "site", "treatment", "treatment_conc")
RXRX19 = (*RXRX2[:7], "disease_condition", *RXRX2[7:], "SMILES")
RXRX3 = ("well_id", "experiment_name", "plate", "address", "gene", "treatment", "SMILES", "concentration",
         "perturbation_type", "cell_type")  # fmt: skip
CONCENTRATIONS = ("0.0025", "0.01", "0.025", "0.1", "0.25", "1", "2.5", "10")
CONDITIONS_19A = ("Active SARS-CoV-2", "UV Inactivated SARS-CoV-2", "Mock")  # the first with a treatment
CONDITIONS_19B = ("storm-severe", "healthy", "")
MITOCHONDRIA = 4  # the channel that RxRx19a lacks
ROW_GROUP, SHARD = 50, 400  # of RxRx3-core: small, so that plates do not begin where files or row groups do


def address(well: str) -> str:
    """The well of a 1,536-well plate for one of the simulator's: B02 is C02, N02 is AA02, O23 is AC44."""
    return f"{ROWS[2 * ROWS.index(well[0])]}{2 * (int(well[1:]) - 1):02d}"


def sixteen_bits(pixels: np.ndarray) -> np.ndarray:
    """The values that RxRx3's layout has for 8-bit pixels [H, W, C]: uint16 of the same shape.

    Those whose square root is the pixel, round(255 * sqrt(value / 65535)), and not always the middle one of them:
    reading only the high bytes, or in the wrong order, is detected.
    """
    rows, columns = np.indices(pixels.shape[:2])
    wide = pixels.astype(np.int64)
    middle = np.rint(wide**2 * (65535 / 255**2)).astype(np.int64)
    low = (7 * rows + 13 * columns)[..., None] % (wide + 1) - wide // 2
    return np.minimum(middle + low, 65535).astype(np.uint16)


def write_rxrx2(screen: Screen, root) -> None:
    """Writes root/metadata.csv, root/splits.csv and root/images/EXPERIMENT/PlateN/WELL_sS_wC.png."""
    _write_folders(screen, root, RXRX2, _site_names)


def write_rxrx19a(screen: Screen, root) -> None:
    """The same with a disease condition, SMILES, and five channels: all but the mitochondria."""

    def names(row):
        return [*_site_names(row), _condition(row, CONDITIONS_19A)]

    _write_folders(screen, root, RXRX19, names, channels=[c for c in range(CHANNELS) if c != MITOCHONDRIA])


def write_rxrx19b(screen: Screen, root) -> None:
    """The same with other disease conditions, six channels, and one site per well."""

    def names(row):
        return [*_site_names(row), _condition(row, CONDITIONS_19B)]

    _write_folders(screen, root, RXRX19, names, last_site=1)


def write_rxrx3(screen: Screen, root) -> None:
    """Writes root/metadata.csv, root/splits.csv and root/images/EXPERIMENT/PlateN.tar with 16-bit WELL_s1_wC.png.

    Every other experiment is of CRISPR guides, the others are of compounds.
    """
    root = pathlib.Path(root)
    rows = _rows(screen, last_site=1)
    write_csv(root / "metadata.csv", RXRX3, [_rxrx3(screen, row) for row in rows])
    write_splits(screen, root)
    for (experiment, plate), wells in itertools.groupby(rows, key=lambda row: (row["experiment"], row["plate"])):
        path = root / "images" / experiment / f"Plate{plate}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for row in wells:
                for name, data in _png_files(row, sixteen_bits(render_site(screen, row["simulated"]))):
                    _add(tar, name, data)


def write_rxrx3_core(screen: Screen, root, form: str = "parquet") -> None:
    """Writes root/metadata_rxrx3_core.csv, root/splits.csv and root/data/ with reversible JPEG 2000 images.

    form: 'parquet', rows of __key__ and jp2 as on Hugging Face, or 'webdataset', tars with KEY.jp2.
    """
    root = pathlib.Path(root)
    rows = _rows(screen, last_site=1)
    table = [[*_rxrx3(screen, row), "Query guides" if _is_guide(screen, row) else ""] for row in rows]
    write_csv(root / "metadata_rxrx3_core.csv", (*RXRX3, "well_type_label"), table)
    write_splits(screen, root)
    (root / "data").mkdir(parents=True, exist_ok=True)
    images = _jpeg2000(screen, rows)
    shards = -(-len(rows) * CHANNELS // SHARD)
    for i in range(shards):
        part = itertools.islice(images, SHARD)
        if form == "parquet":
            _write_parquet(root / "data" / f"train-{i:05d}-of-{shards:05d}.parquet", part)
        else:
            with tarfile.open(root / "data" / f"{i:05d}.tar", "w") as tar:
                for key, data in part:
                    _add(tar, f"{key}.jp2", data)


def write_csv(path: pathlib.Path, columns, rows) -> None:
    """Writes a table, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def write_splits(screen: Screen, root: pathlib.Path) -> None:
    """Writes root/splits.csv: the split of every experiment."""
    splits = {name: split for split, names in screen.splits.items() for name in names}
    write_csv(root / "splits.csv", ("experiment", "split"), sorted(splits.items()))


def write_channels(row: dict, pixels: np.ndarray, images: pathlib.Path) -> None:
    """Writes images/EXPERIMENT/PlateN/WELL_sS_wC.png from pixels [H, W, C]."""
    folder = images / row["experiment"] / f"Plate{row['plate']}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in _png_files(row, pixels):
        (folder / name).write_bytes(data)


def _png_files(row: dict, pixels: np.ndarray) -> Iterator[tuple[str, bytes]]:
    """(name, file) of every channel of pixels [H, W, C], uint8 or uint16."""
    from PIL import Image  # the screen itself needs no imaging library

    for channel in range(pixels.shape[-1]):
        file = io.BytesIO()
        Image.fromarray(pixels[..., channel]).save(file, "PNG", compress_level=1)
        yield f"{row['well']}_s{row['site']}_w{channel + 1}.png", file.getvalue()


def _rows(screen: Screen, last_site: int | None = None) -> list[dict]:
    """The site rows, with wells of 1,536 and the keys 'simulated' (the row as it was) and 'replicate'.

    replicate: which of the wells that its perturbation has on the plate, from 0.
    """
    rows, counts = [], collections.Counter()
    for row in sites(screen):
        if last_site is not None and row["site"] > last_site:
            continue
        group = row["experiment"], row["plate"], row["perturbation"], row["site"]
        well_id = f"{row['experiment']}_{row['plate']}_{address(row['well'])}"
        names = {"well": address(row["well"]), "well_id": well_id, "site_id": f"{well_id}_{row['site']}"}
        rows.append({**row, **names, "simulated": row, "replicate": counts[group]})
        counts[group] += 1
    return rows


def _write_folders(screen: Screen, root, columns, names, channels=range(CHANNELS), last_site=None) -> None:
    """Writes a table of names(row), treatment, concentration and perhaps SMILES, and a tree of PNG files."""
    root = pathlib.Path(root)
    rows = _rows(screen, last_site)
    table = [[*names(row), *_compound(row)][: len(columns)] for row in rows]
    write_csv(root / "metadata.csv", columns, table)
    write_splits(screen, root)
    for row in rows:
        write_channels(row, render_site(screen, row["simulated"])[..., channels], root / "images")


def _site_names(row: dict) -> list:
    return [row[name] for name in RXRX2[:7]]


def _compound(row: dict) -> tuple[str, str, str]:
    """(treatment, concentration, SMILES); all blank in an untreated well."""
    if row["well_type"] == NEGATIVE_CONTROL:
        return "", "", ""
    dose = CONCENTRATIONS[(row["perturbation_id"] + row["replicate"]) % len(CONCENTRATIONS)]
    return row["perturbation"], dose, f"{'C' * (row['perturbation_id'] + 1)}[N+](C)C=O |c:1,3,t:5|"


def _condition(row: dict, conditions: tuple[str, ...]) -> str:
    """The first condition for a compound, all of them in turn otherwise."""
    return conditions[row["replicate"] % len(conditions) if row["well_type"] == NEGATIVE_CONTROL else 0]


def _is_guide(screen: Screen, row: dict) -> bool:
    """Whether a well has a CRISPR guide and is not a control."""
    return screen.experiments.index(row["experiment"]) % 2 == 0 and row["well_type"] != NEGATIVE_CONTROL


def _rxrx3(screen: Screen, row: dict) -> list:
    treatment, concentration, smiles = _compound(row)
    crispr = screen.experiments.index(row["experiment"]) % 2 == 0
    gene = (treatment or "EMPTY_control") if crispr else ""
    if _is_guide(screen, row):
        treatment, concentration, smiles = f"{gene}_guide_{row['replicate'] + 1}", "", ""
    kind = "CRISPR" if crispr else "COMPOUND"
    place = row["well_id"], row["experiment"], row["plate"], row["well"]
    return [*place, gene, treatment or "EMPTY_control", smiles, concentration, kind, row["cell_type"]]


def _jpeg2000(screen: Screen, rows: list[dict]) -> Iterator[tuple[str, bytes]]:
    """(key, file) of every channel: SIMA-01/Plate1/AA02_s1_1."""
    import imagecodecs

    for row in rows:
        pixels = render_site(screen, row["simulated"])
        for channel in range(CHANNELS):
            key = f"{row['experiment']}/Plate{row['plate']}/{row['well']}_s{row['site']}_{channel + 1}"
            plane = np.ascontiguousarray(pixels[..., channel])
            yield key, imagecodecs.jpeg2k_encode(plane, level=0, codecformat="jp2", reversible=True)


def _write_parquet(path: pathlib.Path, images: Iterator[tuple[str, bytes]]) -> None:
    import pyarrow
    import pyarrow.parquet

    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])  # as `datasets` writes it
    schema = pyarrow.schema([("__key__", pyarrow.string()), ("jp2", image)])
    rows = [{"__key__": key, "jp2": {"bytes": data, "path": None}} for key, data in images]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema), path, row_group_size=ROW_GROUP)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
