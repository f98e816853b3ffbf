"""Targets of compounds, and clusters of genes, against scikit-learn and scipy; what the files must have."""

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import average_precision_score, roc_auc_score

from rxrx_jax.base.errors import UserError
from rxrx_jax.maps import relate
from rxrx_jax.maps.benchmark import clusters, compounds

GENES = np.array([f"G{i}" for i in range(60)], object)


@pytest.mark.parametrize("seed", range(5))
def test_precision_and_area_are_scikit_learn_s(seed):
    random = np.random.default_rng(seed)
    scores, active = np.round(random.random(40), 1 if seed % 2 else 8), random.random(40) < 0.3
    found = compounds.average_precision_and_auc(scores, active)
    assert found == pytest.approx((average_precision_score(active, scores), roc_auc_score(active, scores)))


@pytest.mark.parametrize("scores, expected", [([0.9, 0.8, 0.3, 0.2], (0.75, 0.5)), ([1, 1, 1, 1], (0.5, 0.5))])
def test_the_published_examples(scores, expected):
    active = np.array([True, False, False, True])
    assert compounds.average_precision_and_auc(np.array(scores, float), active) == expected


@pytest.fixture(scope="module")
def planted():
    """(u, compound, dose, v, known): compound k inhibits gene k, at its second dose only."""
    random = np.random.default_rng(0)
    v = relate.unit(random.normal(size=(60, 16)))
    compound = np.repeat(np.array([f"C{i}" for i in range(12)], object), 2)
    dose = np.tile([0.1, 1.0], 12)
    x = 0.1 * random.normal(size=(24, 16))
    x[1::2] -= v[:12]
    known = {f"C{i}": {f"G{i}": 50.0, f"G{i + 20}": 5_000.0, f"G{(i + 1) % 60}": 20_000.0} for i in range(12)}
    return relate.unit(x), compound, dose, v, known | {"absent": {"G59": 1.0}}


def test_targets_come_first_at_the_dose_that_acts(planted):
    u, compound, dose, v, known = planted
    rows = {row["dose"]: row for row in compounds.benchmark(u, compound, dose, v, GENES, known)}
    assert rows.keys() == {0.1, 1.0, None} and all(
        row["compounds"] == 12 and row["pairs"] == 12 for row in rows.values()
    )
    assert rows[1.0]["ap_macro"] > 0.95 and rows[1.0]["auc_micro"] > 0.95 and rows[None]["ap_median"] == 1
    assert abs(rows[0.1]["auc_macro"] - 0.5) < 0.25 and rows[1.0]["ap_baseline"] == pytest.approx(1 / 21)
    assert rows == {row["dose"]: row for row in compounds.benchmark(u, compound, dose, v, GENES, known)}


def test_the_grey_zone_is_left_out_and_negatives_are_of_the_file(planted):
    *_, known = planted
    found = list(compounds.cases(known, ["C0", "C1", "other"], GENES.tolist()))
    assert [name for name, *_ in found] == ["C0", "C1"]
    _, active, negative = found[0]
    assert active.tolist() == [0] and len(negative) == len(set(negative.tolist())) == 20
    of_file = {int(gene[1:]) for one in known.values() for gene in one}
    assert set(negative.tolist()) <= of_file - {0, 20}


def test_negatives_may_be_given(planted):
    """Those alone, less what the file of targets has up to the grey zone; a compound without any is left out."""
    u, compound, dose, v, known = planted
    given = {"C0": dict.fromkeys(["G7", "G0", "G20", "G1", "unknown"], 0.0), "C1": {"G1": 0.0}}
    ((name, active, negative),) = compounds.cases(known, ["C0", "C1", "C2"], GENES.tolist(), negatives=given)
    assert (name, active.tolist(), negative.tolist()) == ("C0", [0], [1, 7])
    row = compounds.benchmark(u, compound, dose, v, GENES, known, negatives=given)[-1]
    assert row["compounds"] == 1 and row["ap_baseline"] == pytest.approx(1 / 3)


def test_a_dose_that_is_missing_is_no_crash(planted):
    u, compound, dose, v, known = planted
    kept = np.arange(24) != 1
    rows = {r["dose"]: r for r in compounds.benchmark(u[kept], compound[kept], dose[kept], v, GENES, known)}
    assert rows[1.0]["compounds"] == 11 and rows[None]["compounds"] == 12
    assert compounds.benchmark(u, compound, dose, v, GENES, {}) == []


def test_the_file_of_targets(tmp_path):
    path = tmp_path / "targets.csv"
    path.write_text("treatment,gene_symbol,nM_value\na,G1,500\na,G1,30\na,G2,\nb,G1,1e4\n")
    assert compounds.read(path) == {"a": {"G1": 30}, "b": {"G1": 10_000}}
    path.write_text("treatment,gene_symbol\na,G1\n")
    assert compounds.read(path) == {"a": {"G1": 0}}
    for text, words in (
        ("compound,gene\na,b\n", "has no column treatment"),
        ("treatment,gene_symbol,nM_value\na,b,low\n", "must hold numbers"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=words):
            compounds.read(path)


def test_clusters_apart_from_the_rest():
    random = np.random.default_rng(0)
    x = random.normal(size=(60, 8))
    x[:12] += 2
    u = relate.unit(x)
    known = {"near": GENES[:12].tolist(), "any": GENES[30:45].tolist() + ["absent"], "few": GENES[:5].tolist()}
    rows = {row["cluster"]: row for row in clusters.separation(u, GENES, known)}
    assert rows.keys() == {"near", "any"} and rows["any"]["genes"] == 15
    square = u @ u.T
    within, between = square[:12, :12][np.triu_indices(12, 1)], square[:12, 12:].ravel()
    expected = scipy.stats.ks_2samp(within, between)
    assert rows["near"]["ks"] == pytest.approx(expected.statistic) and rows["near"]["p"] == pytest.approx(
        expected.pvalue
    )
    assert rows["near"]["fdr"] < 0.01 < rows["any"]["fdr"] and clusters.share_separated(list(rows.values())) == 0.5
    assert np.isnan(clusters.share_separated([]))


def test_enrichment():
    universe = GENES.tolist()
    found = clusters.enrichment(
        ["G0", "G1", "G2", "absent"], universe, {"a": ["G0", "G1", "G9"], "b": ["G5"], "c": ["G2"]}
    )
    assert [row["cluster"] for row in found] == ["a", "c"] and found[0]["overlap"] == 2
    p = 1 - scipy.stats.hypergeom.cdf(1, 60, 3, 3)
    assert (
        found[0]["p"] == pytest.approx(p)
        and found[0]["fdr"] == pytest.approx(min(1, p * 3))
        and found[0]["jaccard"] == 0.5
    )
