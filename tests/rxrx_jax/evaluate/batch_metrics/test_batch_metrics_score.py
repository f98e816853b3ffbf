"""All batch metrics of a screen whose embeddings tell what they tell by construction, and what is refused."""

import dataclasses
import re
import types

import numpy as np
import pytest
from paths import ROOT
from protocol_tools import screen

from rxrx_jax.base.errors import UserError
from rxrx_jax.data import Roles
from rxrx_jax.evaluate.batch_metrics import score
from rxrx_jax.evaluate.batch_metrics.wells import of_sites

DATASET = screen(treatments=4, replicates=3, positive_controls=2, positive_wells=2, untreated_wells=6)
SITES = DATASET.sites
ROWS = np.arange(len(SITES))
WELLS = np.unique(SITES.well_id)


def tells(perturbation=0.0, experiment=0.0, cell_type=0.0):
    """Embeddings [sites, 16] of noise and a direction for each perturbation, experiment and cell type, so long."""
    random = np.random.default_rng(0)
    x = random.normal(size=(len(SITES), 16))
    for codes, length in ((SITES.label, perturbation), (SITES.experiment, experiment), (SITES.cell_type, cell_type)):
        x += length * random.normal(size=(codes.max() + 1, 16))[codes]
    return x.astype(np.float32)


def wells(x, rows=ROWS, **changes):
    dataset = types.SimpleNamespace(sites=dataclasses.replace(SITES, **changes))
    return of_sites(x[rows], rows, dataset)


@pytest.fixture(scope="module")
def scored():
    """What it gives by what the embeddings tell."""
    given = {"nothing": {"cell_type": 3}, "biology": {"perturbation": 3}, "batch": {"experiment": 3}}
    given["both"] = {"perturbation": 2, "experiment": 2}
    return {name: dict(score.score("x", wells(tells(**lengths)), tuple(score.METRICS), DATASET))
            for name, lengths in given.items()}  # fmt: skip


def test_wells_are_the_means_of_their_sites():
    x = tells()
    found = wells(x)
    assert found.name.tolist() == WELLS.tolist() and len(found) == len(WELLS) == len(SITES) / 2
    one = np.flatnonzero(SITES.well_id == WELLS[7])
    np.testing.assert_allclose(found.x[7], x[one].mean(0, dtype=float), atol=1e-6)
    assert found.perturbation[7] == SITES.label[one[0]] and found.plate[7] == SITES.plate[one[0]]
    shuffled = np.random.default_rng(0).permutation(ROWS)
    again = wells(x, shuffled)
    np.testing.assert_allclose(again.x, found.x)
    assert (again.untreated == found.untreated).all() and found.untreated.sum() == 6 * len(DATASET.plates)


def test_wells_of_unknown_perturbation_are_left_out():
    unknown = np.isin(SITES.well_id, WELLS[:5])
    found = wells(tells(), label=np.where(unknown, -1, SITES.label))
    assert found.name.tolist() == WELLS[5:].tolist()


def test_batch_left_and_biology_kept(scored):
    """Each against the same of shuffled embeddings, or its null: above it, below it, or neither."""
    chance = {"silhouette_batch": 0.03, "ilisi": 0.1, "kbet": 0.1, "pcr": 0.05, "silhouette_label": 0.08, "clisi": 0.1}
    for key, width in chance.items():
        apart = {name: found[f"x/{key}"] - found[f"x/{key}_shuffled"] for name, found in scored.items()}
        assert abs(apart["nothing"]) < width, key
        if key in ("silhouette_label", "clisi"):
            assert apart["biology"] > 2 * width and abs(apart["batch"]) < width, key
        elif key == "pcr":
            assert apart["batch"] > 0.5 > 0.1 > apart["biology"] and apart["both"] > 0.2
        else:
            assert apart["batch"] < -2 * width and apart["both"] < -2 * width, key


def test_the_page_defines_every_number(scored):
    page = (ROOT / "docs/batch_metrics.md").read_text().partition("## Definitions")[2]
    named = re.findall(r"^\|[^|]*\| `(\w+)` \|", page, re.M)
    keys = {key.split("/")[1] for key in scored["both"]} - {"wells"}
    assert named == [key for key in dict.fromkeys(named) if key in keys] and keys - set(named) == {
        f"{key}_shuffled" for key in ("silhouette_batch", "silhouette_label", "ilisi", "clisi", "kbet", "pcr")
    }


def test_replicates_agree_where_there_is_biology(scored):
    retrieved = {name: found["x/retrieved"] for name, found in scored.items()}
    assert retrieved["biology"] == 1 and retrieved["nothing"] < 0.2 and retrieved["batch"] < 0.2
    assert scored["batch"]["x/mean_average_precision_normalised"] < -0.2  # controls of the plate are nearer
    above = {name: found["x/consistency_above_plate_null"] for name, found in scored.items()}
    assert above["biology"] == 1 and above["both"] > 0.9 and above["nothing"] < 0.2


def test_numbers_are_means_over_cell_types_by_their_wells(scored):
    found = scored["both"]
    assert found["x/wells"] == len(WELLS)
    size = [sum(name.startswith(c) for name in WELLS) for c in DATASET.cell_types]
    assert len(set(size)) > 1
    for key in ("ilisi", "ilisi_shuffled", "pcr", "retrieved"):
        parts = [found[f"x/{key}/{c}"] for c in DATASET.cell_types]
        assert found[f"x/{key}"] == pytest.approx(np.average(parts, weights=size))
    assert all(np.isfinite(value) for value in found.values())


def test_a_cell_type_of_one_experiment_is_left_out(scored):
    first = [name for name in DATASET.experiments if name.startswith(DATASET.cell_types[0])]
    alone = np.isin(SITES.experiment, [DATASET.experiments.index(name) for name in first[1:]])
    found = dict(score.score("x", wells(tells(1, 1), ROWS[~alone]), ("pcr",), DATASET))
    assert f"x/pcr/{DATASET.cell_types[0]}" not in found and f"x/pcr/{DATASET.cell_types[1]}" in found
    assert found["x/wells"] == sum(not name.startswith(DATASET.cell_types[0]) for name in WELLS)


def test_a_number_that_is_not_defined_is_not_there():
    """Two wells per perturbation and experiment of two experiments: too few for kBET."""
    two = ROWS[np.isin(SITES.experiment, [0, 1]) & (SITES.well_type == "positive_control")]
    assert dict(score.score("x", wells(tells(), two), ("kbet",), DATASET)) == {"x/wells": len(two) / 2}


def refused(match, x=None, rows=ROWS, metrics=tuple(score.METRICS), **changes):
    with pytest.raises(UserError, match=match) as caught:
        dict(score.score("x", wells(tells() if x is None else x, rows, **changes), metrics, DATASET))
    assert "\n" not in str(caught.value)


def test_what_cannot_be_compared_is_named():
    one_each = np.flatnonzero(np.isin(SITES.experiment, np.unique(SITES.cell_type, return_index=True)[1] * 0))
    refused("no cell type has two with known", rows=one_each)
    refused("no cell type has two with known", label=np.full(len(SITES), -1))
    x = tells()
    x[3, 2] = np.nan
    refused("1 embeddings hold NaN or infinite values", x)
    refused(f"well {SITES.well_id[5]} has site {SITES.site[5]} twice, as 1 rows in all", rows=np.append(ROWS, 5))
    moved = SITES.experiment.copy()
    moved[8] = (moved[8] + 1) % len(DATASET.experiments)
    refused(f"well {SITES.well_id[8]} is of more than one experiment", experiment=moved)
    x = tells()
    x[SITES.well_id == WELLS[4]] = 0
    refused(f"the embedding of well {WELLS[4]} is zero", x)
    assert dict(score.score("x", wells(x), ("pcr",), DATASET))


def test_an_experiment_without_controls_is_named():
    lacking = np.where((SITES.experiment == 2) & (SITES.well_type == "negative_control"), "treatment", SITES.well_type)
    refused(f"experiment {DATASET.experiments[2]} has no untreated well", well_type=lacking)
    assert dict(score.score("x", wells(tells(), well_type=lacking), ("consistency", "lisi"), DATASET))
    refused("consistency needs a column plate", plate=None)
    refused("average_precision needs a column well_type", well_type=None, metrics=("average_precision",))


class Context:
    """What evaluators get."""

    dataset = types.SimpleNamespace(**vars(DATASET), roles=Roles(scored={"cross_batch": ROWS[SITES.experiment == 2]}))
    readings = {"": None, "adabn": types.SimpleNamespace(needs=types.SimpleNamespace(marks=lambda controls: "T"))}

    def embeddings(self, reading):
        return ROWS, tells(2, 0 if reading else 2)

    def marks(self, rows, extra):
        assert (SITES.experiment[rows] == 2).all() and len(rows) == (SITES.experiment == 2).sum()
        return f"C{extra}"


def test_the_evaluator_names_each_reading_and_marks_it():
    found = dict(score.evaluate(Context(), metrics=("pcr",)))
    assert found["marks/batch_metrics"] == "C" and found["marks/adabn/batch_metrics"] == "CT"
    assert found["batch_metrics/pcr"] > 0.2 > found["adabn/batch_metrics/pcr"]
    with pytest.raises(UserError, match="evaluators.batch_metrics.metrics='psr': expected some of silhouette, lisi"):
        list(score.evaluate(Context(), metrics=("pcr", "psr")))
