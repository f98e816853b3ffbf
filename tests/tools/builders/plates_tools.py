"""Trees of microscopy images as other laboratories have them, written without anything of the reader."""

import csv
import pathlib

import numpy as np
import tifffile
from PIL import Image

CHANNELS = {5: "DNA", 4: "ER", 3: "RNA", 2: "AGP", 1: "Mito"}  # of a JUMP screen, by the number in its file names
JUMP = {"2020_11_04_Batch1": ("BR00117006", "BR00117007"), "2020_12_08_Batch2": ("BR00121438",)}
COMPOUNDS = {"B02": "BRD-A1", "B03": "BRD-B2", "C02": "BRD-C3", "C03": ""}  # DMSO has an empty cell; by spot width
SIDE, SITES = 48, 2


def pixels(*key: object, size: tuple[int, int] = (SIDE, SIDE), width: float = 4.5) -> np.ndarray:
    """Noise with a bright spot, [H, W] uint16 of 12 bits, that depends on the key and the width alone."""
    seed = np.frombuffer("/".join(map(str, key)).encode(), np.uint8)
    random = np.random.default_rng(seed)
    y, x = np.indices(size)
    centre = random.integers(8, min(size) - 8, 2)
    spot = np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / (2 * width**2))
    return np.clip(random.normal(300, 30, size) + 3000 * spot, 0, 4095).astype(np.uint16)


def jump(root: pathlib.Path) -> list[str]:
    """Writes three plates of five 16-bit TIFF files a site, as an Opera Phenix names them, one brightfield channel
    beside them, an index file, and a pycytominer table with a row per well. Returns what `prepare images` is told."""
    rows = []
    for batch, plates in JUMP.items():
        for plate in plates:
            folder = root / f"{plate}__2020-11-08T19_57_47-Measurement1" / "Images"
            folder.mkdir(parents=True)
            (folder / "Index.idx.xml").write_text("<EvaluationInputData/>")
            for i, (well, compound) in enumerate(COMPOUNDS.items()):
                row, column = ord(well[0]) - 64, int(well[1:])
                for site in range(1, SITES + 1):
                    for channel in (*CHANNELS, 6):
                        image = pixels(plate, well, site, channel, width=2 + 1.5 * i)
                        name = f"r{row:02d}c{column:02d}f{site:02d}p01-ch{channel}sk1fk1fl1.tiff"
                        tifffile.imwrite(folder / name, image, compression="zlib")
                rows.append({"Metadata_Batch": batch, "Metadata_Plate": plate, "Metadata_Well": well,
                             "Metadata_broad_sample": compound, "Cells_AreaShape_Area": "1.5"})  # fmt: skip
    write(root / "profiles.csv", rows)
    return [
        f"--source={root}", "--metadata=profiles.csv", "--name=my_plates",
        "--pattern={plate}__*/Images/r{row}c{column}f{site}p01-ch{channel}*.tiff",
        "--channels=" + ",".join(f"{key}:{name}" for key, name in CHANNELS.items()),
        "--negative-control=Metadata_broad_sample:", "--held-out=2020_12_08_Batch2",
        "--license=CC0 1.0", "--citation=Us (2026)",
    ]  # fmt: skip


NINE = tuple(f"c{i}" for i in range(1, 10))


def nine(root: pathlib.Path) -> list[str]:
    """Writes a screen of nine channels with names of its own: folders the other way round, images that are not square,
    some TIFF with 16 bits, some PNG with 8, some JPEG; a row per site, wells as A1, two sites missing a file, one row
    without any. Returns what `prepare images` is told."""
    rows, size = [], (40, 56)
    for run, batch in ((1, "exp-1"), (2, "exp-01"), (3, "exp-2")):
        for well, gene in (("A1", "TP53"), ("a2", "KRAS"), ("B01", "NaN"), ("H12", "none")):
            for field in (0, 3):
                place = f"Set_{run}", well, field
                for number, channel in enumerate(NINE):
                    folder = root / channel / "raw"
                    folder.mkdir(parents=True, exist_ok=True)
                    if (run, well, field, channel) in ((1, "A1", 3, "c4"), (2, "a2", 0, "c9")):
                        continue
                    image = pixels(*place, channel, size=size)
                    stem = folder / f"{well}-Set_{run}-{batch}@{field:02d}"
                    if number % 3 == 0:
                        tifffile.imwrite(stem.with_name(stem.name + ".img"), image, photometric="minisblack")
                    elif number % 3 == 1:
                        Image.fromarray((image // 16).astype(np.uint8)).save(stem.with_name(stem.name + ".img"), "PNG")
                    else:
                        Image.fromarray((image // 16).astype(np.uint8)).save(stem.with_name(stem.name + ".img"), "JPEG")
                rows.append({"what": gene, "fov": str(field), "well id": well, "plate name": f"Set_{run}",
                             "run": batch, "line": "U2OS"})  # fmt: skip
        rows.append({**rows[-1], "well id": "C3"})
    write(root / "layout.csv", rows)
    (root / "splits.csv").write_text("experiment,split\nexp-1,train\nexp-01,val\nexp-2,test\n")
    return [
        f"--source={root}", "--metadata=layout.csv", "--name=nine",
        "--pattern={channel}/raw/{well}-{plate}-{experiment}@{site}.img", "--channels=" + ",".join(NINE),
        "--experiment=run", "--perturbation=what", "--cell-type=line", "--negative-control=what:none",
    ]  # fmt: skip


def write(path: pathlib.Path, rows: list[dict[str, str]]) -> None:
    """Writes a table."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
