"""Every config with its documented arguments: it loads, all its keys are read, its step at the scale of the papers has
the published sizes. Nothing is trained and no data is needed."""

import dataclasses
import functools
import re
import shlex

import jax
import pytest
import tiny
from absl import flags
from ml_collections import config_flags

from rxrx_jax.base import config, sharding
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.data import noise
from rxrx_jax.data.source import make_source
from rxrx_jax.evaluate import make_evaluators
from rxrx_jax.models.vit import Style, parse_variant
from rxrx_jax.training.base_config import microscopy_vit
from rxrx_jax.training.step import Step, make_step, parameter_count
from rxrx_jax.training.train import lengths_of, run_length

FILES = sorted(path.name for path in tiny.CONFIGS.glob("*.py"))
# Beside those of the docstrings.
REAL = (
    "convnet.py:rxrx1",
    "mae_vit.py:rxrx1,variant=B/16",
    "mae_vit.py:rxrx1,variant=L/8",
    "mae_vit.py:rxrx1,encoder=plain",
    "mae_vit.py:rxrx3,variant=G/8",
    "mae_vit.py:encoder=microscopy",
    "dann_vit.py:rxrx1,variant=L/16,transductive=True",
    "dann_vit.py:rxrx1,encoder=channel_agnostic",
    "linear_probe.py:rxrx1,encoder=channel_agnostic",
    "linear_probe.py:rxrx1,encoder=plain,blocks=True",
    "linear_probe.py:rxrx1,variant=L/8",
)
# Keys that the trainer reads outside of make_step; tests of the trainer run with all of them.
TRAINERS = {
    "checkpoint_steps",
    "evaluation_minibatch",
    "keep_checkpoints",
    "log_steps",
    "measure",
    "profile_steps",
    "init.contaminated",
}
TRAINERS |= {"evaluate_epochs", "mirror", "mesh.fsdp", "mesh.tensor", "init.path", "init.parameters"}
TRAINERS |= {"watchdog_timeout_seconds", "guard.max_loss_ratio", "guard.rollback", "data.unreadable"}


def whole(model: dict) -> dict:
    """The keys of a ViT with those that are left to their defaults."""
    return dataclasses.asdict(Style()) | dict(dtype="float32", remat="none") | model


def docstring(name: str) -> str:
    return (tiny.CONFIGS / name).read_text().split('"""')[1]


def commands(name: str) -> list[str]:
    return re.findall(r"^ *python -m rxrx_jax\.main (.+)$", docstring(name), re.M)


def arguments(command: str) -> str:
    """`mae_vit.py:rxrx1` of a command."""
    return re.search(r"--config=(\S+)", command)[1]


DOCUMENTED = [command for name in FILES for command in commands(name)]
ALL = tuple(dict.fromkeys([arguments(command) for command in DOCUMENTED] + list(REAL)))


# Tracing a step of DenseNet-161 takes a quarter of a minute, and molecules have four shapes.
LONG = {"densenet": pytest.mark.full, "mole.py:": pytest.mark.slow, "mole_finetune.py:": pytest.mark.slow}
LONG |= {"mole_biology.py": pytest.mark.slow, "molecule_map.py": pytest.mark.slow}
TRACED = [pytest.param(name, marks=[mark for key, mark in LONG.items() if key in name]) for name in ALL]


@functools.cache
def made(name: str) -> tuple[Step, Config, noise.Description, int]:
    """(step, its config, the data's description or, without data, the source, total steps)."""
    values = Config(config.load(name) | {"measure": "synthetic"})
    source = make_source(values, None)
    mesh = sharding.make_mesh(1, 1)
    steps = run_length(values, **lengths_of(source))
    with jax.set_mesh(mesh):
        return make_step(values, source, mesh, steps), values, getattr(source, "description", source), steps


def parameters(name: str) -> dict[str, int]:
    return {part: parameter_count(tree) for part, tree in made(name)[0].arguments[0].params.items()}


@pytest.mark.parametrize("name", TRACED)
def test_the_step_is_made_and_every_key_is_read(name):
    step, values, dataset, _ = made(name)
    assert dataset.name == config.load(name)["data"]["name"]
    assert step.flops_per_image > 0 and len(step.smaller) == (3 if "mole" in name else 0)
    make_evaluators(values.evaluators)
    assert set(values.unread()) <= TRAINERS


@pytest.mark.parametrize("name", FILES)
def test_a_docstring_names_its_command_and_what_was_not_run(name):
    assert any(arguments(command) == name for command in commands(name)) or name == "convnet.py"
    text = " ".join(docstring(name).split())
    if "rxrx1" in text:
        assert "not been run at full size yet" in text and "no hours, no number" in text


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
@pytest.mark.parametrize("command", DOCUMENTED)
def test_a_command_of_a_docstring_parses(command, monkeypatch):
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    defined = config_flags.DEFINE_config_file("config", None, "", flag_values=values)
    argv = ["main", *shlex.split(command.replace(arguments(command), config.find(arguments(command)), 1))]
    monkeypatch.setattr("sys.argv", argv)  # where ml_collections looks for overrides
    assert values(argv) == ["main"]  # nothing is left over
    chosen = {k: v for k, v in (a.removeprefix("--config.").split("=") for a in argv if a.startswith("--config."))}
    for key, text in chosen.items():
        assert str(functools.reduce(getattr, key.split("."), defined.value)) == text


@pytest.mark.parametrize(
    "variant, published, side", [("S/16", 22.0, 16), ("B/16", 86.4, 16), ("B/8", 86.1, 32), ("L/8", 303.7, 32)]
)
def test_the_microscopy_mae_has_the_published_size(variant, published, side):
    """Millions of parameters of the released code's encoder, which counts its fixed positions, and decoder."""
    found = parameters(f"mae_vit.py:rxrx1,variant={variant}")
    size, patch = parse_variant(variant)
    assert 256 // patch == side
    positions = (side**2 + 1) * size.width
    assert round((found["encoder"] + positions) / 1e6, 1) == published
    assert round(found["decoder"] / 1e6) == 25
    assert found["pixels"] == (512 + 1) * patch**2 * 6 and found["embed"] == (size.width + 1) * 512


def test_openphenom_has_the_published_size():
    """178,045,568 values are published, among them fixed positions, a placeholder and a norm that nothing applies."""
    found = parameters("channel_agnostic_mae.py:rxrx3,openphenom=True")
    assert found["encoder"] == 22_459_776 - 2817 * 384 - 2 * 384
    assert sum(found.values()) == 178_045_568 - 2817 * 384 - 2 * 384 - 1537 * 512 - 512
    papers = parameters("channel_agnostic_mae.py:rxrx3")
    assert papers["encoder"] == found["encoder"]
    block = 12 * 256**2 + (3 + 1 + 4 + 1 + 4) * 256  # weights; biases of qkv, out, mlp1, mlp2, two norms
    shared = (4 + 8) * 256**2 + (1 + 4 + 1 + 6) * 256  # cross attention and MLP; their biases, three norms
    assert papers["decoder"] == 6 * 2 * block + shared + 6 * 256


def block_flops(tokens: int, width: int) -> int:
    """A block forward: its products with weights, and queries with keys and with values."""
    return 2 * tokens * 12 * width**2 + 2 * 2 * tokens**2 * width


def fourier_flops(squares: int, side: int) -> int:
    """Spectra of squares of pixels, half of them computed, by products with cosines and sines."""
    half = 2 * (side // 2 + 1)
    return squares * 2 * (side * side * half + half * side * 2 * side)


def test_flops_of_an_image_by_hand():
    """Backward is twice forward, except that images need no gradient: the patch embedding's is once, if the products
    that are not needed are not counted, and the spectra of the target have none, nor has a spectrum any weights."""
    found = made("channel_agnostic_mae.py:rxrx3")[0].flops_per_image
    n, width = 6 * 256, 384
    visible = n // 4 + 1
    once = 2 * n * 256 * width
    thrice = 12 * block_flops(visible, width) + 2 * (visible - 1) * width * 256
    thrice += 2 * n * (1 + 2 + 1 + 8) * 256**2 + 2 * 2 * n**2 * 256  # cross attention and its MLP
    thrice += 2 * 6 * block_flops(256, 256) + 2 * n * 256**2 + fourier_flops(n, 16)
    assert found in (2 * once + 3 * thrice, 3 * once + 3 * thrice)

    for variant, n in (("S/16", 256), ("L/8", 1024)):
        found = made(f"mae_vit.py:rxrx1,variant={variant}")[0].flops_per_image
        size, patch = parse_variant(variant)
        visible, values = n // 4 + 1, 6 * patch**2
        once = 2 * n * values * size.width
        thrice = size.depth * block_flops(visible, size.width) + 2 * visible * size.width * 512
        thrice += 8 * block_flops(n + 1, 512) + 2 * n * 512 * values + fourier_flops(6 * n, patch)
        assert found in (2 * once + 3 * thrice, 3 * once + 3 * thrice)


PRETRAINED = {
    "mae_vit.py:rxrx1,variant=S/16": "rxrx1",
    "mae_vit.py:rxrx1,encoder=plain": "rxrx1,encoder=plain",
    "mae_vit.py:rxrx3,variant=L/8": "rxrx1,variant=L/8",
    "channel_agnostic_mae.py:rxrx3": "rxrx1,encoder=channel_agnostic",
    "distill_vit.py:rxrx1": "rxrx1,encoder=plain",
    "mae_vit.py": "",
    "distill_vit.py": "",
    "mae_vit.py:encoder=microscopy": "encoder=microscopy",
    "channel_agnostic_mae.py": "encoder=channel_agnostic",
}


@pytest.mark.parametrize("former", PRETRAINED)
def test_the_stages_after_make_the_encoder_of_the_stage_before(former):
    for after in ("dann_vit.py", "linear_probe.py"):
        later = config.load(f"{after}:{PRETRAINED[former]}")
        before = config.load(former)
        assert whole(later["model"]) == whole(before["model"])
        if "distill" not in former:
            assert later["normalisation"] == before["normalisation"]


def test_the_published_recipe_value_by_value():
    found = config.load("mae_vit.py:rxrx3,variant=L/8")
    expected = dict(block="parallel", qkv_bias=False, qk_norm=True, layer_scale=1e-4, class_token=True, pool="mean")
    expected |= dict(name="vit", variant="L/8", drop_path=0.3, dtype="bfloat16", remat="dots")
    assert whole(found["model"]) == whole(expected) and microscopy_vit("L/8") == expected
    assert (
        found["normalisation"] == "image"
        and found["augment"]["crop"] == 256
        and found["augment"]["intensity_jitter"] == 0
    )
    task = dict(name="mae", mask_ratio=0.75, normalise_target=False, fourier_weight=0.01, decoder=(512, 8, 16))
    assert found["task"] == task
    optim = dict(name="lion", lr=3e-5, betas=(0.9, 0.95), weight_decay=0.05, clip_norm=0.0)
    optim |= dict(schedule="onecycle", warmup_percent=10.0, ema_decay=0.0)
    assert found["optim"] == optim
    assert "leakage" not in found["evaluators"]

    small = config.load("mae_vit.py:rxrx1")
    assert whole(small["model"]) == whole(expected | dict(variant="S/16", drop_path=0.1, remat="none"))
    assert (
        small["optim"] == optim | dict(lr=1e-4)
        and small["data"]["minibatch"] == 2048
        and "leakage" in small["evaluators"]
    )
    agnostic = config.load("channel_agnostic_mae.py:rxrx3")
    assert agnostic["model"] == small["model"] | dict(channel_agnostic=True, final_norm=False)
    assert agnostic["task"] == task | dict(decoder=(256, 2, 16)) and agnostic["optim"] == small["optim"]
    assert agnostic["data"]["minibatch"] == 2048 and agnostic["total_epochs"] == 100
    assert "leakage" not in agnostic["evaluators"]

    simulated = config.load("channel_agnostic_mae.py")["model"]
    assert simulated["dtype"] == "float32" and simulated["block"] == "parallel" and simulated["variant"] == "XXS/8"

    rates = {v: microscopy_vit(v)["drop_path"] for v in ("S/16", "B/8", "L/16", "H/8", "g/14", "G/8")}
    assert rates == {"S/16": 0.1, "B/8": 0.1, "L/16": 0.3, "H/8": 0.3, "g/14": 0.3, "G/8": 0.6}
    sizes = {
        v: config.load(f"mae_vit.py:{d},variant={v}")["data"]["minibatch"]
        for d, v in (("rxrx3", "L/8"), ("rxrx3", "G/8"))
    }
    assert sizes == {"L/8": 16_384, "G/8": 8_192}
    assert config.load("mae_vit.py:rxrx1,variant=L/8")["data"]["minibatch"] == 2048
    assert [made(f"mae_vit.py:{a}")[3] for a in ("rxrx1,variant=S/16", "rxrx3,variant=L/8")] == [19_830, 13_428]


@pytest.mark.parametrize(
    "name, flops",
    [
        ("wilds_erm.py:rxrx1", "1.2e+17"),
        ("wilds_erm.py:data=rxrx1_wilds,paper", "1.2e+17"),
        pytest.param("rxrx1_densenet.py:rxrx1", "2e+18", marks=pytest.mark.full),
    ],
)
def test_a_recipe_of_rxrx1_says_what_it_takes(name, flops):
    step, values, dataset, steps = made(name)
    assert f"{step.flops_per_image * values.data.minibatch * steps:.2g}" == flops
    text = f"Estimate: {float(flops):.1e}".replace("e+", "e")
    assert text in docstring(name.partition(":")[0])


def test_the_baseline_of_wilds_value_by_value():
    for name in ("rxrx1", "data=rxrx1_wilds,paper"):
        step, values, dataset, steps = made(f"wilds_erm.py:{name}")
        assert step.arguments[1]["train"]["image"].shape == (72, 256, 256, 3) and steps == round(90 * 40_612 / 72)
        found = config.load(f"wilds_erm.py:{name}")
        optim = dict(name="adam_l2", lr=1e-3, betas=(0.9, 0.999), weight_decay=1e-5, warmup_steps=5415)
        assert optim.items() <= found["optim"].items() and found["protocol"]["name"] == "wilds_ood"
        assert (found["normalisation"], found["selection"]) == ("image_unbiased", "best_val")
        expected = dict(crop=256, window="centre", flips=True, rot90=True, intensity_jitter=0.0, evaluation_view="crop")
        assert found["augment"] == expected


def test_fine_tuning_as_the_released_code_of_mae():
    small, large = config.load("dann_vit.py:rxrx1"), config.load("dann_vit.py:rxrx1,variant=L/16")
    chosen = [(c["optim"]["lr"], c["optim"]["layer_decay"], c["total_epochs"]) for c in (small, large)]
    assert chosen == [(5e-4, 0.65, 100.0), (1e-3, 0.75, 50.0)]
    assert small["optim"]["warmup_epochs"] == 5 and small["data"]["minibatch"] == 256
    assert "layer_decay" not in config.load("dann_vit.py")["optim"]


def test_the_simulated_configs_are_those_of_the_published_table():
    """What docs/demo/table.csv was made with."""
    plain = whole(dict(name="vit", variant="XXS/8"))
    for name in ("mae_vit.py", "dann_vit.py", "linear_probe.py"):
        found = config.load(name)
        assert (
            whole(found["model"]) == plain and found["normalisation"] == "plate" and found["data"]["name"] == "rxrx_sim"
        )
    adamw = dict(name="adamw", weight_decay=0.05, clip_norm=1.0)
    optim = lambda: {k: v for k, v in found["optim"].items() if k != "ema_decay"}  # noqa: E731
    found = config.load("mae_vit.py")
    assert found["task"] == dict(name="mae", mask_ratio=0.75, normalise_target=True, decoder=(64, 2, 4))
    assert found["optim"].get("ema_decay", 0.0) == 0 and optim() == adamw | dict(
        lr=4e-3, betas=(0.9, 0.95), warmup_percent=5.0
    )
    assert (found["data"]["minibatch"], found["total_epochs"], found["augment"]["intensity_jitter"]) == (32, 30.0, 0.0)
    assert found["evaluators"].keys() == {"reconstruction", "leakage", "embeddings"}
    found = config.load("dann_vit.py")
    assert found["optim"].get("ema_decay", 0.0) == 0 and optim() == adamw | dict(
        lr=3e-3, betas=(0.9, 0.999), warmup_percent=10.0
    )
    assert (found["data"]["minibatch"], found["total_epochs"]) == (64, 5.0)
    found = config.load("linear_probe.py")
    corrections = ("none", "centre_scale_experiment")
    assert found["evaluators"] == dict(accuracy={}, probe=dict(blocks=False, corrections=corrections))
    assert found["total_epochs"] == 8.0


@pytest.mark.parametrize(
    "name, message",
    [
        ("mae_vit.py:rxrx1,rxrx3", "config arguments rxrx1 and rxrx3: choose one"),
        ("mae_vit.py:encoder=vit", "config argument encoder=vit: expected plain, microscopy or channel_agnostic"),
        ("dann_vit.py:rxrx3", "config argument 'rxrx3' is unknown"),
    ],
)
def test_a_bad_argument_is_named(name, message):
    with pytest.raises(UserError, match=message):
        config.load(name)
