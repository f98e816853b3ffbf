"""What every method has in common: names of domains do not matter, and updates lower its loss."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from method_tools import CLASSES, SHARES, batch_of, close, draw, make, start

from rxrx_jax.adapt.anchors.control_affine import ControlAffine
from rxrx_jax.adapt.anchors.control_bias import ControlBias
from rxrx_jax.adapt.anchors.control_mean import ControlMean
from rxrx_jax.adapt.invariance.cdan import Cdan
from rxrx_jax.adapt.invariance.coral import Coral
from rxrx_jax.adapt.invariance.dann import Dann
from rxrx_jax.adapt.invariance.fish import Fish
from rxrx_jax.adapt.invariance.fishr import Fishr
from rxrx_jax.adapt.invariance.groupdro import GroupDRO
from rxrx_jax.adapt.invariance.ib_erm import IbErm
from rxrx_jax.adapt.invariance.irm import Irm
from rxrx_jax.adapt.invariance.mmd import Mmd
from rxrx_jax.adapt.invariance.vrex import Vrex
from rxrx_jax.adapt.method import Method
from rxrx_jax.adapt.mixing.arcface import ArcFace
from rxrx_jax.adapt.mixing.cutmix import CutMix
from rxrx_jax.adapt.mixing.dsu import DSU
from rxrx_jax.adapt.mixing.lisa import Lisa
from rxrx_jax.adapt.mixing.mixstyle import MixStyle
from rxrx_jax.adapt.mixing.mixup import Mixup
from rxrx_jax.adapt.mixing.swa import SWA
from rxrx_jax.adapt.semi.fixmatch import FixMatch
from rxrx_jax.adapt.semi.mean_teacher import MeanTeacher
from rxrx_jax.adapt.statistics.adabn import AdaBN
from rxrx_jax.adapt.statistics.arm_bn import ArmBN
from rxrx_jax.adapt.statistics.ttbna import TTBNA
from rxrx_jax.data.batch import HELD_OUT, TRAIN, join
from rxrx_jax.training.state import TrainState

pytestmark = pytest.mark.usefixtures("double")


EVERY = {
    "erm": Method(shares=SHARES),
    "groupdro": GroupDRO(shares=SHARES),
    "fish": Fish(shares=SHARES, groups=3, meta_rate=1.0),
    "lisa": Lisa(shares=SHARES),
    "mean_teacher": MeanTeacher(shares=SHARES),
    "adabn": AdaBN(shares=SHARES, groups=1),
    "arm_bn": ArmBN(shares=SHARES, groups=3),
    "ttbna": TTBNA(shares=SHARES),
    "control_mean": ControlMean("experiment", SHARES),
    "control_affine": ControlAffine(shares=SHARES),
    "control_bias": ControlBias(shares=SHARES),
    "coral": Coral(shares=SHARES, groups=3),
    "mmd": Mmd(shares=SHARES, groups=3),
    "irm": Irm(shares=SHARES, groups=3, warm_up=0),
    "vrex": Vrex(shares=SHARES, groups=3, warm_up=0),
    "ib_erm": IbErm(shares=SHARES, groups=3, warm_up=0),
    "fishr": Fishr(shares=SHARES, groups=3, warm_up=0, weight=1.0, ema_decay=0.0, classes=CLASSES),
    "mixup": Mixup(shares=SHARES, alpha=1.0),
    "cutmix": CutMix(shares=SHARES),
    "mixstyle": MixStyle(shares=SHARES, p=1.0),
    "dsu": DSU(shares=SHARES, p=1.0),
    "swa": SWA(shares=SHARES),
    "arcface": ArcFace(shares=SHARES, classes=CLASSES),
    "fixmatch": FixMatch(shares=SHARES, tau=0.0),
}
# Their discriminators have a parameter for each domain: test_invariance_adversaries.py renames these too.
ADVERSARIES = {
    "dann": Dann(shares=SHARES, hidden=6),
    "dann_alternating": Dann(shares=SHARES, hidden=6, schedule="alternating"),
    "cdan": Cdan(shares=SHARES, hidden=6, projected=16, classes=CLASSES),
}


@pytest.mark.parametrize("name", EVERY)
def test_renaming_the_domains_changes_nothing(name):
    task = make(EVERY[name])
    params, collections = start(task)
    if task.method.needs.averages:
        collections["averages"] = {"params": params, "batch_stats": {"encoder": {}, "head": {}}}
    train, held_out = draw(12), draw(4, seed=1) | {"label": np.full(4, -1)}
    train["experiment"] = np.repeat([0, 1, 3], 4)

    def update(rename):
        part = train | {"experiment": rename[train["experiment"]]}
        minibatch = {TRAIN: part} | ({HELD_OUT: held_out} if task.method.needs.streams else {})
        method = dataclasses.replace(task.method, shares=tuple(np.array(SHARES)[np.argsort(rename)]))
        renamed = dataclasses.replace(task, method=method)
        again = collections | {"carry": renamed.method.init(jax.random.key(0), np.zeros((1, 8)))[1]}

        def differentiate(params, collections, part):
            columns, _ = join(part)
            batch = batch_of(part, views=(columns["image"],) * 2)
            loss = lambda p: renamed.loss(p, collections, batch, jax.random.key(1), 0.5)  # noqa: E731
            (value, (new, found)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
            return gradients, new, found | {"loss": value}

        optimiser = optax.sgd(0.1)
        state = TrainState(jnp.int32(0), params, again, optimiser.init(params))
        return renamed.method.update(differentiate, optimiser, state, minibatch)[0]

    jax.tree.map(close, update(np.arange(4)), update(np.array([3, 0, 2, 1])))


@pytest.mark.parametrize("name", EVERY | ADVERSARIES)
def test_three_updates_lower_the_loss(name):
    task = make((EVERY | ADVERSARIES)[name])
    params, collections = start(task)
    if task.method.needs.averages:
        collections["averages"] = {"params": params, "batch_stats": {"encoder": {}, "head": {}}}
    train = draw(12)
    train["experiment"] = np.repeat([0, 1, 3], 4)
    train["label"] = np.repeat(np.arange(6) % CLASSES, 2)  # pairs have one label
    minibatch = {TRAIN: train}
    if task.method.needs.streams:
        minibatch[HELD_OUT] = draw(4, seed=1) | {"label": np.full(4, -1)}

    def differentiate(params, collections, part):
        columns, _ = join(part)
        batch = batch_of(part, views=(columns["image"],) * 2)
        loss = lambda p: task.loss(p, collections, batch, jax.random.key(1), 0.5)  # noqa: E731
        (value, (new, found)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        return gradients, new, found | {"loss": value}

    optimiser, losses = optax.sgd(0.1), []
    state = TrainState(jnp.int32(0), params, collections, optimiser.init(params))
    for _ in range(4):
        params, collections, opt_state, found = task.method.update(differentiate, optimiser, state, minibatch)
        state = TrainState(state.step + 1, params, collections, opt_state)
        losses.append(float(found["loss"]))
    assert losses[0] > losses[1] > losses[2] > losses[3]
