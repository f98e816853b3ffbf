"""The trainer as a whole: every config runs, runs repeat and continue bit for bit, held-out labels stay out."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import step_tools
import tiny

from rxrx_jax import data
from rxrx_jax.adapt.method import Method
from rxrx_jax.base import embeddings, sharding
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.sharding import parameters_sha256
from rxrx_jax.data import minibatches
from rxrx_jax.evaluate import accuracy, predict
from rxrx_jax.models.vit import Encoder, parse_variant
from rxrx_jax.tasks import classify
from rxrx_jax.training import metrics, train
from rxrx_jax.training.checkpoint import load_parameters, published_part, stored_parameters

CONFIGS = (
    "mae_vit.py",
    "distill_vit.py",
    "convnet.py",
    "convnet.py:method=adabn,normalisation=plate",
    "convnet.py:method=cs_bn",
    "convnet.py:method=dann,transductive=True,normalisation=image,layout=reshuffled",
    "dann_vit.py",
    "dann_vit.py:method=context_token",
    "linear_probe.py",
    "channel_agnostic_mae.py",
    "dann_vit.py:encoder=channel_agnostic,transductive=True",
    "convnet.py:normalisation=plate,post_hoc=adabn",
)
MORE = [
    *(
        pytest.param(config, marks=pytest.mark.slow)
        for config in (
            "convnet.py:method=arm_bn",
            "convnet.py:method=ttbna",
            "wilds_erm.py",
            "adaptation.py:method=ben",
        )
    ),
    pytest.param("rxrx1_densenet.py", marks=pytest.mark.full),
    pytest.param("linear_probe.py:encoder=channel_agnostic,blocks=True", marks=pytest.mark.full),
]

pytestmark = pytest.mark.usefixtures("small_models")


@pytest.fixture(scope="module")
def mae(folder, tmp_path_factory):
    """The workdir of a finished tiny pretraining run."""
    workdir = tmp_path_factory.mktemp("mae")
    train.run(tiny.values("mae_vit.py", folder), workdir)
    return workdir


def lines(workdir):
    return metrics.read(workdir / "metrics.jsonl")


@pytest.fixture(scope="module")
def channel_agnostic_mae(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("channel_agnostic_mae")
    train.run(tiny.values("channel_agnostic_mae.py", folder), workdir)
    return workdir


@pytest.mark.parametrize("config", [*CONFIGS, *MORE])
def test_every_config_runs_two_steps(config, folder, mae, tmp_path, request):
    former = request.getfixturevalue("channel_agnostic_mae") if "encoder=channel_agnostic" in config else mae
    changes = {"init.path": str(former)} if config.startswith(("dann_vit", "linear_probe")) else {}
    last = train.run(tiny.values(config, folder, **changes), tmp_path)
    found = lines(tmp_path)
    chosen = config.startswith("wilds")  # whose best evaluation comes again at the end
    assert [line["step"] for line in found] == [2] * (3 + chosen)  # the first step only compiles and starts the clock
    training, evaluation, end = found[0], found[-2], found[-1]
    assert np.isfinite(training["loss"]) and training["images_per_second"] > 0 and 0 <= training["data_wait"] <= 1
    assert evaluation["final"] is True
    assert end == last and end["done"] is True and len(end["parameters_sha256"]) == 64
    assert all(isinstance(v, (int, float, str, bool)) or v is None for line in found for v in line.values())
    if config.startswith(("mae", "channel_agnostic", "distill")):
        if not config.startswith("distill"):
            assert evaluation["reconstruction/cross_batch/loss"] > 0
            assert (tmp_path / "reconstruction.png").stat().st_size > 10_000
        columns, embedding = embeddings.read(tmp_path)
        assert embedding.shape == (len(columns["site_id"]), 16) and np.isfinite(embedding).all()
    else:
        for prefix in ("", "adabn/") if "post_hoc" in config else ("",):
            for where in ("in_batch", "validation", "cross_batch"):
                assert 0 <= evaluation[f"{prefix}{where}/site_accuracy"] <= 1
            names = {"cross_batch/site_accuracy/SIMB-01", "cross_batch/well_accuracy/SIMB"}
            assert {prefix + name for name in names} < evaluation.keys()
        assert any(name.startswith("adabn/") for name in evaluation) == ("post_hoc" in config)
    if config.startswith("linear_probe"):
        for encoder in ("pretrained", "untrained", "handcrafted"):
            for correction in ("none", "centre_scale_experiment"):
                assert f"probe/{encoder}/{correction}/cross_batch/site_accuracy" in evaluation
    assert ("probe/block_2/cross_batch/site_accuracy" in evaluation) == ("blocks" in config)
    resolved = json.loads((tmp_path / "config.json").read_text())
    assert resolved["resolved"]["transductive"] is end["transductive"]


def test_every_config_file_is_covered():
    configs = [*CONFIGS, *(one.values[0] for one in MORE)]
    # these in test_tasks_molecules_runs.py, test_tasks_contrast.py and test_tasks_flow_runs.py
    others = {"mole.py", "mole_biology.py", "mole_finetune.py", "molecule_map.py", "mogfn.py"}
    assert {c.partition(":")[0] for c in configs} | others == {p.name for p in tiny.CONFIGS.glob("*.py")}


def test_a_stage_inherits_the_mark_of_the_stage_before(folder, mae, tmp_path):
    changes = {"init.path": str(mae), "evaluators": {}}
    values = tiny.values("linear_probe.py:normalisation=image", folder, **changes)
    assert train.run(values, tmp_path)["transductive"] is True  # the encoder was trained with plate statistics


def test_a_run_that_keeps_averages_is_evaluated_by_them(folder, tmp_path, monkeypatch):
    """And by nothing else: the evaluators' network is the stored average, statistics of BatchNorm too."""
    read, original = [], predict.Context.use

    def use(self, *arguments):
        found = original(self, *arguments)
        read.append(jax.tree.map(np.array, found.network))
        return found

    monkeypatch.setattr(predict.Context, "use", use)
    values = tiny.values("convnet.py", folder, **{"optim.ema_decay": 0.5, "total_steps": 4})
    train.run(values, tmp_path)
    assert published_part(tmp_path) == "averages"
    averages, params = (stored_parameters(tmp_path, part) for part in ("averages", "params"))
    (network,) = read
    jax.tree.map(np.testing.assert_array_equal, network.params, averages)
    assert not np.array_equal(averages["head"]["linear"]["kernel"], params["head"]["linear"]["kernel"])
    assert jax.tree.leaves(network.batch_stats)

    # The scores are those of that network and of no other.
    config = train.Config(values)
    source, mesh = tiny.source(config), sharding.make_mesh()
    with jax.set_mesh(mesh):
        step = train.make_step(config, source, mesh, 4)
        _, context = train.make_evaluation(config, source, step, mesh, tmp_path)
        final = next(line for line in lines(tmp_path) if line.get("final"))
        context.network = network
        found = {k: v for k, v in accuracy.evaluate(context) if not isinstance(v, str) and v == v}
        assert found and {name: final[name] for name in found} == pytest.approx(found)


def test_a_stage_starts_from_the_encoder_of_the_stage_before(folder, mae, tmp_path):
    one_device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    encoder_module = Encoder(*parse_variant("XXS/8"))
    shapes = jax.eval_shape(encoder_module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 6), "float32"))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one_device), shapes["params"])

    def encoder(workdir):
        return parameters_sha256(load_parameters(str(workdir), "encoder", shapes))

    for name, path in (("probe", str(mae)), ("fresh", "")):
        train.run(tiny.values("linear_probe.py", folder, evaluators={}, **{"init.path": path}), tmp_path / name)
    assert encoder(tmp_path / "probe") == encoder(mae)  # inherited, and frozen
    assert encoder(tmp_path / "fresh") != encoder(mae)


def test_labels_of_held_out_experiments_cannot_reach_a_task(folder, tmp_path, monkeypatch):
    """Shuffling every label outside the train split changes no parameter, and no minibatch ever shows one."""
    seen = []

    class Spy(minibatches._Steps):
        def __getitem__(self, step):
            streams = super().__getitem__(step)
            for name, part in streams.items():
                seen.append((self.samplers[name].rows(int(step)), part["label"].copy()))
            return streams

    monkeypatch.setattr(minibatches, "_Steps", Spy)
    changes = {"total_steps": 4, "evaluators": {"accuracy": {}}}
    values = tiny.values("convnet.py:method=dann,transductive=True", folder, **changes)
    honest = train.run(values, tmp_path / "honest")

    original = data.read_dataset
    tiny.shuffle_held_out_labels(monkeypatch)
    other = train.run(values, tmp_path / "shuffled")
    assert other["parameters_sha256"] == honest["parameters_sha256"]
    scores = [next(x for x in lines(tmp_path / w) if x.get("final")) for w in ("honest", "shuffled")]
    assert scores[0]["cross_batch/sites"] == scores[1]["cross_batch/sites"]  # evaluators did read them

    dataset = original(data.open_dataset("rxrx_sim", values["data"]["builder"], str(folder)).folder)
    split = dataset.sites.split
    held_out = 0
    for rows, labels in seen:
        assert (labels[split[rows] != "train"] == -1).all() and (labels[split[rows] == "train"] >= 0).all()
        held_out += (split[rows] != "train").sum()
    assert held_out == 2 * 4 * 4  # two runs, four steps, four unlabelled images each


def test_the_loss_cannot_read_a_label_of_minus_one(folder, tmp_path):
    """The class loss of a minibatch does not change with its unlabelled images' features' labels."""
    import jax.numpy as jnp

    from rxrx_jax.models.convnet import ConvNet
    from rxrx_jax.models.heads import Head

    task = classify.Classify(ConvNet((4,)), Head(3), Method(), 0.1)
    pictures = jax.random.normal(jax.random.key(0), (6, 16, 16, 6))
    variables = task.init(jax.random.key(1), pictures)

    keys = jax.random.split(jax.random.key(2), 6)

    def loss(labels):
        columns = {"label": jnp.array(labels), "experiment": jnp.zeros(6, int)}
        collections, batch = step_tools.collections(variables), step_tools.batch(pictures, keys, **columns)
        return task.loss(variables["params"], collections, batch, keys[0], 0.0)

    value, (_, found) = loss([0, 1, 2, -1, -1, -1])
    _, logits, _ = task._apply(variables["params"], variables["batch_stats"], pictures, None, train=True)
    log_p = jax.nn.log_softmax(logits)[:3]
    targets = np.eye(3) * 0.9 + 0.1 / 3
    np.testing.assert_allclose(value, -(targets * log_p).sum(1).mean(), rtol=1e-5)
    assert float(found["accuracy"]) in (0, np.float32(1 / 3), np.float32(2 / 3), 1)


def run_tiny(config, workdir, folder, env=None, stderr=None, text=None, **changes):
    arguments = [f"{k}={v!r}" for k, v in changes.items()]
    script = pathlib.Path(tiny.__file__)
    return subprocess.Popen(
        [sys.executable, str(script), config, str(workdir), str(folder), *arguments], env=env, stderr=stderr, text=text
    )


@pytest.mark.slow
@pytest.mark.parametrize("config", ["mae_vit.py", "convnet.py:method=dann,transductive=True"])
def test_kill_and_restart_gives_the_bits_of_an_uninterrupted_run(config, folder, tmp_path):
    changes = dict(total_steps=40, checkpoint_steps=3, evaluators={})
    assert run_tiny(config, tmp_path / "whole", folder, **changes).wait() == 0

    process = run_tiny(config, tmp_path / "killed", folder, **changes)
    deadline = time.time() + 120
    saved = lambda: [p for p in (tmp_path / "killed" / "checkpoints").glob("*") if p.name.isdigit()]  # noqa: E731
    while not saved() and time.time() < deadline:  # names that are not numbers are saves under way
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    assert metrics.finished(tmp_path / "killed" / "metrics.jsonl") is None
    restarted = run_tiny(config, tmp_path / "killed", folder, stderr=subprocess.PIPE, text=True, **changes)
    said = restarted.communicate()[1]
    assert restarted.returncode == 0 and re.search(r"resuming .* from step [1-9]", said), said

    whole, killed = lines(tmp_path / "whole"), lines(tmp_path / "killed")
    assert killed[-1]["parameters_sha256"] == whole[-1]["parameters_sha256"]
    loss = lambda found: {line["step"]: line["loss"] for line in found if "loss" in line}  # noqa: E731
    both = loss(whole).keys() & loss(killed).keys()
    assert len(both) > 30 and all(loss(whole)[s] == loss(killed)[s] for s in both)
    assert [x["step"] for x in killed] == sorted(x["step"] for x in killed)


@pytest.mark.full
@pytest.mark.parametrize("config", ["mae_vit.py", "convnet.py:method=dann,transductive=True"])
def test_eight_devices_give_the_losses_of_one(config, folder, tmp_path):
    """The whole trainer on eight emulated devices, parameters split over two: equal within float tolerance."""
    size = {"data.minibatch": 16} | ({"data.unlabelled_minibatch": 8} if "dann" in config else {})
    losses = []
    for devices in (1, 8):
        changes = {"total_steps": 5, "mesh.fsdp": min(devices, 2), **size}
        env = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}
        assert run_tiny(config, tmp_path / str(devices), folder, env=env, **changes).wait() == 0
        losses.append([line["loss"] for line in lines(tmp_path / str(devices)) if "loss" in line])
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-5)


def test_a_finished_run_is_left_alone_and_another_config_is_refused(folder, mae, capsys):
    before = (mae / "metrics.jsonl").read_bytes()
    again = train.run(tiny.values("mae_vit.py", folder), mae)
    assert again == lines(mae)[-1] and (mae / "metrics.jsonl").read_bytes() == before
    assert "is finished" in capsys.readouterr().err
    with pytest.raises(UserError, match="holds a run with another config"):
        train.run(tiny.values("mae_vit.py", folder, seed=5), mae)


@pytest.mark.parametrize(
    "config, changes, message",
    [
        ("mae_vit.py", {"optim.lrr": 1.0}, "config key optim.lrr is unused or misspelled"),
        ("mae_vit.py", {"optim.lr": None}, "config key optim.lr is missing"),
        ("mae_vit.py", {"total_steps": None}, "sets no length"),
        ("mae_vit.py", {"mesh.fsdp": 3}, "mesh.fsdp=3 .* does not divide the 1 devices"),
        ("mae_vit.py", {"augment.crop": 64}, r"augment.crop=64 is larger than the images, \(32, 32\)"),
        ("mae_vit.py", {"augment.crop": 28}, "image 28x28 is not a multiple of the patch side 8"),
        ("mae_vit.py", {"normalisation": "well"}, "normalisation='well': expected one of dataset, image"),
        ("mae_vit.py", {"task.mask_ratio": 1.0}, "task.mask_ratio=1.0"),
        ("mae_vit.py", {"model.name": "convnet", "model.widths": (4,), "model.variant": None}, "needs vit"),
        ("mae_vit.py", {"evaluators": {"acuracy": {}}}, "evaluators.acuracy: expected one of accuracy"),
        ("mae_vit.py", {"evaluators": {"leakage": {"x": 1}}}, "evaluators.leakage.x: leakage takes no settings"),
        ("mae_vit.py", {"data.select": {"cell_types": ("SIMX",)}}, "cell_types='SIMX': the dataset has SIMA, SIMB"),
        ("mae_vit.py", {"data.select": {"splits": ("test",)}}, "data.select.splits: .*data.select has exp"),
        ("mae_vit.py", {"data.groups_per_minibatch": 3}, "not a multiple of data.groups_per_minibatch=3"),
        ("mae_vit.py", {"data.group": "well"}, "data.group='well'"),
        ("convnet.py:method=adabn", {"data.groups_per_minibatch": 0}, "adapt.name=adabn needs data.groups_per"),
        (
            "dann_vit.py",
            {"post_hoc": {"mine": {"name": "adabn", "read": "plate"}}},
            "post_hoc.mine: .*no BatchNorm to re-estimate",
        ),
        (
            "linear_probe.py",  # its head has a BatchNorm, its encoder none
            {"post_hoc": {"adabn": {"name": "adabn", "read": "experiment"}}},
            "post_hoc.adabn: .*no BatchNorm to re-estimate",
        ),
        ("mae_vit.py", {"measure": "noise"}, "measure='noise': expected synthetic, loader or nothing"),
        ("mae_vit.py", {"accumulate": 3}, r"data.minibatch=8 .* in 3 parts \(accumulate\); use a multiple of 3"),
        ("linear_probe.py", {"init.path": "/nowhere"}, "init.path=/nowhere: no such file or folder"),
    ],
)
def test_a_bad_config_is_one_line_with_the_key(config, changes, message, folder, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        train.run(tiny.values(config, folder, **changes), tmp_path)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_does_not_fit_names_path_and_parameter(folder, mae, tmp_path):
    values = tiny.values("dann_vit.py:variant=Ti/8", folder, **{"init.path": str(mae)})
    with pytest.raises(UserError, match=f"checkpoint {mae}.*encoder/blocks/block/mlp1/bias is"):
        train.run(values, tmp_path)
