"""What an alignment has fitted is kept: saved, read back and applied again it gives what the correction gives."""

import numpy as np
import pytest
from reference.maps import cases

from rxrx_jax.adapt.correct import ALIGNMENTS
from rxrx_jax.base.errors import UserError
from rxrx_jax.maps.build import align

APART = ("position", "harmony")  # which need more than the others
MAPS = [name for name, found in ALIGNMENTS.items() if found.fit is not None and name not in APART]


@pytest.fixture(scope="module")
def wells():
    x, batch, perturbation = cases.screen()
    return x, batch, perturbation == "EMPTY_control"


@pytest.mark.parametrize("name", MAPS)
def test_it_is_saved_and_applied_again(wells, name, tmp_path):
    x, batch, is_control = wells
    aligner, expected = align.fit(name, *wells)
    np.testing.assert_allclose(ALIGNMENTS[name].function(*wells), expected, rtol=1e-12, atol=1e-12)
    aligner.save(tmp_path / "aligner.npz")
    again = align.load(tmp_path / "aligner.npz")
    assert again.names == (name,) and again.marks == ALIGNMENTS[name].marks
    rows = np.random.default_rng(0).permutation(len(x))[:50]
    np.testing.assert_allclose(again(x[rows], batch[rows]), expected[rows], rtol=1e-12, atol=1e-12)


def applied_again(aligner, path, x, batch, well=None):
    """Some of the rows, by what was saved; and which."""
    aligner.save(path)
    rows = np.random.default_rng(0).permutation(len(x))[:50]
    return rows, align.load(path)(x[rows], batch[rows], None if well is None else well[rows])


def test_alignments_follow_each_other(wells, tmp_path):
    x, batch, is_control = wells
    aligner, found = align.fit("combat,centre_controls,none", *wells)
    expected = ALIGNMENTS["centre_controls"].function(ALIGNMENTS["combat"].function(*wells), batch, is_control)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    rows, again = applied_again(aligner, tmp_path / "a.npz", x, batch)
    np.testing.assert_allclose(again, found[rows], rtol=1e-12, atol=1e-12)
    assert aligner.marks == align.load(tmp_path / "a.npz").marks == "TC"
    with pytest.raises(UserError, match="^--align='none ': expected none, centre, .*, or several with commas$"):
        align.fit("combat,none ", *wells)


def test_position_goes_by_the_wells(wells, tmp_path):
    x, batch, is_control = wells
    well = np.array([f"{'ABCD'[i % 4]}{i // 4 % 5 + 1:02d}" for i in range(len(x))], object)
    tilted = x + np.array([ord(name[0]) for name in well])[:, None] * (1 + (batch == "b1"))[:, None]
    aligner, found = align.fit("position,centre", tilted, batch, is_control, well=well)
    np.testing.assert_allclose(found, align.fit("position,centre", x, batch, is_control, well=well)[1], atol=1e-9)
    rows, again = applied_again(aligner, tmp_path / "a.npz", tilted, batch, well)
    np.testing.assert_allclose(again, found[rows], rtol=1e-9, atol=1e-12)
    with pytest.raises(UserError, match="^--align=position: position needs to know the well of every row$"):
        align.fit("position", *wells)
    with pytest.raises(UserError, match="^b0/H12 was not there when this was fitted$"):
        aligner(x[:1], batch[:1], np.array(["H12"], object))


def test_harmony_is_kept_as_a_map_near_to_its_own_values(wells, tmp_path):
    pytest.importorskip("harmonypy")
    x, batch, _ = wells
    aligner, found = align.fit("harmony", *wells)
    own = ALIGNMENTS["harmony"].function(*wells)
    assert np.linalg.norm(found - own) < 0.15 * np.linalg.norm(x - own)  # of what it has moved, on 176 wells
    rows, again = applied_again(aligner, tmp_path / "a.npz", x, batch)
    np.testing.assert_allclose(again, found[rows], rtol=1e-6, atol=1e-6)
    with pytest.raises(UserError, match="^b9 was not there when this was fitted$"):
        aligner(x[:1], np.array(["b9"]))
    with pytest.raises(UserError, match="^fitted on 6 features, and these embeddings have 5$"):
        aligner(x[:, :5], batch)


def test_what_cannot_be_applied_is_one_line(wells, tmp_path):
    x, batch, is_control = wells
    aligner, _ = align.fit("tvn", *wells)
    with pytest.raises(UserError, match="^b9 was not there when this was fitted$"):
        aligner(x[:2], np.array(["b0", "b9"]))
    with pytest.raises(UserError, match="^fitted on 6 features, and these embeddings have 5$"):
        aligner(x[:, :5], batch)
    with pytest.raises(UserError, match="^--align='tnv': expected none, centre, "):
        align.fit("tnv", *wells)
    with pytest.raises(UserError, match="^--align=tvn: b2 has no untreated wells"):
        align.fit("tvn", x, batch, is_control & (batch != "b2"))
    with pytest.raises(
        UserError, match="^--align=tvn: tvn needs more untreated wells than features, and here are 8 and"
    ):
        few = is_control & (np.cumsum(is_control) % 10 == 1)
        align.fit("tvn", np.concatenate([x, x], 1), batch, few)
    whole, _ = align.fit("rank_inverse_normal", *wells)
    with pytest.raises(UserError, match="rank_inverse_normal aligns the rows it is given as a whole"):
        whole(x, batch)
    whole.save(tmp_path / "a.npz")
    assert align.load(tmp_path / "a.npz") == whole
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:100])
    np.savez(tmp_path / "c.npz", x=x)
    for name in ("b", "c"):
        with pytest.raises(UserError, match=f"{name}.npz is not a saved alignment .*build the map again$"):
            align.load(tmp_path / f"{name}.npz")


def test_integers_are_not_truncated(wells):
    x, batch, is_control = wells
    whole = np.round(x * 10).astype(int)
    for name in MAPS[1:]:
        np.testing.assert_allclose(align.fit(name, whole, batch, is_control)[1],
                                   align.fit(name, whole.astype(float), batch, is_control)[1])  # fmt: skip
