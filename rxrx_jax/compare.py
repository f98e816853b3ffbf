"""`python -m rxrx_jax.compare RUN RUN ... [--json]`: finished runs of one protocol on the same data, side by side.

RUN is a workdir. Prints where their configs differ, their accuracies, and the difference of each to the first one,
paired by experiment, with its 95 % interval and the p of a sign-flip test over experiments. Runs of other protocols,
layouts or data cannot be compared and are refused. `--json` prints one JSON object instead.
"""

import argparse
import json
import math
import pathlib
import sys
from typing import Any

from rxrx_jax.base import command
from rxrx_jax.base.config import flatten
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.roles import ROLES
from rxrx_jax.evaluate import intervals, protocols
from rxrx_jax.report import records
from rxrx_jax.report.records import Seed

KINDS = ("site_accuracy", "well_accuracy", "balanced_accuracy", "site", "well", "plate_group", "hungarian")
ELSEWHERE = ("resolved", "init.path", "data.folder", "data.cache")  # places, and what follows from other keys


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m rxrx_jax.compare", description=__doc__.split("\n")[0])
    parser.add_argument("run", nargs="+", type=pathlib.Path, help="workdirs of finished runs, the baseline first")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    found = compare([pathlib.Path(path) for path in arguments.run])
    print(json.dumps(found, indent=2, allow_nan=False) if arguments.json else text(found))


def compare(workdirs: list[pathlib.Path]) -> dict[str, Any]:
    """What runs have in common and where they differ.

    Returns {"runs": names, "protocol", "config": {key: [value of each run, None where it has none]}, "metrics": {name:
    {"values": [of each run], "marks": [of each], "differences": [of each but the first: {"difference", "low", "high",
    "p", "how"}, null where undefined; {} where a metric is not by experiment]}}}.
    Raises UserError, one line, for fewer than two runs, one that is not finished, and runs that are not comparable.
    """
    if len(workdirs) < 2:
        raise UserError("name at least two runs to compare")
    seeds = [records.read_seed(path) for path in workdirs]
    for seed in seeds:
        if seed.missing or not seed.final:
            raise UserError(f"{seed.workdir}: {'; '.join(seed.missing) or 'it has no last evaluation'}")
    for other in seeds[1:]:
        _check_comparable(seeds[0], other)
    flat = [_settings(seed.config) for seed in seeds]
    keys = [key for key in sorted(set().union(*flat)) if any(of.get(key) != flat[0].get(key) for of in flat)]
    shared = [name for name in seeds[0].final if _is_metric(name) and all(name in seed.final for seed in seeds)]
    return {
        "runs": [str(path) for path in workdirs],
        "protocol": protocols.of_run(workdirs[0]),
        "config": {key: [of.get(key) for of in flat] for key in keys},
        "metrics": {
            name: {
                "values": [seed.final[name] for seed in seeds],
                "marks": [_marks(seed.final, name) for seed in seeds],
                "differences": [_difference(name, seeds[0], other) for other in seeds[1:]],
            }
            for name in shared
        },
    }


def _check_comparable(one: Seed, other: Seed) -> None:
    """Raises UserError where a difference of two runs would not be one of their methods."""

    def facts(seed: Seed) -> dict[str, Any]:
        data = seed.config.get("data", {})
        return {
            "protocol": protocols.of_run(seed.workdir),
            "layout": data.get("builder", {}).get("layout", ""),
            "dataset": data.get("name", ""),
            "data": seed.done.get("data", ""),
            "partial dataset": seed.done.get("partial", ""),
        }

    for (what, ours), theirs in zip(facts(one).items(), facts(other).values()):
        if ours != theirs:
            raise UserError(
                f"{one.workdir} and {other.workdir} cannot be compared: their {what} differs, "
                f"{ours or 'none'!r} and {theirs or 'none'!r}"
            )


def _settings(config: dict) -> dict[str, Any]:
    flat = flatten({key: value for key, value in config.items() if key not in ELSEWHERE})
    return {key: value for key, value in flat.items() if key not in ELSEWHERE}


def _is_metric(name: str) -> bool:
    """Whether this is an accuracy over all rows of a role, and not of one cell type or experiment."""
    *where, kind = name.split("/")
    return kind in KINDS and bool(ROLES.keys() & set(where)) and where[0] not in ("marks", "best", "last")


def _marks(final: dict, name: str) -> str:
    """The marks of a metric: of its role, and its own."""
    parts = name.split("/")
    role = next(i for i, part in enumerate(parts) if part in ROLES)
    found = (final.get(f"marks/{'/'.join(parts[:end])}", "") for end in (role + 1, len(parts)))
    return "".join(dict.fromkeys("".join(found)))


def _difference(name: str, one: Seed, other: Seed) -> dict[str, Any]:
    """Of `other` less `one`, paired by experiment; {} for a metric that is not given by experiment."""
    ours, theirs = records.by_experiment(other.final, name), records.by_experiment(one.final, name)
    if not ours or not theirs:
        return {}
    try:
        pairs = intervals.paired(ours, theirs)
    except ValueError as error:
        raise UserError(f"{one.workdir} and {other.workdir} cannot be compared by {name}: {error}") from None
    made = intervals.over_experiments(pairs, records.cell_types(one.final, name))
    p, how = intervals.sign_flip(list(pairs.values()))
    numbers = {"difference": made.mean, "low": made.low, "high": made.high, "p": p}
    known = {key: value if math.isfinite(value) else None for key, value in numbers.items()}
    return known | {"how": f"{made.how}; {how}" if how else f"{made.how}: no interval"}


def text(found: dict[str, Any]) -> str:
    """What `compare` returns, as lines for a terminal."""
    names = [chr(ord("A") + i) if i < 26 else str(i + 1) for i in range(len(found["runs"]))]
    lines = [f"{name}  {run}" for name, run in zip(names, found["runs"])] + [f"protocol {found['protocol']}", ""]
    for key, values in found["config"].items():
        lines.append(f"{key}: {', '.join(f'{name} {json.dumps(value)}' for name, value in zip(names, values))}")
    lines += ["configs are equal"] * (not found["config"])
    hows = dict.fromkeys(of["how"] for m in found["metrics"].values() for of in m["differences"] if of)
    for metric, of in found["metrics"].items():
        shown = [f"{n} {v:.3f} {m}".rstrip() for n, v, m in zip(names, of["values"], of["marks"]) if v is not None]
        lines += ["", f"{metric}: {', '.join(shown)}"]
        for name, difference in zip(names[1:], of["differences"]):
            if difference:
                lines.append(f"  {name} less A {_in_words(difference)}")
    return "\n".join([*lines, "", *hows]) if hows else "\n".join(lines)


def _in_words(of: dict[str, Any]) -> str:
    interval = "no interval" if of["low"] is None else f"{of['low']:+.3f} to {of['high']:+.3f}"
    return f"{of['difference']:+.3f} ({interval})" + ("" if of["p"] is None else f", p {of['p']:.3f}")


if __name__ == "__main__":
    sys.exit(command.run(main))
