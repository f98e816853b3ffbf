"""SWA and ArcFace against their formulas, and methods that mix, average or have a margin in the trainer."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import step_tools
import tiny
from method_tools import CLASSES, SHARES, SMALL, batch_of, draw, make, start, windows

from rxrx_jax import adapt, data
from rxrx_jax.adapt.mixing.arcface import ArcFace, with_margin
from rxrx_jax.adapt.mixing.swa import SWA
from rxrx_jax.base import sharding
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.augment import IMAGE_EPSILON
from rxrx_jax.data.batch import HELD_OUT, TRAIN
from rxrx_jax.models.heads import unit
from rxrx_jax.training import metrics, train
from rxrx_jax.training.checkpoint import published_part
from rxrx_jax.training.safety import preemption
from rxrx_jax.training.step import make_step


def close(found, expected, rtol=1e-6, atol=1e-9):
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)


# ArcFace.


def test_arcface_adds_the_margin_to_the_angle():
    with jax.enable_x64(True):
        angle = np.linspace(0, np.pi, 41)
        found = with_margin(jnp.cos(angle), 0.5)
        beyond = angle > np.pi - 0.5
        close(found[~beyond], np.cos(angle[~beyond] + 0.5), atol=1e-4)  # at the angle 0 the slope is kept finite
        close(found[beyond], np.cos(angle[beyond]) - 0.5 * np.sin(0.5))
        assert (np.diff(found) < 0).all()
        assert np.isfinite(jax.vmap(jax.grad(lambda c: with_margin(c, 0.5)))(jnp.array([-1.0, 0.0, 1.0]))).all()


def test_arcface_is_the_weighted_sum_of_both_losses():
    with jax.enable_x64(True):
        task = make(ArcFace(weight=0.2, shares=SHARES, classes=CLASSES))
        params, collections = start(task)
        columns = draw(5)
        columns["label"][3] = -1
        batch = batch_of({TRAIN: columns})

        def by_hand(kernel):
            head = jax.tree.map(np.asarray, params["head"]["linear"])
            x, known = columns["image"].reshape(5, -1), columns["label"] >= 0
            labels = columns["label"][known]
            error = lambda z: np.log(np.exp(z).sum(-1)) - z[np.arange(4), labels]  # noqa: E731
            usual = error((x @ head["kernel"] + head["bias"])[known])
            angles = np.arccos(
                (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (kernel / np.linalg.norm(kernel, axis=0))
            )
            assert (angles[known][np.arange(4), labels] < np.pi - 0.5).all()
            angles = angles[known] + 0.5 * np.eye(CLASSES)[labels]
            return 0.8 * usual.mean() + 0.2 * error(30 * np.cos(angles)).mean()

        def loss(kernel):
            return task.loss(params | {"domain": {"kernel": kernel}}, collections, batch, jax.random.key(1), 0.5)[0]

        kernel = np.array(params["domain"]["kernel"])
        assert kernel.shape == (8, CLASSES)
        value, gradient = jax.value_and_grad(loss)(jnp.asarray(kernel))
        close(value, by_hand(kernel))
        for index in ((0, 0), (5, 2)):
            step = np.zeros(kernel.shape)
            step[index] = 1e-6
            close(gradient[index], (by_hand(kernel + step) - by_hand(kernel - step)) / 2e-6, rtol=1e-5)


def test_three_updates_of_the_margin_turn_features_towards_their_class():
    """On one image whose class is the farthest: the angle to it falls, and no image without a label moves anything."""
    method = ArcFace(weight=1.0, classes=CLASSES)
    task = make(method)
    params, collections = start(task)
    columns = draw(4) | {"label": np.array([0, -1, -1, -1])}
    batch, angles = batch_of({TRAIN: columns}), []
    loss = jax.jit(jax.grad(lambda p: task.loss(p, collections, batch, jax.random.key(1), 0.5)[0]))
    for _ in range(4):
        cosines = unit(columns["image"].reshape(4, -1), 1) @ unit(params["domain"]["kernel"], 0)
        angles.append(float(jnp.arccos(cosines[0, 0])))
        params = jax.tree.map(lambda p, g: p - 0.02 * g, params, loss(params))
    assert angles[0] > angles[1] > angles[2] > angles[3]


# SWA.


def test_swa_is_the_mean_of_the_last_quarters_parameters():
    changes = {"adapt": {"name": "swa"}, "total_steps": step_tools.TOTAL_STEPS}
    states, _, _ = step_tools.run("classify", sharding.make_mesh(), steps=step_tools.TOTAL_STEPS, **changes)
    latest = lambda state: {"params": state.params, "batch_stats": state.collections["batch_stats"]}  # noqa: E731
    for state in states[:8]:  # 7 steps are less than three quarters of 10; the first average is one network
        jax.tree.map(np.testing.assert_array_equal, state.collections["averages"], latest(state))
    mean = jax.tree.map(lambda *x: np.mean(np.asarray(x, np.float64), 0), *map(latest, states[8:]))
    jax.tree.map(lambda a, b: close(a, b, rtol=1e-5, atol=1e-6), states[-1].collections["averages"], mean)
    assert len(states) == 11 and states[-1].published == "averages"


def test_the_average_of_a_short_run_is_its_last_network():
    kept = [float(SWA().averaged(jnp.int32(step), 2)) for step in range(2)]
    assert kept == [0, 0]
    kept = [float(SWA(share=1.0).averaged(jnp.int32(step), 4)) for step in range(4)]
    close(kept, [0, 1 / 2, 2 / 3, 3 / 4])


def values(folder, name, config="convnet.py", **changes):
    return tiny.values(f"{config}:method={name},normalisation=image", folder, **SMALL | changes)


@pytest.fixture(scope="module")
def swa(folder, small_models, tmp_path_factory):
    """(config, workdir) of a run of four steps, of which the last two are averaged."""
    workdir, config = tmp_path_factory.mktemp("swa"), values(folder, "swa", **{"total_steps": 4, "adapt.share": 0.5})
    train.run(config, workdir)
    return config, workdir


def network(config, workdir):
    """(params, batch_stats) that a run published."""
    config, mesh = train.Config(config), sharding.make_mesh()
    with jax.set_mesh(mesh), step_tools.small_models():
        step = make_step(config, tiny.source(config), mesh, 4)
        with train.checkpoint.Checkpoints(workdir / "checkpoints", 2) as checkpoints:
            state, _ = checkpoints.restore(step.arguments[0])
    return jax.tree.map(np.asarray, state.network())


def test_swas_statistics_are_those_of_all_training_images(swa, folder):
    config, workdir = swa
    assert published_part(workdir) == "averages"
    params, stats = network(config, workdir)
    source = tiny.source(train.Config(config))
    rows, dataset = source.samplers[TRAIN].drawn_from, source.dataset
    np.testing.assert_array_equal(np.unique(dataset.sites.split[rows]), ["train"])
    images = data.minibatches.read_minibatch(dataset, dataset.sites, rows)["image"].astype(np.float64) / 255
    images -= images.mean((1, 2), keepdims=True)
    images /= np.sqrt((images**2).mean((1, 2), keepdims=True) + IMAGE_EPSILON)
    kernel = params["encoder"]["conv0"]["kernel"].astype(np.float64)
    y = windows(images).reshape(-1, 54) @ kernel.reshape(54, -1)
    close(stats["encoder"]["norm0"]["mean"], y.mean(0), rtol=1e-4, atol=1e-5)
    close(stats["encoder"]["norm0"]["var"], y.var(0), rtol=1e-4, atol=1e-5)


def test_a_run_that_is_stopped_in_its_last_step_has_these_statistics_too(
    swa, folder, tmp_path, monkeypatch, small_models
):
    config, workdir = swa
    with monkeypatch.context() as patch:
        late = lambda self, size: np.full(size, next(steps) >= 3)  # noqa: E731
        steps = iter(range(1, 9))
        patch.setattr(preemption.Preemption, "flag", late)
        with pytest.raises(preemption.Stopped):
            train.run(config, tmp_path)
    assert not any(line.get("done") for line in metrics.read(tmp_path / "metrics.jsonl"))
    assert json.loads((tmp_path / "config.json").read_text())["total_steps"] == 4
    stopped = network(config, tmp_path)
    train.run(config, tmp_path)
    for found in (stopped, network(config, tmp_path)):
        jax.tree.map(np.testing.assert_array_equal, found, network(config, workdir))


# In the trainer.

QUICK, SLOW = ("mixstyle", "fixmatch"), ("mixup", "cutmix", "lisa", "dsu", "arcface", "mean_teacher")


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_two_steps_of_the_convnet(name, folder, small_models, tmp_path):
    last = train.run(values(folder, name), tmp_path)
    (line,) = [line for line in metrics.read(tmp_path / "metrics.jsonl") if "loss" in line]
    assert np.isfinite(line["loss"]) and last["done"]
    assert last["transductive"] is (name in ("fixmatch", "mean_teacher"))


def vit(folder, name):
    """The ViT's config with the method and what it needs."""
    own = values(folder, name)
    found = tiny.values("dann_vit.py:normalisation=image", folder, **{"augment.crop": 16, "evaluators": {}})
    found["optim"]["ema_decay"] = own["optim"]["ema_decay"]
    return found | {"adapt": own["adapt"], "data": own["data"]}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mixup", "cutmix", "swa", "arcface", "fixmatch"])
def test_two_steps_of_the_vit(name, folder, small_models, tmp_path):
    assert train.run(vit(folder, name), tmp_path)["done"]
    (line,) = [line for line in metrics.read(tmp_path / "metrics.jsonl") if "loss" in line]
    assert np.isfinite(line["loss"])


@pytest.mark.parametrize("name", ["mixstyle", "dsu"])
def test_a_vit_has_no_stem_to_change(name, folder, small_models, tmp_path):
    with pytest.raises(
        UserError, match=f"^adapt.name={name} changes the feature map.*model.name=vit has none: use a conv"
    ):
        train.run(vit(folder, name), tmp_path)


# What does not fit.


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("swa", {"optim.ema_decay": 0.5}, "adapt.name=swa has an average of its own; set optim.ema_decay to 0$"),
        ("fixmatch", {"data.unlabelled_minibatch": 0}, "adapt.name=fixmatch needs the stream held_out"),
        ("fixmatch", {"adapt.weight": -1.0}, "adapt.weight=-1.0: expected a number from 0$"),
        ("fixmatch", {"adapt.tau": 1.5}, "adapt.tau=1.5: expected a number from 0 to 1$"),
        ("mixup", {"adapt.alpha": 0.0}, "adapt.alpha=0.0: expected a number from 0.01 to 100$"),
        ("mean_teacher", {"adapt.ramp_up": 0.0}, "adapt.ramp_up=0.0: expected a number from 0.001 to 1$"),
        ("dsu", {"adapt.p": float("nan")}, "adapt.p=nan: expected a number from 0 to 1$"),
        ("lisa", {"data.pairs": ""}, "adapt.name=lisa needs data.pairs=perturbation, not ''$"),
        ("context_token", {}, "adapt.name=context_token adds a token to patches, and model.name=convnet has none: use"),
    ],
)
def test_one_line_for_what_does_not_fit(name, changes, message, folder, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        train.run(values(folder, name, **changes), tmp_path)
    assert "\n" not in str(caught.value)


def test_what_only_trains_reads_nothing_post_hoc():
    shares = {"experiment": (1.0,), "plate": (1.0,)}
    for name in ("mixup", "cutmix", "mixstyle", "dsu", "swa", "arcface", "fixmatch"):
        with pytest.raises(UserError, match="only trains, it reads as without it"):
            adapt.check_post_hoc("mine", adapt.make_method({"name": name}, shares), True)


def test_streams_of_a_transductive_fixmatch_are_the_held_out_experiments(folder):
    config = train.Config(values(folder, "fixmatch"))
    source = tiny.source(config)
    assert set(source.samplers) == {TRAIN, HELD_OUT}
    assert set(source.dataset.sites.split[source.samplers[HELD_OUT].drawn_from]) == {"val", "test"}
