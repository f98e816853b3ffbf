"""What training programs put around an encoder: prefixes, dicts, teachers and students, and what pretraining needs."""

import jax
import numpy as np
import pytest
import torch_files
from weights_tools import OPENPHENOM, TIMM, save

from rxrx_jax import weights
from rxrx_jax.base.errors import UserError
from rxrx_jax.weights.read import read_tensors


@pytest.fixture(scope="module")
def expected():
    return weights.load(TIMM).params


def under(prefix, tensors, factor=1):
    return {f"{prefix}{name}": factor * value for name, value in tensors.items()}


def same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("prefix", ["module.", "model.backbone.", "_orig_mod.encoder.", "any.name.of.it."])
def test_a_common_prefix_of_any_name_is_taken_off(tmp_path, vit, expected, prefix):
    imported = weights.load(save(tmp_path / "a", under(prefix, vit)))
    same(imported.params, expected)
    assert imported.notes == weights.load(TIMM).notes


def test_a_prefix_of_openphenom_keeps_its_decoder(tmp_path):
    imported = weights.load(save(tmp_path / "a", under("model.", read_tensors(OPENPHENOM))))
    same(imported.params, weights.load(OPENPHENOM).params)
    assert imported.decoder == (16, 1, 16)


def test_other_networks_beside_the_encoder_are_left_out_and_named(tmp_path, vit, expected):
    others = {
        "model.neck.fc.weight": np.ones(2),
        "queue": np.ones(2),
        "model.decoder.blocks.0.attn.qkv.weight": np.ones(2),
    }
    imported = weights.load(save(tmp_path / "a", under("model.backbone.", vit) | others))
    same(imported.params, expected)
    assert imported.notes[0] == "left out, outside of 'model.backbone.': 'model.decoder', 'model.neck', 'queue'"


@pytest.mark.parametrize("name", ["norm.weight", "model.norm.weight", "model.cls_token"])
def test_a_part_of_the_encoder_outside_of_its_prefix_is_an_error(tmp_path, vit, name):
    with pytest.raises(UserError, match=f"has '{name}' outside of 'model.backbone.'"):
        weights.load(save(tmp_path / "a", under("model.backbone.", vit) | {name: np.ones(2)}))


def test_what_only_pretraining_needs_is_left_out_with_a_note(tmp_path, vit, expected):
    """The names of the masked autoencoder's and DINO's own code."""
    more = {
        "mask_token": np.ones((1, 1, 8)),
        "decoder_embed.weight": np.ones(3),
        "decoder_pos_embed": np.ones(3),
        "decoder_blocks.0.attn.qkv.weight": np.ones(3),
        "decoder_pred.bias": np.ones(3),
        "dino_head.mlp.0.weight": np.ones(3),
    }
    imported = weights.load(save(tmp_path / "a", vit | more))
    same(imported.params, expected)
    note = imported.notes[-1]
    assert note.startswith("6 tensors that only pretraining needs are left out: 'decoder_blocks', 'decoder_embed'")
    with pytest.raises(UserError, match="no model here has: masks"):
        weights.load(save(tmp_path / "b", vit | {"masks": np.ones(3)}))


def saved(path, **dicts):
    """An archive as torch.save writes it: {name: {tensor: array}}."""
    return torch_files.save(path, dicts)


def test_a_teacher_and_a_student_in_dicts(tmp_path, vit, expected):
    path = saved(tmp_path / "a.pt", student=under("backbone.", vit, 2), teacher=under("backbone.", vit), epoch=3)
    imported = weights.load(path)
    same(imported.params, expected)
    assert imported.notes[0] == "'teacher' is used, not 'student'"
    other = weights.load(path, part="student")
    same(other.params["encoder"]["embed"], jax.tree.map(lambda x: 2 * x, expected["encoder"]["embed"]))
    assert not any("is used" in note for note in other.notes)
    with pytest.raises(UserError, match="has no part 'averages'; it has 'student', 'teacher'"):
        weights.load(path, part="averages")


def test_a_teacher_and_a_student_in_prefixes(tmp_path, vit, expected):
    tensors = under("student.backbone.", vit, 2) | under("teacher.backbone.", vit) | {"teacher.head.w": np.ones(1)}
    imported = weights.load(save(tmp_path / "a", tensors))
    same(imported.params, expected)
    assert imported.notes[0] == "'teacher.backbone.' is used, not 'student.backbone.'"
    student = weights.load(tmp_path / "a", part="student").params["encoder"]
    same(student["embed"], jax.tree.map(lambda x: 2 * x, expected["encoder"]["embed"]))
    with pytest.raises(UserError, match="has no part 'ema'"):
        weights.load(tmp_path / "a", part="ema")


def test_one_inner_dict_of_any_name_and_several_that_nothing_tells_apart(tmp_path, vit, expected):
    same(weights.load(saved(tmp_path / "a.pt", network=vit, optimizer={"state": {}}, epoch=1)).params, expected)
    path = saved(tmp_path / "b.pt", encoder=under("module.", vit), target_encoder=under("module.", vit, 2))
    with pytest.raises(UserError, match="several sets of tensors, 'encoder', 'target_encoder'; name one: --parameters"):
        weights.load(path)
    same(weights.load(path, part="encoder").params, expected)


def test_a_part_of_what_has_none(tmp_path, vit):
    with pytest.raises(UserError, match="has no part 'student'; leave it out"):
        weights.load(TIMM, part="student")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named(tmp_path, vit, value):
    broken = np.array(vit["blocks.1.mlp.fc2.bias"])
    broken[3] = value
    with pytest.raises(UserError, match="1 of 12 values of 'blocks.1.mlp.fc2.bias' are NaN or infinite"):
        weights.load(save(tmp_path / "a", vit | {"blocks.1.mlp.fc2.bias": broken}))
    huge = broken.astype(np.float64)
    huge[3] = 1e300  # beyond float32
    with pytest.raises(UserError, match="are NaN or infinite"):
        weights.load(save(tmp_path / "b", vit | {"blocks.1.mlp.fc2.bias": huge}))
