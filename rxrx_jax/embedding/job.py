"""A job from its folder to its end: what is done, this host's share, the checks."""

import concurrent.futures
import io
import json
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
import tqdm
from etils import epath

from rxrx_jax import data
from rxrx_jax.base import embeddings, files, hosts, lock
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.minibatches import read_ahead
from rxrx_jax.data.records import Tiles
from rxrx_jax.embedding.pace import Pace
from rxrx_jax.embedding.work import Plate, Work, deal, plates_of, too_many, write_plate
from rxrx_jax.training import metrics
from rxrx_jax.training.safety.preemption import Stopped
from rxrx_jax.training.safety.watchdog import Watchdog

JOB, PLATES, PARTS, UNREADABLE = "job.json", embeddings.PLATES, "parts", "unreadable"
PATIENCE = 1200  # seconds without a minibatch after which a host is stuck, as in training
STOP, FINISHED = "embed/stop", "embed/finished"  # boards of the hosts


def claim(folder: epath.Path, about: str, own: bool) -> None:
    """Makes the folder of a job, for the first host; that of another job or of something else is refused. Args: own,
    whether nobody but this program has anything in it."""
    path = folder / JOB
    if path.exists():
        if path.read_text() != about:
            raise UserError(f"{folder} holds plates of other embeddings; delete it or use another --out")
        return
    if own:  # half removed: its plates may be of any job
        for child in folder.iterdir() if folder.exists() else ():
            if child.name != lock.NAME:
                child.rmtree() if child.is_dir() else child.unlink()
    elif any((folder / name).exists() for name in ("config.json", metrics.NAME, embeddings.NAME, PLATES)):
        raise UserError(f"{folder} holds something else than embeddings by plates; use another --out")
    for name in (PLATES, PARTS, UNREADABLE):
        (folder / name).mkdir(parents=True, exist_ok=True)
    files.write(path, about)


def run(work: Work, folder: epath.Path, stopping: Callable[[], bool] = lambda: False) -> dict:
    """Embeds what is missing in the folder, which is claimed; all hosts call it. Returns embeddings.json.

    Raises Stopped, on all hosts, after `stopping()` on one; UserError for more unreadable records than allowed.
    """
    plates = plates_of(work.dataset)
    listing = hosts.on_first_host(lambda: _list(folder))
    left = [plate for plate in plates if f"{plate.name}.parquet" not in listing[PLATES]]
    dealt = deal([len(plate.rows) for plate in left], jax.process_count())
    mine = [left[i] for i in dealt[jax.process_index()]]
    host = _Host(work, folder, mine, {*listing[PARTS]}, listing["count"], max(_sizes(left, dealt), default=0))
    hosts.say(_plan(work, plates, left))
    with Watchdog(folder, PATIENCE, jax.process_index(), jax.process_count()) as watchdog:
        host.work_through(watchdog, stopping)
        hosts.pin(FINISHED)
        while hosts.pinned(FINISHED) < jax.process_count() > 1:
            _heed_stop(stopping)
            watchdog.at("waiting for the others", 0)
            time.sleep(0.2)
    return hosts.on_first_host(lambda: _finish(work, folder, plates, host.pace))


def _sizes(left: list[Plate], dealt: list[list[int]]) -> list[int]:
    return [sum(len(left[i].rows) for i in numbers) for numbers in dealt]


def _list(folder: epath.Path) -> dict:
    """What a job has done, as names of files, and how many records it left out."""
    found = {}
    for name in (PLATES, PARTS, UNREADABLE):
        place = folder / name  # an object store has no empty folders
        found[name] = sorted(path.name for path in place.iterdir()) if place.exists() else []
    done = {int(name[:6]) for name in found[PLATES] if name.endswith(".parquet")}
    lost = {int(name[:6]) for name in found[UNREADABLE]}
    found["count"] = sum(len(left_out(folder, number)) for number in done & lost)
    return found


def left_out(folder: epath.Path, number: int) -> list[str]:
    """Names of the sites of a plate that could not be read."""
    path = folder / UNREADABLE / f"{number:06d}.json"
    return json.loads(path.read_text()) if path.exists() else []


def _plan(work: Work, plates: list[Plate], left: list[Plate]) -> str:
    sites, wells = len(work.dataset.sites), len(np.unique(work.dataset.sites.well_id))
    tiles = len(work.tops) * len(work.lefts)
    done = sites - sum(len(plate.rows) for plate in left)
    return (
        f"plan: {len(plates):,} plates, {wells:,} wells, {sites:,} sites, {tiles} tiles of {work.crop} pixels each, on "
        f"{jax.process_count()} hosts of {work.chips} chips; {done:,} sites are done"
    )


def _heed_stop(stopping: Callable[[], bool]) -> None:
    """Raises Stopped when this host or another was asked to stop."""
    if stopping():
        hosts.pin(STOP)
    elif not hosts.pinned(STOP):
        return
    hosts.say("stopped: what is finished is kept; the same command resumes")
    raise Stopped()


class _Host:
    """This host's share of a job."""

    def __init__(self, work: Work, folder: epath.Path, plates: list[Plate], parts: set[str], lost: int, most: int):
        self._work, self._folder, self._plates, self._parts, self._lost = work, folder, plates, parts, lost
        sites = work.dataset.sites
        self.pace = Pace(most, len(np.unique(sites.well_id)) / len(sites), work.chips)
        # Rows of tiles are parts of the work where they can be read alone.
        tiled = all(isinstance(getattr(x, "images", x), Tiles) for x in work.dataset.sources.values())
        self._units = [[top] for top in work.tops] if tiled else [work.tops]

    def work_through(self, watchdog: Watchdog, stopping: Callable[[], bool]) -> None:
        size, elements = self._work.minibatch, []
        for plate in self._plates:
            units = [unit for unit in self._units if self._part(plate, unit) not in self._parts]
            if not units:  # killed before the plate was written
                self._complete(plate, None)
            starts = range(0, len(plate.rows), size)
            elements += [(plate, unit, start) for unit in units for start in starts]
        total, found, readable = sum(len(plate.rows) for plate in self._plates), [], []
        with tqdm.tqdm(total=total, unit=" images", desc="embed", disable=jax.process_index() > 0) as bar:
            for number, ((plate, unit, start), made, valid) in enumerate(self._made(elements), 1):
                watchdog.at("embedding", number)
                _heed_stop(stopping)
                found, readable = [*found, made], [*readable, valid]
                share = len(unit) / len(self._work.tops) * len(valid)
                bar.update(share)
                if line := self.pace.add(share, number == len(elements)):
                    watchdog.moving()
                    hosts.say(line)
                if start + size >= len(plate.rows):
                    whole = np.concatenate(found, 1), np.concatenate(readable)
                    found, readable = [], []
                    self._check_budget(plate, whole[1])
                    if len(self._units) == 1:
                        self._complete(plate, whole)
                    else:
                        self._keep(plate, unit, whole)

    def _made(self, elements: list) -> Iterator[tuple]:
        """(element, float32 [R, n, D], valid [n]) of each, one minibatch late, so that the devices do not wait."""
        if not elements:
            return
        late = None
        for element, (tiles, plate, valid) in zip(elements, read_ahead(elements, map_with=self._read)):
            now = element, self._work.embed(tiles, plate), valid
            if late:
                yield late[0], np.asarray(late[1])[:, : len(late[2])], late[2]
            late = now
        yield late[0], np.asarray(late[1])[:, : len(late[2])], late[2]

    def _read(self, element) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tiles [B, R, T, S, S, C] and plates [B] of a minibatch, padded, and which of its n images can be read."""
        plate, unit, start = element
        work, rows = self._work, plate.rows[start:][: self._work.minibatch]
        at = np.array([(top, left) for top in unit for left in work.lefts])
        lanes = np.repeat(rows, len(at)), work.crop, np.tile(at, (len(rows), 1)), work.minibatch * len(at)
        read = data.read_minibatch(work.dataset, work.dataset.sites, *lanes, go_on=True)
        tiles = read["image"].reshape(work.minibatch, len(unit), len(work.lefts), *read["image"].shape[1:])
        valid = read["valid"].reshape(work.minibatch, -1)[: len(rows)].all(1)
        return tiles, read["plate"].reshape(work.minibatch, -1)[:, 0], valid

    def _check_budget(self, plate: Plate, readable: np.ndarray) -> None:
        lost, allowed = self._lost + int((~readable).sum()), self._work.unreadable
        if lost > allowed:
            raise UserError(too_many(self._work.dataset, lost, plate.rows[~readable], allowed))

    def _part(self, plate: Plate, unit: list[int]) -> str:
        return f"{plate.number:06d}-row-{unit[0]:04d}.npz" if len(self._units) > 1 else ""

    def _keep(self, plate: Plate, unit: list[int], whole: tuple[np.ndarray, np.ndarray]) -> None:
        """Keeps a row of tiles; with the last one of a plate, the plate."""
        path = self._folder / PARTS / self._part(plate, unit)
        content = io.BytesIO()
        np.savez(content, embedding=whole[0], readable=whole[1])
        files.write(path, content.getvalue())
        self._parts.add(path.name)
        if all(self._part(plate, other) in self._parts for other in self._units):
            self._complete(plate, None)

    def _complete(self, plate: Plate, whole: tuple[np.ndarray, np.ndarray] | None) -> None:
        """Writes a plate of (rows of tiles [R, n, D], readable [n]), or of its parts, which are removed."""
        paths = [self._folder / PARTS / self._part(plate, unit) for unit in self._units]
        if whole is None:
            kept = [np.load(io.BytesIO(path.read_bytes())) for path in paths]
            readable = np.all([part["readable"] for part in kept], 0)
            self._check_budget(plate, readable)
            whole = np.concatenate([part["embedding"] for part in kept]), readable
        embedding, readable = whole[0].mean(0), whole[1]
        self._lost += int((~readable).sum())
        if not readable.all():
            names = self._work.dataset.sites.site_id[plate.rows[~readable]].tolist()
            files.write(self._folder / UNREADABLE / f"{plate.number:06d}.json", json.dumps(names))
        write_plate(self._work, plate.rows[readable], embedding[readable], self._folder / PLATES / plate.name)
        for path in paths if len(self._units) > 1 else ():
            path.unlink(missing_ok=True)


def _finish(work: Work, folder: epath.Path, plates: list[Plate], pace: Pace) -> dict:
    """Checks what was written against the manifest and writes embeddings.json and the last line; the first host's."""
    sites, lost = work.dataset.sites, {plate.number: left_out(folder, plate.number) for plate in plates}
    if (count := sum(map(len, lost.values()))) > work.unreadable:  # of several hosts, each within it
        first = next(name for names in lost.values() for name in names)
        raise UserError(too_many(work.dataset, count, np.flatnonzero(sites.site_id == first), work.unreadable))
    paths = [folder / PLATES / f"{plate.name}.parquet" for plate in plates]
    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        rows = list(threads.map(embeddings.count_rows, paths))
    for plate, path, found in zip(plates, paths, rows):
        kept = plate.rows[~np.isin(sites.site_id[plate.rows], lost[plate.number])]
        expected = len(kept) if work.per == "site" else len(np.unique(sites.well_id[kept]))
        if found != expected:
            raise UserError(f"{path} has {found} rows and manifest.csv {expected}; delete it and start again")
    for path in (folder / PARTS).iterdir() if (folder / PARTS).exists() else ():
        path.unlink()  # of a plate after which its host was killed
    index = {
        "rows": sum(rows),
        "plates": {path.name: {"plate": p.title, "rows": n} for p, path, n in zip(plates, paths, rows)},
        "unreadable": [name for names in lost.values() for name in names],
    }
    files.write(folder / embeddings.INDEX, json.dumps(index, indent=1))
    last = {"step": len(sites), "done": True, "rows": sum(rows), "unreadable": count}
    last |= {"wells_per_second_per_chip": pace.rate} if pace.rate else {}
    files.write(folder / metrics.NAME, json.dumps(last) + "\n")
    return index
