"""One trial: a pristine input, damage to it, what a reader makes of that, and whether it may."""

import dataclasses
import pathlib
import random
import resource
import shutil
import time
import traceback
from collections.abc import Callable
from typing import Any

import mutations

from rxrx_jax.base.errors import to_the_user

SECONDS, MEMORY, LONGEST = 10.0, 512 * 2**20, 4000  # of CPU, bytes, characters of a message; of one trial


@dataclasses.dataclass
class Found:
    """What a reader gave: values by name, to be compared, and how many it named or counted as not usable."""

    items: dict[Any, Any]
    lost: int = 0


@dataclasses.dataclass(frozen=True)
class Damage:
    """What was done to an input; repaired: its checksums were made right again, as an attacker would."""

    names: list[str]
    repaired: bool = False

    def only(self, *names: str) -> bool:
        return all(name in names for name in self.names)


class Wrong(Exception):
    """An invariant does not hold; the message says which."""


def same_or_lost(expected: Found, found: Found, damage: Damage, folder: pathlib.Path) -> str:
    """All that was read is what was there, and what is missing is counted."""
    wrong = [name for name, value in found.items.items() if name not in expected.items or expected.items[name] != value]
    if wrong:
        raise Wrong(f"wrong record: {wrong[0]!r} ({len(wrong)} in all)")
    missing = len(expected.items) - len(found.items)
    if missing > found.lost:
        raise Wrong(f"silent loss: {missing} missing, {found.lost} counted")
    return "fewer" if missing else "same"


def if_checked(by: Callable[[Damage], bool], form: Callable[[Any], Any]) -> Callable:
    """As `same_or_lost` where the format itself can show this damage; otherwise values may differ, forms may not."""

    def judge(expected: Found, found: Found, damage: Damage, folder: pathlib.Path) -> str:
        if by(damage):
            return same_or_lost(expected, found, damage, folder)
        forms = lambda of: Found({name: form(value) for name, value in of.items.items()}, of.lost)  # noqa: E731
        said = same_or_lost(forms(expected), forms(found), damage, folder)
        changed = any(expected.items[name] != value for name, value in found.items.items())
        return "changed" if changed else said

    return judge


@dataclasses.dataclass(frozen=True)
class Target:
    """A reader.

    make(folder) writes its input; read(folder) reads it, and raises UserError where it refuses; judge returns same,
    fewer or changed, or raises Wrong; files: the patterns of those to damage; repair(folder, path) makes checksums
    right again, False where there are none; whole: the share of trials that damage a file as a whole.
    """

    name: str
    make: Callable[[pathlib.Path], None]
    read: Callable[[pathlib.Path], Found]
    judge: Callable = same_or_lost
    files: tuple[str, ...] = ("**/*",)
    repair: Callable[[pathlib.Path, pathlib.Path], bool | None] | None = None
    whole: float = 0.1


class Bench:
    """A target with its pristine input in `folder`, to which trials do not come."""

    def __init__(self, target: Target, folder: pathlib.Path):
        self.target, self.folder = target, folder / target.name.replace(" ", "_")
        self.pristine, self.copy = self.folder / "pristine", self.folder / "trial"
        self.pristine.mkdir(parents=True)
        target.make(self.pristine)
        found = {path for pattern in target.files for path in self.pristine.glob(pattern) if path.is_file()}
        self.files = sorted(path.relative_to(self.pristine) for path in found)
        mutations.copy(self.pristine, self.copy)
        self.expected = target.read(self.copy)
        shutil.rmtree(self.copy)

    def trial(self, seed: int, number: int, show: bool = False) -> tuple[str, str]:
        """(outcome, about), and with `show` the traceback. Outcomes are same, fewer, changed, refused; or traceback,
        wrong, time, memory, which are findings."""
        rng = random.Random(f"{seed}/{self.target.name}/{number}")
        mutations.copy(self.pristine, self.copy)
        try:
            damage = self._damage(rng)
            before, start = _memory(reset=True), time.process_time()
            outcome, about = self._read(damage, show)
            seconds, memory = time.process_time() - start, _memory() - before
        finally:
            shutil.rmtree(self.copy)
        about = f"{', '.join(damage.names)}{' (repaired)' * damage.repaired}: {about}"
        if seconds > SECONDS:
            return "time", f"{seconds:.0f} s; {about}"
        if memory > MEMORY:
            return "memory", f"{memory / 2**20:.0f} MiB; {about}"
        return outcome, about

    def _damage(self, rng: random.Random) -> Damage:
        paths = [self.copy / name for name in self.files]
        if rng.random() < self.target.whole:
            return Damage(mutations.of_folder(rng, self.copy, paths))
        path = rng.choice(paths)
        data, names = mutations.of_bytes(rng, path.read_bytes())
        mutations.write(path, data)
        wanted = self.target.repair is not None and rng.random() < 0.5
        repaired = wanted and self.target.repair(self.copy, path) is not False
        return Damage([*names, str(path.relative_to(self.copy))] if len(paths) > 1 else names, repaired)

    def _read(self, damage: Damage, show: bool) -> tuple[str, str]:
        try:
            return self.target.judge(self.expected, self.target.read(self.copy), damage, self.copy), ""
        except Wrong as error:
            return "wrong", str(error)
        except Exception as error:
            if show:
                traceback.print_exception(error)
            line = to_the_user(error)
            if line is None:
                last = traceback.extract_tb(error.__traceback__)[-1]
                where = "".join(traceback.format_exception(error)).splitlines()
                ours = [text.strip() for text in where if "/rxrx_jax/" in text or "/tfds_builders/" in text][-1:]
                return "traceback", f"{type(error).__name__}: {str(error)[:200]} at {last.name}; {ours}"
            if len(line.splitlines()) != 1 or len(line) > LONGEST:
                return "wrong", f"not a line: {line[:300]!r}"
            return "refused", line[:200]


def _memory(reset: bool = False) -> int:
    """Bytes: the most that this process has held since it was last reset; with `reset` what it holds now."""
    try:
        if reset:
            pathlib.Path("/proc/self/clear_refs").write_text("5")
        text = pathlib.Path("/proc/self/status").read_text()
        return int(text.split("VmHWM:")[1].split()[0]) * 1024
    except OSError:  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
