"""Rows of a prepared dataset -> minibatches, read by Grain.

A minibatch is a dict of numpy arrays, this host's part of the global one:
image uint8 [B, S, S, C], a window of the record (a random one in training, the centre in evaluation); label int32 [B],
-1 where unknown or hidden; experiment, plate, cell_type int32 [B], indices into the dataset's lists; row int64 [B], the
site's row in `Dataset.sites`; valid bool [B], False for padding and where the record cannot be read; where the
protocol has one, context float32 [B, d].
"""

import concurrent.futures
import functools
import sys
import threading

import jax
import numpy as np

from rxrx_jax.base.command import cores
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.files.stores import AT_ONCE, Unreachable
from rxrx_jax.data.batch import CONTROLS
from rxrx_jax.data.dataset import Dataset
from rxrx_jax.data.records import write_window
from rxrx_jax.data.roles import hide_labels
from rxrx_jax.data.sampler import Sampler
from rxrx_jax.data.sites import Sites

KEYS = ("label", "experiment", "plate", "cell_type")
_said, _saying = set(), threading.Lock()


def read_minibatch(
    dataset: Dataset,
    sites: Sites,
    rows: np.ndarray,
    crop: int | None = None,
    corners: np.ndarray | None = None,
    size: int | None = None,
    go_on: bool = False,
) -> dict[str, np.ndarray]:
    """Reads a window of each record of `rows` [n], padded to `size` with black, unlabelled, invalid images.

    Args: crop, side of the windows in pixels, None for whole images; corners [n, 2], (top, left) of each window, None
    for the centre; go_on, whether an unreadable record is reported on stderr and becomes a black image that is not
    valid; otherwise it raises UserError.
    """
    size = len(rows) if size is None else size
    *whole, channels = dataset.image_shape
    height, width = (crop, crop) if crop else whole
    if corners is None:
        corners = np.broadcast_to(centre(dataset.image_shape, height, width), (len(rows), 2))
    image = np.empty((size, height, width, channels), np.uint8)
    image[len(rows) :] = 0
    valid = np.arange(size) < len(rows)

    def read(lanes):
        row = rows[lanes.start]
        try:
            record = dataset.sources[sites.split[row]][int(sites.index[row])]
            if len(lanes) > 1 and not hasattr(record, "write"):
                record = record[:, :]  # decoded once for all of its windows
            for lane in lanes:
                top, left = corners[lane]
                write_window(record, (slice(top, top + height), slice(left, left + width)), image[lane])
        except Unreachable:  # which is not of this record
            raise
        except ValueError as error:
            reason = f"{describe_record(dataset, row)} cannot be read: {error}"
            if not go_on:
                raise UserError(f"{reason}; `python -m tfds_builders.verify` lists all such records") from error
            _say_once(f"host {jax.process_index()}: {reason}")
            valid[lanes.start : lanes.stop], image[lanes.start : lanes.stop] = False, 0

    ends = [*(np.flatnonzero(np.diff(rows)) + 1).tolist(), len(rows)] if len(rows) else []
    list(_threads(bool(dataset.address)).map(read, map(range, [0, *ends], ends)))
    minibatch = {"image": image, "valid": valid}
    for key in KEYS:
        padding = -1 if key == "label" else 0
        minibatch[key] = np.full(size, padding, np.int32)
        minibatch[key][: len(rows)] = getattr(sites, key)[rows]
    if (context := dataset.roles.context) is not None:
        minibatch["context"] = np.zeros((size, context.shape[1]), np.float32)
        minibatch["context"][: len(rows)] = context[rows]
    minibatch["row"] = np.full(size, -1, np.int64)
    minibatch["row"][: len(rows)] = rows
    return minibatch


def centre(image_shape: tuple, height: int, width: int) -> tuple[int, int]:
    """The corner (top, left) of the window in the middle of an image."""
    return (image_shape[0] - height) // 2, (image_shape[1] - width) // 2


def describe_record(dataset: Dataset, row: int) -> str:
    """Describes a record by everything that helps to find it."""
    sites = dataset.sites
    return (
        f"{sites.site_id[row]} (experiment {dataset.experiments[sites.experiment[row]]}, plate "
        f"{dataset.plates[sites.plate[row]]}, record {sites.index[row]} of {sites.split[row]} in "
        f"{dataset.address or dataset.folder})"
    )


def _say_once(line: str) -> None:
    with _saying:  # threads may meet a record at the same time
        if line not in _said:
            _said.add(line)
            print(line, file=sys.stderr, flush=True)


@functools.cache
def _threads(wait: bool) -> concurrent.futures.ThreadPoolExecutor:
    """One for all readers: decoding releases Python's lock, and more threads than cores would only take turns, unless
    they `wait` for an object store."""
    return concurrent.futures.ThreadPoolExecutor(max(len(cores()), AT_ONCE if wait else 1), "read")


def crop_corners(seed: int, step: int, count: int, image_shape: tuple, crop: int) -> np.ndarray:
    """Corners (top, left) of the random windows of minibatch `step`, uniform over all places: int64 [count, 2].

    Those of position i are a function of (seed, step, i) alone, from Philox, a generator that counts (Salmon et al.
    2011, "Parallel random numbers: as easy as 1, 2, 3").
    """
    bits = np.random.Philox(key=seed, counter=[0, step, 0, 0]).random_raw(2 * count).reshape(count, 2)
    places = np.array([image_shape[0] - crop + 1, image_shape[1] - crop + 1], np.uint64)
    return ((bits >> np.uint64(32)) * places >> np.uint64(32)).astype(np.int64)


class _Steps:
    """A Grain random-access source whose element number i is this host's part of minibatch number i."""

    def __init__(self, dataset: Dataset, samplers: dict[str, Sampler], steps: int, crop: int, seed: int, window: str):
        self.dataset, self.samplers, self.steps, self.crop, self.seed = dataset, samplers, steps, crop, seed
        self.window = window
        self.sites = hide_labels(dataset.sites, dataset.roles.fit)

    def __len__(self):
        return self.steps

    def __getitem__(self, step):
        step = int(step)
        rows = [sampler.rows(step) for sampler in self.samplers.values()]
        total = sum(map(len, rows))
        corners = self._corners(step, total)
        of_sampler = np.split(corners, np.cumsum([len(r) for r in rows])[:-1])
        here, corners = (list(map(host_part, parts)) for parts in (rows, of_sampler))
        rows, corners = np.concatenate(here), np.concatenate(corners)
        minibatch = read_minibatch(self.dataset, self.sites, rows, self.crop, corners, go_on=True)
        streams, first = {}, 0
        for (name, sampler), part in zip(self.samplers.items(), here):
            lanes = slice(first, first + len(part))
            stand_in(minibatch, lanes, sampler.unit)
            streams[name] = {key: values[lanes] for key, values in minibatch.items() if key != "row"}
            first += len(part)
            if name == CONTROLS:  # no loss is taken of them
                streams[name]["label"] = np.full(len(part), -1, np.int32)
        return streams

    def _corners(self, step: int, total: int) -> np.ndarray:
        shape = self.dataset.image_shape
        if self.window == "centre":
            return np.tile(centre(shape, self.crop, self.crop), (total, 1))
        return crop_corners(self.seed, step, total, shape, self.crop)


def host_part(rows: np.ndarray) -> np.ndarray:
    """This host's contiguous part of a global minibatch."""
    return np.array_split(rows, jax.process_count())[jax.process_index()]


def stand_in(minibatch: dict[str, np.ndarray], lanes: slice, unit: int) -> None:
    """Replaces each record among these lanes that is not valid by the next one that is, from the beginning
    after the last, with all that is known of it; of every `unit` lanes, which belong together, all. `valid` stays.

    Raises UserError when none is valid.
    """
    valid = minibatch["valid"][lanes].reshape(-1, unit).all(1)
    if valid.all():
        return
    if not valid.any():
        raise UserError(f"no record of this host's part of a minibatch can be read ({len(valid) * unit}, named above)")
    lost, found = np.flatnonzero(~valid), np.flatnonzero(valid)
    following = found[np.searchsorted(found, lost) % len(found)]
    for key, values in minibatch.items():
        if key != "valid":
            values = values[lanes].reshape(-1, unit, *values.shape[1:])  # a view
            values[lost] = values[following]


def training_minibatches(
    dataset: Dataset,
    samplers: dict[str, Sampler],
    steps: int,
    start: int,
    crop: int,
    seed: int,
    window: str = "random",
):
    """Iterator over this host's part of minibatches start, start+1, .. steps-1: {stream: {name: [n, ...]}}, each stream
    from its own sampler, of each record a window of `crop` x `crop` pixels: a random one (`crop_corners`), or with
    window="centre" that of evaluation.

    Labels outside the protocol's fit rows are hidden here, before anything else sees a minibatch. In place of a
    record that cannot be read, reported on stderr, stands another of this host's part (`stand_in`), with `valid`
    False: the sum of that over all hosts is how many are missing.
    """
    return read_ahead(_Steps(dataset, samplers, steps, crop, seed, window), start)


def evaluation_minibatches(dataset: Dataset, rows: np.ndarray, size: int, crop: int | None = None, go_on: bool = False):
    """Iterator over this host's part of minibatches that hold each of `rows` exactly once, labels shown; the last one
    is padded to `size` with `valid` False. Images are the centre of `crop` x `crop` pixels, or whole.

    A record that cannot be read raises UserError; with go_on it is reported on stderr, black, and not valid.
    """
    local = size // jax.process_count()

    def read(start):
        lanes = host_part(np.arange(start, start + size))
        return read_minibatch(dataset, dataset.sites, rows[lanes[lanes < len(rows)]], crop, size=local, go_on=go_on)

    return read_ahead(list(range(0, len(rows), size)), map_with=read)


def read_ahead(elements, start: int = 0, map_with=None):
    """Iterator over elements from number `start`, read in the background, three minibatches ahead at most."""
    import grain  # with Orbax: a second that `--help` of a command does not wait for

    source = grain.MapDataset.source(elements)[start:]
    source = source.map(map_with) if map_with else source
    return iter(source.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=3)))
