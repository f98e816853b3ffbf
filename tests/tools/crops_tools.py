"""Sets of made-up crops in the layout that rxrx_jax.crops reads."""

import csv
import pathlib

import numpy as np

CLASSES = ("dots", "DMSO", "stripes")


def write(folder: pathlib.Path, batches=3, per=8, side=16, channels=2, dtype=np.uint8, classes=CLASSES, files=True,
          **columns) -> pathlib.Path:  # fmt: skip
    """A set: `per` crops of each class in each batch, both to be seen in their brightness. Args: files, whether each
    batch has a file of its own; columns, {name: function(batch, class, number) -> text} beside those needed."""
    folder.mkdir(parents=True, exist_ok=True)
    random, top = np.random.default_rng(0), np.iinfo(dtype).max
    rows, arrays = [], {}
    for b in range(batches):
        for c, label in enumerate(classes):
            for number in range(per):
                name = f"b{b}.npz" if files else "all.npz"
                image = random.random((side, side, channels)) * 0.3 + 0.1 * b + 0.2 * c
                image[:: c + 2] += 0.15
                images = arrays.setdefault(name, [])
                row = {"class": label, "batch": f"b{b}", "row": len(images)} | ({"file": name} if files else {})
                rows.append(row | {key: of(b, label, number) for key, of in columns.items()})
                images.append((np.clip(image, 0, 1) * top).astype(dtype))
    for name, images in arrays.items():
        array = np.stack(images)
        np.savez(folder / name, images=array[..., 0] if channels == 1 else array)
    write_table(folder, rows)
    return folder


def write_table(folder: pathlib.Path, rows: list[dict]) -> None:
    with open(folder / "metadata.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read_table(folder: pathlib.Path) -> list[dict]:
    with open(folder / "metadata.csv", newline="") as file:
        return list(csv.DictReader(file))
