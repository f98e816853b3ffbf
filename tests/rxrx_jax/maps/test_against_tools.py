"""Our definitions against what EFAAR 1.0 and 0.1, proxbias, copairs and neuroCombat print: stored, and with -m full
the tools themselves where they are installed."""

import importlib.metadata
import importlib.util

import numpy as np
import pytest
from paths import REFERENCE
from reference.maps import cases

from rxrx_jax.adapt.correct.centre import centre_scale
from rxrx_jax.adapt.correct.combat import combat
from rxrx_jax.adapt.correct.tvn import tvn
from rxrx_jax.maps import relate, statistics
from rxrx_jax.maps.benchmark import proximity, recall, relations, retrieval, univariate
from rxrx_jax.maps.build.aggregate import aggregate

CONTROL = "EMPTY_control"


@pytest.fixture(scope="module")
def stored():
    with np.load(REFERENCE / "maps.npz") as found:
        return dict(found)


def ours(monkeypatch) -> dict[str, np.ndarray]:
    """By the names of maps.npz."""
    names, x = cases.gene_map()
    known = [relations.make(name, pairs) for name, pairs in cases.relations().items()]
    found = {}
    rows = recall.all_pairs(x, names, known, cases.THRESHOLDS, draws=0)
    for one in known:
        found[f"recall/{one.name}"] = [row["recall"] for row in rows if row["source"] == one.name]
    monkeypatch.setattr(recall, "SAMPLES", cases.SAMPLES)
    found |= {f"recall_0_1/{row['source']}": row["recall"] for row in recall.sampled_0_1(x, names, known)}

    x, batch, perturbation = cases.screen()
    is_control = perturbation == CONTROL
    for name, groups in (("tvn", batch), ("tvn_global", None)):
        if groups is None:  # all axes whitened, no batch turned
            from rxrx_jax.adapt.correct.tvn import fit_tvn

            y = fit_tvn(x, batch, is_control)._replace(names=None)(x, batch)
        else:
            y = tvn(x, groups, is_control)
        found[name] = y @ y[:8].T
    found["combat"] = combat(x, batch, is_control)
    found["centre_scale"] = centre_scale(x, batch, is_control)
    found["centre_scale_controls"] = centre_scale(x, batch, is_control, on="controls")
    labels, codes = np.unique(perturbation.astype(str), return_inverse=True)
    found["median"] = aggregate(x, codes, "median")[0]
    scored, none = np.char.startswith(labels, "P"), np.char.startswith(labels, "N")
    consistency = univariate.consistency(x, codes)
    reference = univariate.Reference(x, np.flatnonzero(is_control))
    magnitude = univariate.magnitude(x, codes, reference)
    for name, values, side in (("consistency", consistency, "left"), ("magnitude", magnitude, "right")):
        found[name] = values[scored]
        found[f"{name}_p"] = statistics.published_p_values(values[none], values[scored], side)

    for name, rows, apart in (("replicates", ~is_control, False), ("cross_batch", ~is_control, True),
                              ("against_controls", np.ones(len(x), bool), False)):  # fmt: skip
        differ = np.unique(batch[rows].astype(str), return_inverse=True)[1] if apart else None
        if name == "against_controls":
            group, control = np.where(is_control, -1, codes), is_control
            result = retrieval.average_precision(relate.unit(x), group, against=control)
        else:
            result = retrieval.average_precision(relate.unit(x[rows]), codes[rows], differ)
        found[f"ap/{name}"], found[f"normalised/{name}"] = result[0], retrieval.normalised(*result)

    x, arm, position, unexpressed = cases.arms()
    found["arm_centred"] = proximity.centre_arms(x, arm, 4, unexpressed, "published")[0]
    u = relate.unit(x)
    whole, each = proximity.per_arm(u, arm, 4, published=True)
    found["bm_genome"], found["bm_arms"] = shown(whole), [shown(one) for one in each]
    found["bm_genes"] = proximity.per_gene(u, arm, published=True)
    along = [
        proximity.along_arm(found["bm_genes"][arm == a], position[arm == a], cases.ARMS[a][-1] == "q") for a in range(4)
    ]
    found["along_arms"] = [value for value, _ in along]
    return {name: np.asarray(value, float) for name, value in found.items()}


def shown(one):
    return [one.probability, one.statistic, one.p_value, one.n_x, one.n_y]


# geomloss bounds distances from below, so that its energy distance is smaller by 1e-4 (1 / n + 1 / m).
LOOSE = {"magnitude": 1e-4, "tvn": 1e-8, "tvn_global": 1e-8}


def compare(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if "against_controls" in name:  # here controls are ranked against, and not scored
            value = np.where(np.isfinite(found[name]), value, np.nan)
        np.testing.assert_allclose(found[name], value, rtol=1e-6, atol=LOOSE.get(name, 1e-9), err_msg=name)


def test_every_definition_is_the_published_one(stored, monkeypatch):
    compare(ours(monkeypatch), stored)


@pytest.mark.full
@pytest.mark.parametrize("version, packages", [("1", ("copairs", "neuroCombat")), ("0.1", ("proxbias",))])
def test_the_tools_print_it_today(version, packages, stored):
    for name in ("efaar_benchmarking", *packages):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    if not (importlib.metadata.version("efaar_benchmarking") + ".").startswith(f"{version}."):
        pytest.skip(f"another version of EFAAR than {version} is installed")
    from reference.peers import public_maps

    found = public_maps.all_of(version)
    compare(found, {name: stored[name] for name in found})


def test_what_the_published_variants_get_wrong():
    x, arm, _, _ = cases.arms()
    u = relate.unit(x)
    (whole, each), (published, _) = (proximity.per_arm(u, arm, 4, published=how) for how in (False, True))
    assert published.n_y == 2 * whole.n_y and whole.n_x + whole.n_y == len(x) * (len(x) - 1) // 2
    assert whole.probability == pytest.approx(published.probability) and whole.statistic < published.statistic
    cosines = u @ u.T
    i = int(np.flatnonzero(arm == 3)[0])
    mine = cosines[i, (arm == 3) & (np.arange(len(u)) != i)]
    assert proximity.per_gene(u, arm)[i] == pytest.approx(statistics.compare(mine, cosines[i, arm != 3]).probability)
