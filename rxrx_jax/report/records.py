"""What the report needs of finished, unfinished and broken runs. What is missing is reported, never raised."""

import dataclasses
import json
import pathlib

from rxrx_jax.base.config import flatten
from rxrx_jax.base.errors import UserError
from rxrx_jax.training import metrics


@dataclasses.dataclass
class Seed:
    """A workdir: training lines, last evaluation, last line, config (empty if absent), what is missing."""

    workdir: pathlib.Path
    training: list[dict] = dataclasses.field(default_factory=list)
    final: dict = dataclasses.field(default_factory=dict)
    done: dict = dataclasses.field(default_factory=dict)
    config: dict = dataclasses.field(default_factory=dict)
    missing: list[str] = dataclasses.field(default_factory=list)


def read_seed(workdir: pathlib.Path) -> Seed:
    """Reads metrics.jsonl and config.json of a workdir."""
    seed = Seed(workdir)
    if not workdir.is_dir():
        seed.missing.append("the run was never started (no workdir)")
        return seed
    path = workdir / metrics.NAME
    try:
        records = metrics.read(path)
        seed.training = [r for r in records if r.get("loss") is not None]
        seed.final = next((r for r in reversed(records) if r.get("final")), {})
        seed.done = records[-1] if records and records[-1].get("done") is True else {}
        if not seed.done:
            seed.missing.append("the run did not finish")
    except (UserError, OSError, ValueError, AttributeError) as e:
        why = f"metrics.jsonl cannot be read ({type(e).__name__})" if path.exists() else "no metrics.jsonl"
        seed.missing.append(why)
    try:
        seed.config = dict(json.loads((workdir / "config.json").read_text()))
    except FileNotFoundError:
        seed.missing.append("no config.json")
    except (OSError, ValueError, TypeError) as e:
        seed.missing.append(f"config.json cannot be read ({type(e).__name__})")
    return seed


def by_experiment(final: dict, name: str) -> dict[str, float]:
    """Accuracy of every experiment from the metrics `NAME/...`, NAME as cross_batch/site_accuracy."""
    known = cell_types(final, name)
    return {e: final[f"{name}/{e}"] for e in known if final.get(f"{name}/{e}") is not None}


def cell_types(final: dict, name: str) -> dict[str, str]:
    """Experiment -> cell type of a metric, as recorded on the same line. Older lines lack it; there the names of
    experiments begin with their cell type's (HUVEC beside HUVEC-01)."""
    if listed := final.get(f"{name.rpartition('/')[0]}/experiments"):
        return {e: cell_type for cell_type, names in json.loads(listed).items() for e in names}
    found = [key.removeprefix(f"{name}/") for key in final if key.startswith(f"{name}/")]
    begins = {e: [c for c in found if e.startswith(f"{c}-")] for e in found}
    first = {c for of in begins.values() for c in of}
    return {e: max(of, key=len, default="") for e, of in begins.items() if e not in first}


def marks_of(final: dict, prefix: str, where: str = "cross_batch") -> str:
    """What the metrics of scored rows under a prefix have seen, from the last evaluation as a dict: T, C, X or ?, or
    several; ? where they are not marked."""
    scored = any(key.startswith(f"{prefix}{where}/") for key in final)
    return final.get(f"marks/{prefix}{where}", "?" * scored)


def choose_for_map(table, lines: list, usable: list[str], limit: int = 4) -> list[tuple[str, str]]:
    """Up to `limit` (run, why it was chosen), by rule and not by picture: the first row's run; of its group, the
    highest cross-batch accuracy and the lowest leakage; runs without a row (pretraining); table order.

    table: of `rxrx_jax.tables`; lines: its `report.table.Line`s. Only rows read without a prefix count, because the
    embeddings are those of the network as trained.
    """
    at = {column.metric: i for i, column in reversed(list(enumerate(table.columns)))}

    def group(line):
        return line.row.labels[table.labels.index(table.group)] if table.group else ""

    def value(line, metric):
        return line.cells[at[metric]].values.get("") if metric in at else None

    with_rows = {run for line in lines for run in line.row.runs}
    plain = [line for line in lines if not line.row.prefix and line.row.run in usable]
    same = [line for line in plain if group(line) == group(plain[0])]
    candidates = [(line.row.run, "first row with embeddings") for line in plain[:1]]
    for metric, best, words in (
        ("cross_batch/site_accuracy", max, "highest cross-batch accuracy"),
        ("leakage/experiment_accuracy", min, "lowest leakage"),
    ):
        if found := [(value(line, metric), line.row.run) for line in same if value(line, metric) is not None]:
            candidates.append((best(found, key=lambda pair: pair[0])[1], words))
    candidates += [(run, "no row of its own") for run in usable if run not in with_rows]
    candidates += [(line.row.run, "next in the table") for line in same + plain]
    chosen = {}
    for run, why in candidates:
        if run in chosen and why not in chosen[run] and not why.startswith("next"):
            chosen[run] += f", {why}"
        elif len(chosen) < limit:
            chosen.setdefault(run, why)
    return list(chosen.items())


def describe_config(config: dict, reference: dict | None, show=lambda value: value) -> tuple[str, str]:
    """(summary, text) of a config: all of it, or where it differs from `reference`. `show` maps values."""
    flat, base = flatten(config), flatten(reference or {})
    lines = {key: f"{key} = {json.dumps(show(value), ensure_ascii=False)}" for key, value in flat.items()}
    if reference is None:
        return "config of the first seed", "\n".join(lines[key] for key in sorted(flat))
    missing = object()
    changed = sorted(k for k in flat.keys() | base.keys() if flat.get(k, missing) != base.get(k, missing))
    text = "\n".join(lines.get(key, f"{key} is not set") for key in changed)
    return f"config: {len(changed)} differences", text or "none"


def sites_scored(seeds: list[Seed], prefix: str, splits: dict[str, str]) -> str:
    """How many sites the accuracies of a table row were taken over, for each split (metric name -> words)."""
    found = {}
    for split, words in splits.items():
        counts = {str(s.final[key]) for s in seeds if (key := f"{prefix}{split}/sites") in s.final}
        if counts:
            found[words] = " or ".join(sorted(counts))
    return "; ".join(f"{words} {count}" for words, count in found.items()) or "unknown"
