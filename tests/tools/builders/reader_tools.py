"""A plate of a few wells and a reader of it that needs no source."""

import contextlib
import json

import numpy as np

from tfds_builders.common import plates
from tfds_builders.common.rows import plan
from tfds_builders.common.types import BadSite, Table

SHAPE = (4, 6, 2)  # [H, W, C], H and W different


def row(well="B02", site=1, split="train", **more):
    return {
        "site_id": f"SIMA-01_1_{well}_{site}", "well_id": f"SIMA-01_1_{well}", "cell_type": "SIMA",
        "experiment": "SIMA-01", "plate": 1, "well": well, "site": site, "well_type": "treatment",
        "perturbation": "a", "perturbation_id": None, "split": split, "where": "line 2", **more,
    }  # fmt: skip


def image(row, bits=8):
    """Random pixels [C, H, W] of the whole range, the same for the same well and site."""
    random = np.random.default_rng([ord(row["well"][0]), row["site"]])
    return random.integers(0, 2**bits, (SHAPE[2], *SHAPE[:2])).astype(f"uint{bits}")


class Reader:
    """Gives every site its image but those in `bad`."""

    counts = {}

    def __init__(self, bits=8, bad=(), unlisted=(), strays=()):
        self.bits, self.bad, self.unlisted_names, self.stray_names = bits, bad, list(unlisted), list(strays)
        self.read_sites = []

    @contextlib.contextmanager
    def open(self, experiment, plate):
        yield self

    def unlisted(self, places):
        return self.unlisted_names

    def strays(self):
        return self.stray_names

    def check(self):
        pass

    def read(self, row):
        self.read_sites.append(row["site_id"])
        if row["well"] in self.bad:
            raise BadSite("no light")
        return image(row, self.bits), []


def task(tmp_path, rows, bits=8, strict=False, extra=None, shape=SHAPE, **reader):
    plan.write(tmp_path / "plan.sqlite", Table(rows))
    (tmp_path / "plates").mkdir(exist_ok=True)
    return plates.Task(
        tmp_path / "plates", plan.Plan(tmp_path / "plan.sqlite"), Reader(bits, **reader), shape, bits, "delta",
        extra or {}, strict,
    )  # fmt: skip


ROWS = [row("B02"), row("B03", split="test"), row("C02"), row("C03", split="test"), row("D02"), row("E02", split="val")]


def built(task):
    return json.loads(plates.build_plate(task, "SIMA-01", 1).read_text())
