"""The train step of a config: minibatches in parts, averages, its FLOPs, and what does not fit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import step_tools
import tiny

from rxrx_jax.base import sharding
from rxrx_jax.base.errors import UserError
from rxrx_jax.data import images, noise
from rxrx_jax.data.batch import Batch
from rxrx_jax.training import step, train
from rxrx_jax.training.checkpoint import load_parameters, published_part

# In parts, every part draws by itself which branches stochastic depth drops.
NO_DROP = {"model.drop_path": 0.0}


@functools.cache
def run(name, **changes):
    return step_tools.run(name, sharding.make_mesh(), **changes)[:2]


def close(found, expected, rtol=1e-4, atol=1e-6):
    compare = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol)
    jax.tree.map(compare, found, expected)


# A minibatch in parts.


@pytest.mark.parametrize("name, parts", [("mae", 4), ("distill", 2)])
def test_a_minibatch_in_parts_trains_as_a_whole_one(name, parts):
    whole, of_whole = run(name, **NO_DROP)
    found, metrics = run(name, accumulate=parts, **NO_DROP)
    # Experiments' centres move at most all the way: where a part is full of one, its mean is not that of the whole.
    close(found[-1].params, whole[-1].params, rtol=1e-3, atol=1e-5)
    for got, expected in zip(metrics, of_whole):
        assert got.keys() == expected.keys()
        additive = got.keys() - {"teacher_marginal_entropy"}  # the marginal is of the minibatch
        close({key: got[key] for key in additive}, {key: expected[key] for key in additive}, rtol=1e-3)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), whole[-1].params, whole[0].params)
    assert max(jax.tree.leaves(moved)) > 0.01


def test_parts_of_a_network_with_batch_statistics_are_trained_one_by_one_and_averaged():
    mesh = sharding.make_mesh()
    with jax.set_mesh(mesh):
        the_step, source = step_tools.make("classify", mesh)
        state, minibatch = step_tools.random_state(the_step), step_tools.minibatches(source, 1)[0]["train"]
        statistics = jax.tree.map(jnp.asarray, source.constants)
        labelled = (minibatch["label"] >= 0).sum()

        @jax.jit
        def part(minibatch, index, labelled):
            keys = {name: jax.random.fold_in(the_step.keys[name], 0) for name in ("augment", "task")}  # of step 0
            own = {name: jax.vmap(lambda i, key=key: jax.random.fold_in(key, i))(index) for name, key in keys.items()}
            views = (source.augment.train(minibatch, statistics, own["augment"]),)
            batch = Batch(views, minibatch, own["task"], {"train": slice(0, len(index))}, labelled)
            loss = lambda p: the_step.task.loss(p, state.collections, batch, keys["task"], 0.0)  # noqa: E731
            return jax.value_and_grad(loss, has_aux=True)(state.params)

        index = np.arange(step_tools.MINIBATCH)
        parts = [part({k: v[j::2] for k, v in minibatch.items()}, index[j::2], labelled / 2) for j in range(2)]
        (loss, (collections, found)), gradient = jax.tree.map(lambda a, b: (a + b) / 2, *parts)
        whole = part(minibatch, index, labelled)

    states, metrics = run("classify", accumulate=2)
    found |= {"loss": loss, "gradient_norm": jnp.sqrt(sum((x**2).sum() for x in jax.tree.leaves(gradient)))}
    close(states[1].collections["batch_stats"], collections["batch_stats"])
    close({key: metrics[0][key] for key in found}, found)
    close({key: run("classify")[1][0][key] for key in ("loss",)}, {"loss": whole[0][0]})
    assert abs(loss - whole[0][0]) > 1e-3  # BatchNorm of half as many


def test_units_stay_together_and_every_part_holds_a_share_of_every_device():
    x = np.arange(12)
    np.testing.assert_array_equal(sharding.split_parts(x, 3, 1), [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]])
    np.testing.assert_array_equal(sharding.split_parts(x, 3, 2), [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]])
    assert sharding.split_parts(np.zeros((12, 5, 2)), 2, 2).shape == (2, 6, 5, 2)


def normless(**changes):
    """A convolutional network's config without what parts of a minibatch see differently: a ViT that classifies."""
    vit = {"model": dict(name="vit", variant="XXS/4"), "adapt": dict(name="erm", domain="experiment")}
    return vit | changes


def test_parts_with_unequal_numbers_of_labels_give_the_gradient_of_the_whole():
    mesh = sharding.make_mesh()
    with jax.set_mesh(mesh):
        found = []
        for parts in (1, 4):
            the_step, source = step_tools.make("classify", mesh, accumulate=parts, **normless())
            state, (minibatch,) = step_tools.random_state(the_step), step_tools.minibatches(source, 1)
            label = minibatch["train"]["label"]
            label[[0, 4, 8, 1, 5]] = -1  # the parts are lanes i, i + 4, ...: they hold 0, 1, 4, 4 labels of 16
            label[12] = label[9] = -1
            label[[2, 3, 6, 7, 10, 11, 13, 14, 15]] = 1
            assert [(label[j::4] >= 0).sum() for j in range(4)] == [0, 1, 4, 4]
            on_devices = sharding.to_device(minibatch, mesh)
            found.append(the_step.update(state, on_devices, source.constants, the_step.keys))
    (whole, of_whole), (parts, of_parts) = found
    close(parts.params, whole.params, rtol=1e-3, atol=1e-5)
    for name in ("loss", "class_loss", "accuracy", "gradient_norm"):
        np.testing.assert_allclose(of_parts[name], of_whole[name], rtol=1e-3, err_msg=name)


def test_pairs_stay_in_one_part_for_every_task(monkeypatch):
    """The unit that must not be parted is the sampler's, not the task's."""
    mesh, seen = sharding.make_mesh(), []
    changes = {"data.pairs": "perturbation", "accumulate": 2, **normless()}
    original = sharding.split_parts
    monkeypatch.setattr(sharding, "split_parts", lambda x, count, unit: seen.append(unit) or original(x, count, unit))
    with jax.set_mesh(mesh):
        the_step, source = step_tools.make("classify", mesh, **changes)
        the_step.update.lower(*the_step.arguments)
        assert source.units == {"train": 2} and set(seen) == {2}
        with pytest.raises(UserError, match=r"in 2 parts \(accumulate\) in units of 2; use a multiple of 4$"):
            step_tools.make("classify", mesh, 10, **changes)


# The moving average.


def test_the_moving_average_is_the_recursion_over_the_parameters():
    decay = 0.15  # from the second step on; in the first one it is a tenth
    optim = step_tools.SGD | {"ema_decay": decay}
    states, _, _ = step_tools.run("classify", sharding.make_mesh(), optim=optim)
    double = functools.partial(jax.tree.map, lambda x: x.astype(np.float64))
    latest = lambda state: {"params": state.params, "batch_stats": state.collections["batch_stats"]}  # noqa: E731
    average = double(states[0].collections["averages"])
    close(average, double(latest(states[0])), rtol=0, atol=0)
    for t, state in enumerate(states[1:]):
        d = min(decay, (1 + t) / (10 + t))
        average = jax.tree.map(lambda a, p, d=d: d * a + (1 - d) * p, average, double(latest(state)))
        close(state.collections["averages"], average, rtol=1e-6, atol=1e-7)
    last, plain = states[-1], run("classify")[0][-1]
    assert plain.collections["averages"] == {} and (plain.published, last.published) == ("params", "averages")
    for state, expected in ((plain, latest(plain)), (last, last.collections["averages"])):
        close(dict(zip(("params", "batch_stats"), state.network())), expected, rtol=0, atol=0)


def values(folder, config="mae_vit.py", **changes):
    crop = {"augment.crop": 16, "data.minibatch": 4, "evaluators": {}, "model.variant": "XXS/8"}
    return tiny.values(config, folder, **crop, **changes)


def encoder(workdir, source):
    """Of the newest checkpoint of a tiny run."""
    mesh = sharding.make_mesh()
    found = step_tools.config.Config(values("", **{"optim.ema_decay": 0.5}))
    with step_tools.small_models(), jax.set_mesh(mesh):
        shapes = step.make_step(found, noise.make(found), mesh, 4).arguments[0].params["encoder"]
        return load_parameters(str(workdir), "encoder", shapes, source)


@pytest.mark.slow
def test_the_moving_average_survives_a_stop_and_starts_the_next_stage(folder, tmp_path, monkeypatch):
    changes = {"optim.ema_decay": 0.5, "total_steps": 4, "checkpoint_steps": 2}
    with step_tools.small_models():
        whole = train.run(values(folder, **changes), tmp_path / "whole")
        original = images.training_minibatches

        def stopping(*args):
            for count, minibatch in enumerate(original(*args)):
                if count == 3:
                    raise KeyboardInterrupt
                yield minibatch

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(images, "training_minibatches", stopping)
            train.run(values(folder, **changes), tmp_path / "stopped")
        again = train.run(values(folder, **changes), tmp_path / "stopped")
        assert again["parameters_sha256"] == whole["parameters_sha256"]
        averages = encoder(tmp_path / "whole", "averages")
        close(encoder(tmp_path / "stopped", "averages"), averages, rtol=0, atol=0)
        params = encoder(tmp_path / "whole", "params")
        assert not np.array_equal(averages["embed"]["kernel"], params["embed"]["kernel"])
        assert published_part(tmp_path / "whole") == "averages"

        # Without a part said, the next stage starts from the one that was published.
        for part, expected in (("averages", averages), ("params", params), ("", averages)):
            init = {"init.path": str(tmp_path / "whole"), "init.parameters": part}
            workdir = tmp_path / f"from-{part}"
            train.run(values(folder, "linear_probe.py", **init), workdir)
            close(encoder(workdir, "params"), expected, rtol=0, atol=0)  # inherited, and frozen
            assert published_part(workdir) == "params"
        with pytest.raises(UserError, match="has no parameters 'encoder' in averages; it has nothing there"):
            encoder(tmp_path / "from-params", "averages")
        with pytest.raises(UserError, match="parameters='means': the parts of a run's state are params and averages"):
            encoder(tmp_path / "whole", "means")


@pytest.mark.parametrize("name, ema_decay", [("distill", 0.0), ("mae", 0.5)])
def test_a_fresh_state_inherits_into_its_averages_too(name, ema_decay):
    mesh = sharding.make_mesh()
    with jax.set_mesh(mesh):
        the_step, _ = step_tools.make(name, mesh, optim=step_tools.SGD | {"ema_decay": ema_decay})
        state = step_tools.random_state(the_step)
        part = jax.tree.map(lambda x: x + 1, state.params["encoder"])
        found = the_step.warm_start(state, part, {})
    trees = [x for one in (found, state) for x in (one.params, one.collections["averages"]["params"])]
    trees, old = trees[:2], trees[2:]
    assert found.collections["carry"] is state.collections["carry"]
    for tree, before in zip(trees, old):
        close(tree["encoder"], part, rtol=0, atol=0)
        rest = lambda tree: {key: value for key, value in tree.items() if key != "encoder"}  # noqa: E731
        close(rest(tree), rest(before), rtol=0, atol=0)
    # The step donates its state: no two of them may be one buffer.
    pointers = [x.unsafe_buffer_pointer() for tree in trees for x in jax.tree.leaves(tree["encoder"])]
    assert len(pointers) == len(set(pointers))


# What does not fit.


@pytest.mark.parametrize(
    "name, minibatch, changes, message",
    [
        ("mae", 10, {"accumulate": 4}, r"data.minibatch=10 .* in 4 parts \(accumulate\); use a multiple of 4$"),
        ("distill", 10, {"accumulate": 2}, r"in 2 parts \(accumulate\) in units of 2; use a multiple of 4$"),
        ("distill", 7, {}, "data.minibatch=7 .* 1 devices in units of 2; use a multiple of 2$"),
        ("mae", 8, {"accumulate": 0}, "^accumulate=0: expected the number of parts of a minibatch, 1 or more$"),
        ("mae", 8, {"augment.crop": 64}, r"augment.crop=64 is larger than the images, \(32, 32\)"),
        ("mae", 8, {"optim": step_tools.SGD | {"ema_decay": 1.0}}, "optim.ema_decay=1.0"),
        (
            "distill",
            8,
            {"optim": step_tools.SGD | {"ema_decay": 0.5}},
            "^optim.ema_decay=0.5: task.name=distill has an average of its own; set it to 0$",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(name, minibatch, changes, message):
    mesh = sharding.make_mesh()
    with jax.set_mesh(mesh), pytest.raises(UserError, match=message):
        step_tools.make(name, mesh, minibatch, **changes)


# Numbers about the step.


def step_of(name="mae", **changes):
    mesh = sharding.make_mesh()
    with jax.set_mesh(mesh):
        return step_tools.make(name, mesh, **changes)[0]


def test_flops_of_a_masked_autoencoder_by_hand():
    """Forward, and twice as much backward, but for the patch embedding, whose input needs no gradient."""
    n, kept, values, (width, mlp, depth), (d, d_depth) = 4, 1, 4 * 4 * 6, (16, 32, 2), (8, 1)
    block = lambda tokens, width, mlp: 2 * tokens * (4 * width**2 + 2 * width * mlp) + 4 * tokens**2 * width  # noqa: E731
    embed = 2 * n * values * width
    blocks = depth * block(kept + 1, width, mlp) + d_depth * block(n + 1, d, 4 * d)  # one more: the class token
    around = 2 * (kept + 1) * width * d + 2 * n * d * values
    assert step_of().flops_per_image == 2 * embed + 3 * (blocks + around)


@pytest.mark.parametrize("changes", [{"model.remat": "full"}, {"accumulate": 4}, {"minibatch": 64}])
def test_flops_of_an_image_are_those_of_the_model_however_it_is_trained(changes):
    assert step_of(**changes).flops_per_image == step_of().flops_per_image


def test_keys_of_the_purposes_differ_and_follow_the_seed():
    draws = lambda step: {n: jax.random.key_data(k).tolist() for n, k in step.keys.items()}  # noqa: E731
    one, other = draws(step_of()), draws(step_of(seed=1))
    assert one.keys() == {"init", "augment", "task"}
    assert len({str(v) for keys in (one, other) for v in keys.values()}) == 6


def test_memory_of_a_chip_counts_what_is_donated_once():
    x = jax.ShapeDtypeStruct((1 << 20,), jnp.float32)
    double = lambda x: 2 * x  # noqa: E731
    donated = jax.jit(double, donate_argnums=0).lower(x).compile()
    kept = jax.jit(double).lower(x).compile()
    assert 4 << 20 <= step.memory_per_chip(donated) < (4 << 20) + 10_000
    assert step.memory_per_chip(kept) >= 8 << 20


def test_the_compiled_step_takes_the_minibatches_of_the_loader():
    mesh = sharding.make_mesh()
    with jax.set_mesh(mesh):
        the_step, source = step_tools.make("mae", mesh)
    minibatch = next(source.minibatches(0, 1))
    minibatch["train"]["stop"] = minibatch["train"]["valid"]  # the trainer's own
    form = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)  # noqa: E731
    assert form(minibatch) == form(the_step.arguments[1])
    assert step.parameter_count({"a": np.zeros((2, 3)), "b": {"c": np.zeros(4)}}) == 10
