"""Our definitions against what scib-metrics and copairs print: stored, and the tools themselves where they are
installed."""

import importlib.util

import numpy as np
import pytest
from reference.peers import public_batch_metrics as public

from rxrx_jax.evaluate.batch_metrics import mixing, replicates, separation
from rxrx_jax.maps import relate
from rxrx_jax.maps.benchmark import retrieval

TOLERANCE = 1e-3


def ours() -> dict[str, np.ndarray]:
    """By the names of the stored values."""
    found = {}
    for name, shift in public.SCREENS.items():
        x, perturbation, experiment, plate, untreated = public.screen(shift)
        near = mixing.nearest(x, public.NEIGHBOURS)
        groups = relate.unit(x), perturbation, experiment, plate, untreated
        ap, positives, ranked = (values[~untreated] for values in replicates.average_precision(*groups))
        normalised = retrieval.normalised(ap, positives, ranked)
        by_group = [perturbation[~untreated] == p for p in range(1, 9)]
        values = {
            "silhouette_label": separation.silhouette_label(x, perturbation),
            "silhouette_batch": separation.silhouette_batch(x, experiment, perturbation),
            "lisi": mixing.lisi(near, experiment),
            "ilisi": mixing.ilisi(near, experiment),
            "clisi": mixing.clisi(near, perturbation),
            "kbet": mixing.accepted(mixing.nearest(x, public.KBET_NEIGHBOURS), experiment),
            "pcr": separation.principal_component_regression(x, experiment, public.COMPONENTS),
            "ap": ap,
            "positives": positives,
            "ranked": ranked,
            "normalised": normalised,
            "mean_average_precision": [ap[rows].mean() for rows in by_group],
            "mean_average_precision_normalised": [normalised[rows].mean() for rows in by_group],
        }
        found |= {f"{name}/{key}": np.asarray(value, float) for key, value in values.items()}
    return found


@pytest.fixture(scope="module")
def found():
    return ours()


def test_every_number_is_that_of_the_public_tool(found):
    with np.load(public.PATH) as stored:
        assert found.keys() == set(stored)
        for name in stored:
            np.testing.assert_allclose(found[name], stored[name], rtol=0, atol=TOLERANCE, err_msg=name)


def test_the_mean_over_groups_is_of_these(found):
    for name, shift in public.SCREENS.items():
        x, *groups = public.screen(shift)
        summary = replicates.mean_average_precision(relate.unit(x), *groups)
        for key in ("mean_average_precision", "mean_average_precision_normalised"):
            assert summary[key] == pytest.approx(found[f"{name}/{key}"].mean())


@pytest.mark.filterwarnings("ignore")  # of the tools
def test_the_tools_print_it_today(found):
    for tool in ("scib_metrics", "copairs"):
        if importlib.util.find_spec(tool) is None:
            pytest.skip(f"{tool} is not installed")
    for name, value in public.all_of().items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=TOLERANCE, err_msg=name)
