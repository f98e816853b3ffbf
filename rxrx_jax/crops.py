"""Sets of labelled crops of cells from several batches, each of which is held out in turn: what
`python -m rxrx_jax.reproduce real_cells` trains on.

A set is a folder with `metadata.csv` and one or more `.npz` files, whose key `images` is [n, H, W] or [n, H, W, C], 8
or 16 bits, 1 to 6 channels. Columns: class, batch, row (of the array) and, where there are several arrays, file; of
what else is there, well, site and frame say which crops are of one picture, and well_type which are controls. Images
and table go through `datasets.from_arrays`, as anyone's. Config keys: `data.source` and `protocol.name` are the path of
this file, `data.crops` the folder, the fold and the SHA-256 of the set.
"""

import collections
import dataclasses
import functools
import hashlib
import pathlib
import zipfile
import zlib

import numpy as np

from rxrx_jax import datasets
from rxrx_jax.base import files
from rxrx_jax.base.errors import UserError, shortened
from rxrx_jax.base.spellings import COLUMNS, NEGATIVE_CONTROL, ROWS, SPLITS, TREATMENT, WELL_TYPES, is_missing
from rxrx_jax.data import Roles, images, untreated
from rxrx_jax.evaluate import protocols
from rxrx_jax.evaluate.protocols import Protocol, held_out_experiments

TABLE, KEY = "metadata.csv", "images"
NEEDED = ("class", "batch", "row")
PICTURE = ("well", "site", "frame")  # columns that tell the pictures of a batch apart
UNTREATED = ("dmso", "untreated", "mock", "vehicle", NEGATIVE_CONTROL)  # names of classes, in any case
AGAIN = "put back a copy of the set"
MOST_CHANNELS, LEAST_SIDE = 6, 16
LEAST_IMAGES = 20  # of a class; rarer ones are left out
LEAST_CONTROLS = 8  # in every batch, for methods that use them
MOST_IMAGES = 4000  # of a set; larger ones are thinned
SIDE = 48  # pixels: images of twice that and more are averaged over squares of 2 x 2 pixels, and so on
MOST_BATCHES, FOLDS = 10, 5  # with more batches, folds of batches
WITHIN = 5  # one in so many pictures of a training batch is scored
PERCENTILES = (0.1, 99.9)  # of 16-bit pixels, which become 0 and 255


@dataclasses.dataclass(frozen=True)
class Crops:
    """A set as its folder has it, without what is left out, of which `notes` tell. label, batch, picture [n] str,
    picture unique over batches; control [n] bool; where [n], (array, row); fold [n] int, by batch."""

    folder: pathlib.Path
    label: np.ndarray
    batch: np.ndarray
    picture: np.ndarray
    control: np.ndarray
    where: list[tuple[str, int]]
    fold: np.ndarray
    arrays: dict[str, np.ndarray]
    notes: tuple[str, ...]

    @property
    def folds(self) -> int:
        return int(self.fold.max()) + 1

    @property
    def crop(self) -> int:
        """Side in pixels of what is looked at of the averaged images: a multiple of 8."""
        return min(self.shape[:2]) // self.factor // 8 * 8

    @property
    def factor(self) -> int:
        """Side of the squares of pixels that are averaged."""
        return max(min(self.shape[:2]) // SIDE, 1)

    @property
    def shape(self) -> tuple[int, int, int]:
        return next(iter(self.arrays.values())).shape[1:]

    @property
    def has_controls(self) -> bool:
        """Whether every batch has enough controls for the methods that use them."""
        return min(self.control[self.batch == batch].sum() for batch in np.unique(self.batch)) >= LEAST_CONTROLS

    def training_batches(self, fold: int) -> int:
        return len(np.unique(self.batch[self.fold != fold]))


def find(data: pathlib.Path) -> list[pathlib.Path]:
    """The sets in a folder, or the folder if it is one. Raises UserError where there is none."""
    if (data / TABLE).is_file():
        return [data]
    found = sorted(path.parent for path in data.glob(f"*/{TABLE}")) if data.is_dir() else []
    if not found:
        raise UserError(f"--data={data}: no {TABLE} there or in a folder of it; give a folder of sets of crops")
    return found


@functools.lru_cache(maxsize=2)
def read(folder: pathlib.Path) -> Crops:
    """The set of a folder. Raises UserError, one line, for a table or an array that cannot be used."""
    rows = _table(folder)
    names = rows[0].keys()
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        raise UserError(f"{folder} holds no .npz file")
    if "file" not in names and len(paths) > 1:
        raise UserError(f"{folder / TABLE} has no column file, and there are {len(paths)} .npz files")
    one = len(paths) == 1
    where = [(paths[0].name if one else row["file"], _number(folder, i, row)) for i, row in enumerate(rows)]
    arrays = {name: _array(folder, name) for name in dict.fromkeys(name for name, _ in where)}
    forms = {name: (array.shape[1:], array.dtype) for name, array in arrays.items()}
    for name, form in forms.items():
        if form != (first := next(iter(forms.values()))):
            raise UserError(f"{folder / name} holds {_form(*form)} and another file of the set {_form(*first)}")
    for i, (name, row) in enumerate(where):
        if not 0 <= row < len(arrays[name]):
            raise UserError(f"{folder / TABLE}, line {i + 2}: row {row}, and {name} has {len(arrays[name])} images")
    column = lambda name: np.array([row[name].strip() for row in rows], str)  # noqa: E731
    label, batch = column("class"), column("batch")
    by = [batch, *(column(name) for name in PICTURE if name in names)]
    each = np.arange(len(rows)).astype(str) if len(by) == 1 else np.full(len(rows), "")
    picture = np.array(["\t".join(parts) for parts in zip(*by, each)], str)
    control = np.isin(np.char.lower(label), UNTREATED)
    if "well_type" in names:
        control = column("well_type") == NEGATIVE_CONTROL
        if unknown := sorted(set(column("well_type").tolist()) - set(WELL_TYPES)):
            raise UserError(f"{folder / TABLE}: well_type {unknown[0]!r}: expected {', '.join(WELL_TYPES)}")
    kept, notes = _kept(folder, label, batch, control)
    chosen = np.flatnonzero(kept)
    made = (label[chosen], batch[chosen], picture[chosen], control[chosen], [where[i] for i in chosen])
    return Crops(folder, *made, _folds(folder, made[0], made[1]), arrays, tuple(notes))


def _table(folder: pathlib.Path) -> list[dict[str, str]]:
    path = folder / TABLE
    rows = files.read_csv(path, NEEDED)
    if not rows:
        raise UserError(f"{path} has no rows")
    for i, row in enumerate(rows):
        if empty := [name for name in NEEDED if is_missing(row[name].strip())]:
            raise UserError(f"{path}, line {i + 2}: {empty[0]} is empty")
    return rows


def _number(folder: pathlib.Path, i: int, row: dict[str, str]) -> int:
    try:
        return int(row["row"])
    except ValueError:
        raise UserError(f"{folder / TABLE}, line {i + 2}: row {shortened(row['row'])!r} is not a number") from None


def _array(folder: pathlib.Path, name: str) -> np.ndarray:
    """[n, H, W, C] uint8 or uint16 of a file of the set."""
    path = folder / name
    if path.name != name or not path.is_file():
        raise UserError(f"{folder / TABLE} names the file {shortened(name)!r}, which is not in {folder}")
    try:
        with np.load(path) as found:
            array = found[KEY]
    except (OSError, ValueError, LookupError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is damaged or has no array {KEY!r}: {shortened(str(error))}") from error
    array = array[..., None] if array.ndim == 3 else array
    if array.dtype not in (np.uint8, np.uint16) or array.ndim != 4:
        raise UserError(f"{path}: images are {_form(array.shape, array.dtype)}: expected uint8 or uint16 [n, H, W, C]")
    if not 1 <= array.shape[3] <= MOST_CHANNELS or min(array.shape[1:3]) < LEAST_SIDE:
        wanted = f"1 to {MOST_CHANNELS} channels and sides of at least {LEAST_SIDE} pixels"
        raise UserError(f"{path}: images are {_form(array.shape[1:], array.dtype)}: expected {wanted}")
    return array


def _form(shape: tuple, dtype) -> str:
    return f"{dtype}{list(shape)}"


def _kept(folder, label, batch, control) -> tuple[np.ndarray, list[str]]:
    """Which rows are used, bool [n], and what is said of the others. Raises UserError where nothing can be held out."""
    kept, notes = np.ones(len(label), bool), []

    def leave_out(which: np.ndarray, why: str):
        if (which & kept).any():
            notes.append(f"{(which & kept).sum():,} images left out: {why}")
            kept[which] = False

    names, counts = np.unique(label, return_counts=True)
    rare = names[counts < LEAST_IMAGES]
    leave_out(np.isin(label, rare), f"{', '.join(rare)}, fewer than {LEAST_IMAGES} images")
    bare = [name for name in np.unique(batch) if control[batch == name].all()]
    leave_out(np.isin(batch, bare), f"{', '.join(bare)}, with controls alone")
    if len(np.unique(batch[kept])) < 2:
        raise UserError(f"{folder / TABLE}: fewer than two batches to choose from; none can be held out")
    if len(np.unique(label[kept])) < 2:
        raise UserError(f"{folder / TABLE}: fewer than two classes with {LEAST_IMAGES} images")
    for name in np.unique(label[kept]):
        if len(of := np.unique(batch[kept & (label == name)])) < 2:
            raise UserError(f"{folder / TABLE}: class {name} is in batch {of[0]} alone; leave it out")
    if kept.sum() > MOST_IMAGES:  # evenly over classes and batches
        order = np.lexsort((np.arange(len(label)), label, batch))
        order = order[kept[order]]
        chosen = order[np.linspace(0, len(order) - 1, MOST_IMAGES).astype(int)]
        leave_out(
            ~np.isin(np.arange(len(label)), chosen), f"thinned to {MOST_IMAGES:,}, evenly over batches and classes"
        )
    return kept, notes


def _folds(folder, label, batch) -> np.ndarray:
    """The fold in which each row is held out, int [n]: one for each batch, or FOLDS of whole batches, that divide the
    classes as evenly as whole batches can be."""
    names, number = np.unique(batch, return_inverse=True)
    if len(names) > MOST_BATCHES:
        from sklearn.model_selection import StratifiedGroupKFold

        parts = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(label, label, batch)
        for fold, (_, held) in enumerate(parts):
            number[held] = fold
    for fold in np.unique(number):
        if len(lost := np.setdiff1d(label, label[number != fold])):
            raise UserError(f"{folder / TABLE}: every batch of class {lost[0]} is in one fold of batches; leave it out")
    return number


def within(crops: Crops, fold: int) -> np.ndarray:
    """Which rows of the training batches are scored and not trained on, bool [n]: of each class a fifth of its
    pictures, whole ones, whose choice depends on their names alone."""
    pictures, first, of = np.unique(crops.picture, return_index=True, return_inverse=True)
    drawn = protocols.draw(0, pictures.tolist())
    chosen, training = np.zeros(len(pictures), bool), crops.fold[first] != fold
    for name in np.unique(crops.label):
        here = np.flatnonzero(training & (crops.label[first] == name))
        order = here[np.argsort(drawn[here], kind="stable")]
        chosen[order[: max(len(order) // WITHIN, len(order) > 1)]] = True
    return chosen[of]


def dataset(crops: Crops, fold: int) -> datasets.Dataset:
    """The set with one fold held out: split test, and id_test `within` the others."""
    held = crops.fold == fold
    fitted, beside, _, held_out = SPLITS
    split = np.where(held, held_out, np.where(within(crops, fold), beside, fitted))
    well = np.zeros(len(split), int)
    for batch in np.unique(crops.batch):
        here = crops.batch == batch
        well[here] = np.unique(crops.picture[here], return_inverse=True)[1] % (len(ROWS) * COLUMNS)
    table = {
        "experiment": crops.batch,
        "plate": crops.batch,
        "well": [f"{ROWS[number // COLUMNS]}{number % COLUMNS + 1}" for number in well],
        "perturbation": crops.label,
        "well_type": np.where(crops.control, NEGATIVE_CONTROL, TREATMENT),
        "split": split,
    }
    small = [averaged(crops.arrays[name][row : row + 1], crops.factor) for name, row in crops.where]
    return datasets.from_arrays(as_8_bits(np.concatenate(small), split == fitted), table)


def averaged(pixels: np.ndarray, factor: int) -> np.ndarray:
    """[n, H, W, C] -> [n, H // factor, W // factor, C] of the same dtype: means of squares, rounded."""
    if factor == 1:
        return pixels
    n, height, width, channels = pixels.shape
    height, width = height // factor, width // factor
    blocks = pixels[:, : height * factor, : width * factor].reshape(n, height, factor, width, factor, channels)
    return np.rint(blocks.mean((2, 4))).astype(pixels.dtype)


def as_8_bits(pixels: np.ndarray, training: np.ndarray) -> np.ndarray:
    """[n, H, W, C] as uint8: 16-bit pixels linearly, between the same percentiles of each channel in the training
    images, as `prepare images` does it."""
    if pixels.dtype == np.uint8:
        return pixels
    some = pixels[training].reshape(-1, pixels.shape[-1])
    low, high = np.percentile(some, PERCENTILES, axis=0).round()
    scaled = 255 * (pixels.astype(np.float32) - low) / np.maximum(high - low, 1)
    return np.clip(np.floor(scaled + 0.5), 0, 255).astype(np.uint8)


def digest(folder: pathlib.Path) -> str:
    """The SHA-256 of the table and of all arrays of a set."""
    found = hashlib.sha256()
    for path in (folder / TABLE, *sorted(folder.glob("*.npz"))):
        found.update(f"{path.name} {files.sha256(path, AGAIN)}\n".encode())
    return found.hexdigest()


def make(config, roles):
    """The source of `data.crops`."""
    folder, fold, sha256 = (config.data.crops.as_kwargs()[key] for key in ("folder", "fold", "sha256"))
    folder = pathlib.Path(folder)
    if sha256 and digest(folder) != sha256:
        raise UserError(f"{folder} has changed since this run was planned; run the command again, with --fresh")
    crops = read(folder)
    if not 0 <= fold < crops.folds:
        raise UserError(f"data.crops.fold={fold}: {folder} has folds 0 to {crops.folds - 1}")
    return images.make(config, roles, dataset(crops, fold))


def protocol(dataset) -> Protocol:
    """As `held_out_experiments`, but controls are never scored: those of held-out batches are what methods may anchor
    themselves to."""
    roles, control = held_out_experiments.protocol(dataset).roles, untreated(dataset.sites)
    return Protocol(Roles(roles.fit, {name: rows[~control[rows]] for name, rows in roles.scored.items()}))


def describe(crops: Crops) -> str:
    """One line of a set's numbers."""
    classes, batches = (len(np.unique(column)) for column in (crops.label, crops.batch))
    what = "one batch held out at a time" if crops.folds == batches else f"{crops.folds} folds of whole batches"
    counts = collections.Counter(crops.label.tolist())
    rarest = min(counts, key=counts.get)
    size = "x".join(map(str, crops.shape))
    size += f", averaged over {crops.factor}x{crops.factor} pixels" * (crops.factor > 1)
    return (
        f"{crops.folder.name}: {len(crops.label):,} images of {size}; {classes} classes (the rarest, {rarest}, has "
        f"{counts[rarest]}), {batches} batches, {what}"
    )
