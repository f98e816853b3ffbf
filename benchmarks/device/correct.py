"""The parts of device_check.py that ask whether results are right. Errors are |a - b| / |b| of whole arrays."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
from device.lines import Setting
from device.speed import make_small
from step import SIDE, build, config_of, here, running

from rxrx_jax.base import sharding
from rxrx_jax.base.config import Config
from rxrx_jax.base.sharding import parameters_sha256
from rxrx_jax.data import noise
from rxrx_jax.data.batch import Batch, join, label_count
from rxrx_jax.models.attention import attention
from rxrx_jax.tasks import make_task
from rxrx_jax.training import checkpoint
from rxrx_jax.training.state import COLLECTIONS

# [images, rows, heads, width of a head]: an encoder's visible patches and a class token, which make an odd number, a
# decoder's rows, and a whole image of 512 pixels.
SHAPES = ((64, 65, 6, 64), (64, 257, 16, 32), (8, 1024, 16, 64))
TINY = ((2, 9, 2, 8),)
# bfloat16 has 8 bits of significand: single roundings are 0.2 to 0.4 %, and a gradient has many of them; a loss is a
# mean of many values, whose errors nearly cancel.
ATTENTION, LOSS, GRADIENT = 0.02, 0.001, 0.03
STEPS, SAVED = 20, 10


def attention_errors(setting: Setting, _):
    """The fused kernel in bfloat16, forward and backward, against XLA's attention in float32 on the same device, and
    beside it XLA's own in bfloat16."""
    backend(setting)
    for shape in TINY if setting.rehearse else SHAPES:
        keys = jax.random.split(jax.random.key(0), 4)
        q, k, v, weights = (jax.random.normal(key, shape, jnp.bfloat16) for key in keys)
        float32 = [x.astype(jnp.float32) for x in (q, k, v, weights)]
        with jax.default_matmul_precision("highest"):
            expected = with_gradients(xla).lower(*float32).compile()(*float32)
        lowered = with_gradients(attention).lower(q, k, v, weights)
        fused = "fmha" in lowered.as_text()  # the name of cuDNN's kernel
        names = ("out", "dq", "dk", "dv")
        errors = {n: relative(a, b) for n, a, b in zip(names, lowered.compile()(q, k, v, weights), expected)}
        beside = {n: relative(a, b) for n, a, b in zip(names, with_gradients(xla)(q, k, v, weights), expected)}
        passed = max(errors.values()) <= ATTENTION and (fused or setting.rehearse)
        found = {"check": "attention", "shape": shape, "passed": passed, "fused": fused, "most": ATTENTION}
        yield found | {"error_of": errors, "error_of_xla": beside} | about()


def xla(q, k, v):
    return jax.nn.dot_product_attention(q, k, v, implementation="xla")


def with_gradients(function):
    """(out, dq, dk, dv) of function(q, k, v), the gradients those of (out * weights).sum(), jitted."""

    @jax.jit
    def run(q, k, v, weights):
        out, back = jax.vjp(function, q, k, v)
        return out, *back(weights.astype(out.dtype))

    return run


def gradients(setting: Setting, _):
    """Loss and gradients in bfloat16 here against float32 on the CPU, of the same parameters, images and keys."""
    backend(setting)
    model, side, minibatch = ("XXS/16", 32, 4) if setting.rehearse else ("S/16", SIDE, 8)
    cpu = sharding.make_mesh(devices=jax.devices("cpu")[:1])
    for kind in ("supervised",) if setting.rehearse else ("mae", "supervised"):
        expected, variables = loss_and_gradients(cpu, kind, model, side, minibatch, "float32")
        found, _ = loss_and_gradients(here(), kind, model, side, minibatch, "bfloat16", variables)
        loss = relative(found[0], expected[0])
        whole = relative(flat(found[1]), flat(expected[1]))
        passed = loss <= LOSS and whole <= GRADIENT
        limits = {"loss": LOSS, "gradient": GRADIENT}
        errors = {"loss": loss, "gradient": whole, "gradient_of": worst(found[1], expected[1])}
        yield {"check": "gradients", "kind": kind, "passed": passed, "loss": float(expected[0]), "most": limits} | {
            "error_of": errors, "model": model, "side": side, "minibatch": minibatch} | about()  # fmt: skip


def loss_and_gradients(mesh, kind, model, side, minibatch, dtype, variables=None):
    """((loss, gradients), variables) as numpy arrays, of `variables` or, where there are none, random ones."""
    config = Config(config_of(kind, model, minibatch, dtype, side))
    source = noise.make(config)
    task = make_task(config, source)
    drawn_once = next(source.minibatches(0, 1))
    columns, streams = join(drawn_once)
    images = (columns.pop("image").astype(np.float32) - 127.5) / 74
    with jax.set_mesh(mesh):
        if variables is None:
            variables = drawn(jax.eval_shape(task.init, jax.random.key(0), images[:1]))
        collections = {name: variables.get(name, {}) for name in COLLECTIONS}

        def loss(params):
            key = jax.random.key(1)
            batch = Batch((images,), columns, jax.random.split(key, minibatch), streams, label_count(drawn_once))
            return task.loss(params, collections, batch, key, 0.0)[0]

        return jax.device_get(jax.jit(jax.value_and_grad(loss))(variables["params"])), variables


def drawn(shapes):
    """Random arrays of these shapes, small, biases and norms among them, so that each of them matters."""
    random = np.random.default_rng(0)

    def draw(path, x):
        around = sharding.path_name(path).endswith("scale")
        return (around + 0.02 * random.normal(size=x.shape)).astype(x.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def repeat(setting: Setting, _):
    """Twenty steps of a masked autoencoder twice, compiled twice, end with the same bits; leaves a checkpoint of the
    tenth step for `restore`."""
    ends = []
    with small_step(setting) as (made, step):
        for run in range(2):
            state = made.initialise(made.keys["init"])
            compiled = made.compile()
            losses = []
            for i in range(STEPS):
                state, found = step(compiled, state)
                losses.append(float(found["loss"]))
                if i + 1 == SAVED and run == 0:
                    with checkpoint.Checkpoints(setting.folder / "repeat", keep=1) as checkpoints:
                        checkpoints.save(state, {})
            ends.append(parameters_sha256(state.params))
        found = {"check": "repeat", "passed": ends[0] == ends[1], "steps": STEPS, "parameters_sha256": ends[0]}
        yield found | {"first_loss": losses[0], "last_loss": losses[-1]} | about()


def restore(setting: Setting, _):
    """Another process that resumes from that checkpoint ends with the same bits."""
    expected = setting.earlier("repeat").get("parameters_sha256")
    with small_step(setting) as (made, step):
        with checkpoint.Checkpoints(setting.folder / "repeat", keep=1) as checkpoints:
            restored = checkpoints.restore(made.arguments[0])
        if restored is None or expected is None:
            raise RuntimeError("the previous part left no checkpoint")
        state, first = restored[0], int(restored[0].step)
        compiled = made.compile()
        for _ in range(first, STEPS):
            state, _ = step(compiled, state)
        end = parameters_sha256(state.params)
        found = {"check": "restore", "passed": end == expected and first == SAVED, "from_step": first}
        yield found | {"parameters_sha256": end} | about()


@contextlib.contextmanager
def small_step(setting: Setting):
    """(the step of a masked autoencoder, step(compiled, state) on a minibatch of noise)."""
    backend(setting)
    model, side, minibatch = ("XXS/16", 32, 4) if setting.rehearse else ("S/16", SIDE, 64)
    with jax.set_mesh(here()):
        made, source = build("mae", model, minibatch, "bfloat16", side)
        yield made, running(made, source)


def backend(setting: Setting) -> None:
    """Raises RuntimeError where the device is not what the run is for. Makes the models of a rehearsal small."""
    if setting.rehearse:
        make_small()
    if (jax.default_backend() == "cpu") != setting.rehearse:
        raise RuntimeError(f"jax runs on {jax.default_backend()} here: use a GPU, or --rehearse on a CPU")


def about() -> dict:
    return {"device": jax.devices()[0].device_kind, "jax": jax.__version__}


def relative(a, b) -> float:
    """|a - b| / |b|, computed in float64."""
    a, b = (np.asarray(x).astype(np.float64) for x in (a, b))
    return float(np.linalg.norm((a - b).ravel()) / np.linalg.norm(b.ravel()))


def flat(tree):
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)])


def worst(found, expected) -> dict[str, float]:
    """The three parameters whose gradients differ most, without those that are rounding errors themselves."""
    least = 1e-3 * np.linalg.norm(flat(expected))
    pairs = zip(jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(found))
    errors = {sharding.path_name(path): relative(a, b) for (path, b), a in pairs if np.linalg.norm(b) >= least}
    return dict(sorted(errors.items(), key=lambda item: -item[1])[:3])
