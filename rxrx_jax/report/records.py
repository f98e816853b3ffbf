"""What the report needs of finished, unfinished and broken runs. What is missing is said, never raised."""

import dataclasses
import json
import pathlib

import numpy as np

from rxrx_jax.base import embeddings
from rxrx_jax.base.errors import UserError
from rxrx_jax.evaluate import protocols
from rxrx_jax.evaluate.embeddings import as_dataset
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
    try:
        records = metrics.read(workdir / "metrics.jsonl")
        seed.training = [r for r in records if r.get("loss") is not None]
        seed.final = next((r for r in reversed(records) if r.get("final")), {})
        seed.done = records[-1] if records and records[-1].get("done") is True else {}
        if not seed.done:
            seed.missing.append("the run did not finish")
    except FileNotFoundError:
        seed.missing.append("no metrics.jsonl")
    except (UserError, OSError, ValueError, AttributeError) as e:
        seed.missing.append(f"metrics.jsonl cannot be read ({type(e).__name__})")
    try:
        seed.config = dict(json.loads((workdir / "config.json").read_text()))
    except FileNotFoundError:
        seed.missing.append("no config.json")
    except (OSError, ValueError, TypeError) as e:
        seed.missing.append(f"config.json cannot be read ({type(e).__name__})")
    return seed


def read_embeddings(workdir: pathlib.Path) -> dict[str, np.ndarray] | str:
    """site_id, role and embedding of the in-batch and cross-batch rows of embeddings.parquet, as the protocol in the
    run's config divides them, or why there are none."""
    name = embeddings.NAME
    if not (workdir / name).exists():
        return f"no {name}"
    try:
        columns, embedding = embeddings.read(workdir / name)
        scored = protocols.find(protocols.of_run(workdir))(as_dataset(columns)).roles.scored
    except (UserError, OSError, ValueError, KeyError) as e:
        return f"{name} cannot be read ({type(e).__name__})"
    shown = {role: scored.get(role, np.zeros(0, np.int64)) for role in ("in_batch", "cross_batch")}
    rows = np.concatenate(list(shown.values()))
    role = np.repeat(list(shown), [len(values) for values in shown.values()])
    if len(rows) < 3 or embedding.shape[1] < 2:
        return f"{name} is too small for a map"
    if not np.isfinite(embedding).all():
        return f"{name} holds numbers that are not finite"
    return {"site_id": columns["site_id"][rows], "role": role, "embedding": embedding[rows]}


def by_experiment(final: dict, name: str) -> dict[str, float]:
    """Accuracy of every experiment from the metrics `NAME/site_accuracy/...`. These also name cell types,
    with which the experiments' names begin (HUVEC beside HUVEC-01)."""
    start = f"{name}/site_accuracy/"
    found = {k.removeprefix(start): v for k, v in final.items() if k.startswith(start) and v is not None}
    return {k: v for k, v in found.items() if not any(other.startswith(f"{k}-") for other in found)}


def experiment(site_id: str) -> str:
    """The experiment of a site id EXPERIMENT_PLATE_WELL_SITE."""
    return site_id.rsplit("_", 3)[0]


def flatten(config: dict, prefix: str = "") -> dict[str, object]:
    """A nested config as {"optim.lr": value}."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def choose_for_map(rows: list[dict], usable: list[str], limit: int = 4) -> list[tuple[str, str]]:
    """Up to `limit` (run, why it was chosen), by rule and not by picture: the first row's run; of its layout,
    the highest cross-batch accuracy and the lowest leakage; runs without a row (pretraining); table order.

    Only rows read without a prefix count, because the embeddings are those of the network as trained.
    """
    plain = [row for row in rows if not row["prefix"] and row["run"] in usable]
    same = [row for row in plain if row["layout"] == plain[0]["layout"]]
    candidates = [(row["run"], "first row with embeddings") for row in plain[:1]]
    if found := [row for row in same if row["cross_batch"] is not None]:
        candidates.append((max(found, key=lambda r: r["cross_batch"])["run"], "highest cross-batch accuracy"))
    if found := [row for row in same if row["leakage"] is not None]:
        candidates.append((min(found, key=lambda r: r["leakage"])["run"], "lowest leakage"))
    candidates += [(run, "no row of its own") for run in usable if run not in {row["run"] for row in rows}]
    candidates += [(row["run"], "next in the table") for row in same + plain]
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
    return ", ".join(f"{words} {count}" for words, count in found.items()) or "unknown"
