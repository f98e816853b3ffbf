"""Prepared folders: what training opens, what `prepare` says of them, and what `verify` finds."""

import contextlib
import pathlib
import warnings

import numpy as np
from builders_tools import SCREEN_FIELDS, sign
from trials import Damage, Found, Target, Wrong, if_checked

from rxrx_jax.base import files
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.dataset import fingerprint, pixel_digests, read_dataset
from tfds_builders import prepare, verify
from tfds_builders.own import builder

ALL = slice(None), slice(None)


def make(folder: pathlib.Path) -> None:
    made = prepare.prepare("rxrx_sim", None, folder.parent / "data", 1, progress=False, **SCREEN_FIELDS)
    for path in made.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())


def _open(folder: pathlib.Path) -> Found:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = read_dataset(folder)
    table, found = data.sites, Found({})
    for key in data.mean:
        found.items["statistics", key] = data.mean[key].tobytes(), data.std[key].tobytes()
    for i in range(len(table)):
        label = int(table.label[i])
        about = (
            data.experiments[table.experiment[i]], data.plates[table.plate[i]], data.cell_types[table.cell_type[i]],
            str(table.split[i]), str(table.well_type[i]), str(table.well_id[i]), int(table.site[i]), label,
            data.classes[label] if label >= 0 else "",
        )  # fmt: skip
        try:
            image = data.sources[table.split[i]][table.index[i]][ALL]
        except ValueError:  # the loader names it, counts it, and takes another
            found.lost += 1
            continue
        assert image.shape == data.image_shape and image.dtype == np.uint8
        found.items[str(table.site_id[i])] = about, image.tobytes()
    fingerprint(data)
    pixel_digests(data)
    return found


def _details(folder: pathlib.Path) -> Found:
    about = prepare.details(folder)
    sizes = prepare.split_sizes(folder)
    builder.prepared(folder.parent.name, folder.parents[1])
    return Found({"settings": repr(about["settings"]), "sizes": repr(sizes)})


def _verify(folder: pathlib.Path) -> Found:
    with warnings.catch_warnings(), contextlib.suppress(UserError):
        warnings.simplefilter("ignore")
        wrong, notes = verify.examine(folder, 1, progress=False)
        assert all(len(line.splitlines()) == 1 for line in (*wrong, *notes)), wrong
        return Found({"right": not wrong})
    return Found({"right": False})


def _judge_verified(expected: Found, found: Found, damage: Damage, folder: pathlib.Path) -> str:
    pristine = folder.parent / "pristine"
    same = all((folder / path.name).is_file() and (folder / path.name).read_bytes() == path.read_bytes()
               for path in pristine.iterdir())  # fmt: skip
    if found.items["right"] and not same and not damage.repaired:
        if not any(".array_record-" in name for name in damage.names):
            raise Wrong("verify finds nothing")
        if _open(folder) != _open(pristine):  # bytes between records may be anything
            raise Wrong("verify finds nothing where records differ")
    if same and not found.items["right"]:
        raise Wrong("verify finds what is not there")
    return "same" if found.items["right"] else "refused"


def repair(folder: pathlib.Path, path: pathlib.Path) -> bool:
    """SHA256SUMS, as if the build had written this; the digests of records are in manifest.csv."""
    if path.name == files.SUMS or ".array_record-" in path.name:
        return False
    sign(folder)
    return True


def checked(damage: Damage) -> bool:
    return not damage.repaired


def form(value) -> tuple:
    return tuple(type(part).__name__ for part in value) if isinstance(value, tuple) else ()


def judge(expected: Found, found: Found, damage: Damage, folder: pathlib.Path) -> str:
    """A folder that was signed again may say anything of its records, but not with an error of ours."""
    return "changed" if damage.repaired else if_checked(checked, form)(expected, found, damage, folder)


TARGETS = [
    Target("prepared folder", make, _open, judge, repair=repair),
    Target("details of a folder", make, _details, judge, repair=repair),
    Target("verify", make, _verify, _judge_verified, repair=repair),
]
