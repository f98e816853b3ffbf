"""The pixels of the simulated screen: a pure function, the same cells at any size, signal and nuisance."""

import dataclasses
import hashlib
import subprocess
import sys

import numpy as np
import pytest

from rxrx_jax.simulate import effects, morphology
from rxrx_jax.simulate.screen import Screen, render_site, sites

SMALL = Screen(train=("SIMA-01",), val=(), test=("SIMB-01",))


def features(pixels):
    """Mean, spread and contrast of every channel: [24] for uint8 [H, W, 6]."""
    x = pixels.astype(float)
    fine = np.abs(np.diff(x, axis=0)).mean((0, 1))
    return np.log1p(np.concatenate([x.mean((0, 1)), x.std((0, 1)), fine, np.percentile(x, 98, axis=(0, 1))]))


def digest(screen, rows):
    return hashlib.sha256(b"".join(render_site(screen, row).tobytes() for row in rows)).hexdigest()


def test_shape_and_range():
    pixels = render_site(SMALL, sites(SMALL)[0])
    assert pixels.shape == (64, 64, 6) and pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    sample = np.stack([render_site(SMALL, row) for row in sites(SMALL)[::40]])
    means = sample.mean((0, 1, 2))
    assert (10 < means).all() and (means < 130).all()  # experiments differ by a factor of e
    assert (sample == 255).mean() < 0.02, "too many saturated pixels"


def test_same_pixels_in_any_order_and_process():
    rows = sites(SMALL)[::90]
    forwards = {row["site_id"]: render_site(SMALL, row) for row in rows}
    morphology._plate_nuisance.cache_clear()
    effects._optics.cache_clear()
    for row in reversed(rows):
        np.testing.assert_array_equal(render_site(SMALL, row), forwards[row["site_id"]])
    code = (
        "import hashlib; from rxrx_jax.simulate.screen import *;"
        "s = Screen(train=('SIMA-01',), val=(), test=('SIMB-01',));"
        "print(hashlib.sha256(b''.join(render_site(s, r).tobytes() for r in sites(s)[::90])).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest(SMALL, rows)


@pytest.mark.parametrize(
    "version, expected", [("v2", "ec0033e1ce1ae8ed83436dde97919b72"), ("v3", "6de27771d05c3ed7ede03ace8095eb25")]
)
def test_a_version_has_the_pixels_it_always_had(version, expected):
    screen = dataclasses.replace(SMALL, version=version)
    assert digest(screen, sites(screen)[::90]).startswith(expected)


def test_layout_moves_wells_but_alters_no_perturbation_and_no_nuisance():
    fixed = Screen(layout="fixed")
    reshuffled = dataclasses.replace(fixed, layout="reshuffled")
    key = lambda row: (row["site_id"], row["perturbation_id"])  # noqa: E731
    there = {key(row): row for row in sites(reshuffled)}
    shared = [row for row in sites(fixed) if key(row) in there and row["well_type"] == "treatment"]
    assert shared
    for row in shared[:6]:
        assert np.array_equal(render_site(fixed, row), render_site(reshuffled, there[key(row)]))


def test_larger_images_show_the_same_cells():
    row = sites(SMALL)[0]
    quiet = dataclasses.replace(SMALL, nuisance_strength=0.0)
    small = render_site(quiet, row).astype(float)
    large = render_site(dataclasses.replace(quiet, image_size=192), row).astype(float)
    shrunk = large.reshape(64, 3, 64, 3, 6).mean((1, 3))
    for channel in range(6):
        assert np.corrcoef(small[..., channel].ravel(), shrunk[..., channel].ravel())[0, 1] > 0.85


def test_perturbations_shift_five_parameters_and_mostly_alike_in_all_cell_types():
    z = {}
    for name in ("sim0001", "sim0002", "sim0003", "sim0004"):
        for cell_type in ("SIMA", "SIMB", "SIMC"):
            z[name, cell_type], stain = morphology.perturbation_shift(0, name, "treatment", cell_type)
            assert np.count_nonzero(z[name, cell_type]) == 5 and stain.any()
        assert np.corrcoef(z[name, "SIMA"], z[name, "SIMB"])[0, 1] > 0.7
    assert not np.array_equal(z["sim0001", "SIMA"], z["sim0002", "SIMA"])
    other_seed, _ = morphology.perturbation_shift(1, "sim0001", "treatment", "SIMA")
    assert not np.array_equal(z["sim0001", "SIMA"], other_seed)
    strong, _ = morphology.perturbation_shift(0, "sim0001", "positive_control", "SIMA")
    np.testing.assert_allclose(strong, morphology.POSITIVE_CONTROL * z["sim0001", "SIMA"])
    assert not morphology.perturbation_shift(0, "EMPTY", "negative_control", "SIMA")[0].any()


def anova_f(values, groups):
    """F statistic of every feature [D] for values [wells, D] in groups [wells]."""
    names = np.unique(groups)
    mean = values.mean(0)
    parts = [values[groups == g] for g in names]
    between = sum(len(part) * (part.mean(0) - mean) ** 2 for part in parts) / (len(names) - 1)
    within = sum(((part - part.mean(0)) ** 2).sum(0) for part in parts) / (len(values) - len(names))
    return between / within


def test_perturbations_differ_on_a_plate_more_than_replicates_do():
    screen = Screen(version="v2", replicates=6, sites_per_well=1, train=("SIMA-01",), val=(), test=())

    def median_f(screen):
        found = []
        for plate in (1, 2, 3, 4):
            rows = [row for row in sites(screen) if row["plate"] == plate and row["well_type"] == "treatment"]
            values = np.stack([features(render_site(screen, row)) for row in rows])
            found.append(anova_f(values, np.array([row["perturbation_id"] for row in rows])))
        return np.median(found)

    assert median_f(screen) > 2.5  # the 95 % point of F(5, 30) is 2.53
    assert median_f(dataclasses.replace(screen, perturbation_strength=0.0)) < 1.6


def test_edge_wells_have_fewer_cells():
    inner = morphology.nuisance(0, 1.0, "SIMA-01", 1, "D05", edge=False)
    rim = morphology.nuisance(0, 1.0, "SIMA-01", 1, "D05", edge=True)
    assert rim.density < inner.density and (rim.background > inner.background).all()
    assert (rim.z != inner.z).all()


@pytest.mark.parametrize("experiments", [("SIMA-01", "SIMA-02"), ("SIMB-01", "SIMB-02")])
def test_experiments_differ_beyond_intensity(experiments):
    """After standardising every image by channel, experiments still differ: the biological part."""
    screen = Screen(train=experiments, val=(), test=(), perturbation_strength=0.0, sites_per_well=1)
    rows = [row for row in sites(screen) if row["well_type"] != "positive_control"][::10]
    fine = []
    for row in rows:
        x = render_site(screen, row).astype(float)
        x = (x - x.mean((0, 1))) / x.std((0, 1))
        fine.append(np.concatenate([np.abs(np.diff(x, axis=0)).mean((0, 1)), (x**3).mean((0, 1))]))
    f = anova_f(np.stack(fine), np.array([row["experiment"] for row in rows]))
    assert f.max() > 10
