"""What an alignment has fitted is kept: saved, read back and applied again it gives what the correction gives."""

import numpy as np
import pytest
from reference.maps import cases

from rxrx_jax.adapt.correct import ALIGNMENTS
from rxrx_jax.base.errors import UserError
from rxrx_jax.maps.build import align

MAPS = [name for name, found in ALIGNMENTS.items() if found.fit is not None]


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
    assert again.name == name and again.marks == ALIGNMENTS[name].marks
    rows = np.random.default_rng(0).permutation(len(x))[:50]
    np.testing.assert_allclose(again(x[rows], batch[rows]), expected[rows], rtol=1e-12, atol=1e-12)


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
