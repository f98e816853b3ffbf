"""The sections of a page that are made of wells: embedding maps, plates, confusions."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rxrx_jax.base import embeddings
from rxrx_jax.base.page import Cell, explorer, number
from rxrx_jax.data import ROLES
from rxrx_jax.report import pictures, plots, records, wells
from rxrx_jax.report.table import Line
from rxrx_jax.tables import Table

CONFUSED = 50  # pairs of a run


def sections(table: Table, lines: list[Line], found: Mapping[str, list[records.Seed]]) -> dict[str, Any]:
    """The sections made of wells, of the first seed of a few runs: maps, plates, confusions."""
    absent = {}
    for name, seeds in found.items():
        if not seeds or not (seeds[0].workdir / embeddings.NAME).exists():
            absent[name] = f"no {embeddings.NAME}" if seeds else "no workdir"
    read = {}
    for name, why in records.choose_for_map(table, lines, [name for name in found if name not in absent]):
        of = wells.read(found[name][0].workdir)
        if isinstance(of, str):
            absent[name] = of
        else:
            read[name] = (of, why)
    shown = {name: of for name, (of, _) in read.items()}
    dataset = wells.dataset_of(found[next(iter(shown))][0].config) if shown else "no run has embeddings"
    return {
        "maps": {
            "explorer": _explorer(shown, dataset) if shown else {},
            "runs": [
                f"{name}: {why}; {len(of):,} wells{f', evenly chosen of {of.total:,}' * (of.total > len(of))}"
                for name, (of, why) in read.items()
            ],
            "by_neighbours": "UMAP"
            if pictures.has_umap()
            else "t-SNE, as umap-learn is not installed (rxrx_jax[umap])",
            "images": dataset if isinstance(dataset, str) else "",
            "absent": "; ".join(f"{name}: {why}" for name, why in absent.items()),
        },
        "plates": plots.plates(_plates(shown, dataset)),
        "confusions": [_confusions(name, of) for name, of in shown.items()],
        "called": [f"{name}: {of.how}" for name, of in shown.items()],
    }


def _explorer(shown: Mapping[str, wells.Wells], dataset) -> dict[str, Any]:
    """The maps of the wells of all runs together, so that a selection is one of wells."""
    every, first = np.unique(np.concatenate([of.columns["well_id"] for of in shown.values()]), return_index=True)
    kept = np.unique(np.linspace(0, len(every) - 1, min(wells.MOST, len(every))).astype(int))
    every, first = every[kept], first[kept]
    column = lambda key: np.concatenate([of.columns[key] for of in shown.values()])[first]  # noqa: E731
    panels, right, near = [], {}, {}
    for name, of in shown.items():
        place = {well: i for i, well in enumerate(every.tolist())}
        at = np.array([place.get(well, -1) for well in of.columns["well_id"].tolist()])
        here = at >= 0

        def spread(values, blank, at=at, here=here):
            out = np.full((len(every), *values.shape[1:]), blank, values.dtype)
            out[at[here]] = values[here]
            return out

        scores, shares = pictures.principal_components(of.embedding)
        if scores is not None:
            axes = tuple(f"PC {i + 1} ({100 * share:.0f} % of variance)" for i, share in enumerate(shares))
            panels.append(explorer.Panel("PCA", name, spread(scores, np.nan), axes))
            title, places = pictures.neighbour_map(of.embedding)
            panels += [explorer.Panel(title, name, spread(places, np.nan))] if places is not None else []
        right[name] = spread(of.right, "").tolist()
        ids, cosines = of.neighbours
        near[name] = spread(np.where(ids >= 0, at[ids], -1), -1), spread(cosines, 0.0)
    if not panels:
        return {}
    role = np.array([ROLES[one] for one in column("role")])
    about = {"well": every, "perturbation": column("perturbation"), "experiment": column("experiment"),
             "plate": column("plate"), "cell type": column("cell_type"), "scored as": role}  # fmt: skip
    about = {heading: values.tolist() for heading, values in about.items()}
    plate = [f"{e}, {p}" for e, p in zip(about["experiment"], about["plate"])]
    colourings: dict[str, Any] = {key: about[key] for key in ("experiment", "cell type", "perturbation", "scored as")}
    colourings |= {"plate": plate, "right or wrong": right}
    small = [] if isinstance(dataset, str) else wells.thumbnails(dataset, every)
    return explorer.explore(about, panels, colourings, near, "perturbation", small, "scored as")


def _plates(shown: Mapping[str, wells.Wells], dataset) -> dict[str, dict[str, np.ndarray]]:
    """By quantity and experiment the mean over plates and sites of each well."""
    maps: dict[str, dict[str, np.ndarray]] = {}
    for name, of in shown.items():
        of_run = maps[f"right, {name}"] = {}
        for experiment in np.unique(of.columns["experiment"]):
            here = (of.columns["experiment"] == experiment) & (of.right != "")
            if here.any():
                of_run[str(experiment)] = plots.plate_map(of.columns["well"][here], of.right[here] == "right")
    if not isinstance(dataset, str):
        values, channels = wells.intensities(dataset)
        well = np.array([one.rpartition("_")[2] for one in dataset.sites.well_id.tolist()])
        for i, channel in enumerate(channels):
            maps[f"intensity, w{i + 1} {channel}"] = {
                experiment: plots.plate_map(well[here], values[here, i])
                for e, experiment in enumerate(dataset.experiments)
                for here in [dataset.sites.experiment == e]
            }
    return maps


def _confusions(name: str, of: wells.Wells) -> dict[str, Any]:
    """What held-out wells are called, of those where it is known: the matrix and the most frequent confusions."""
    here = (of.columns["role"] == "cross_batch") & (of.right != "")
    true, called = of.columns["perturbation"][here], of.called[here]
    pairs, counts = np.unique(np.stack([true, called]), axis=1, return_counts=True)
    wells_of = dict(zip(*np.unique(true, return_counts=True)))
    order = [i for i in np.argsort(-counts, kind="stable") if pairs[0, i] != pairs[1, i]][:CONFUSED]
    rows = [
        [str(pairs[0, i]), str(pairs[1, i]), Cell(str(counts[i]), int(counts[i])),
         Cell(number(counts[i] / wells_of[pairs[0, i]]), float(counts[i] / wells_of[pairs[0, i]]))]
        for i in order
    ]  # fmt: skip
    right = f"{number(np.mean(true == called))} of {len(true):,} held-out wells are right" if len(true) else ""
    return {"name": name, "right": right, "rows": rows, "figures": plots.confusions(name, true, called)}
