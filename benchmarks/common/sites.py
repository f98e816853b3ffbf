"""A tree of RxRx1-like sites for the benchmarks: real ones repeated where a source is given, else simulated."""

import csv
import os
import pathlib

from rxrx_jax.simulate import screen as simulate

COLUMNS = ("site_id", "well_id", "cell_type", "dataset", "experiment", "plate", "well", "site", "well_type", "sirna",
           "sirna_id")  # fmt: skip
WELLS = [f"{row}{column:02d}" for row in "BCDEFGHIJKLMNO" for column in range(2, 24)]


def complete_sites(source: pathlib.Path) -> list[list[pathlib.Path]]:
    """Returns the files w1 to w6 of every site of an RxRx1 tree that has them all."""
    found = []
    for first in sorted(source.glob("images/*/Plate*/*_w1.png")):
        files = [first.with_name(first.name.replace("_w1.", f"_w{channel}.")) for channel in range(1, 7)]
        if all(file.exists() for file in files):
            found.append(files)
    return found


def make_tree(folder: pathlib.Path, source: pathlib.Path | None, plates: int, wells: int) -> str:
    """Makes a published RxRx1 tree of HUVEC-01, `plates` plates with `wells` wells of one site; says what they are.

    With a source, its complete sites are repeated in turn (hard links or copies); without, 512-pixel sites are
    simulated.
    """
    if source is not None:
        originals = complete_sites(source)
        what = f"{len(originals)} real sites of RxRx1, repeated"
    else:
        screen = simulate.Screen(image_size=512, train=("SIMA-01",), val=(), test=(), treatments=4, plates=4,
                                 replicates=1, positive_controls=0, untreated_wells=1, sites_per_well=1)  # fmt: skip
        simulate.write_published(screen, folder / "simulated")
        originals = complete_sites(folder / "simulated")
        what = f"{len(originals)} SIMULATED sites of 512 pixels, repeated (real ones: --source=DIR of RxRx1)"
    rows = []
    for plate in range(1, plates + 1):
        target = folder / f"images/HUVEC-01/Plate{plate}"
        target.mkdir(parents=True)
        for i, well in enumerate(WELLS[:wells]):
            well_id = f"HUVEC-01_{plate}_{well}"
            rows.append((f"{well_id}_1", well_id, "HUVEC", "train", "HUVEC-01", plate, well, 1, "negative_control",
                         "EMPTY", 1138))  # fmt: skip
            for channel, file in enumerate(originals[i % len(originals)], start=1):
                link = target / f"{well}_s1_w{channel}.png"
                try:
                    os.link(file, link)
                except OSError:  # another disk
                    link.write_bytes(file.read_bytes())
    with open(folder / "metadata.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    return what
