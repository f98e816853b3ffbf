"""What a method of domain adaptation or generalisation may change: a dataclass whose hooks default to empirical risk
minimisation. A method is one file beside this one, or anywhere, and overrides what it needs.

Terms: a *domain* is the group that a method must not depend on (an experiment, or a plate); B the images of a
minibatch, those of every stream one after the other; K the classes; D the width of the features.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rxrx_jax.data import Roles, Sites
from rxrx_jax.data.batch import TRAIN, Batch


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a method requires of a run, checked in one place (`adapt.check`).

    Of its minibatches. groups: (fewest, most) domains that a training minibatch is drawn from, None for any.
    per_domain: fewest images of each of these in it. pairs: the kind of pairs (`data.pairs`). streams: beside the
    labelled one. uses: streams that may be there besides, with `groups`. views: random views of each image.
    whole_minibatch: the loss is not a mean over images, so that a minibatch cannot be accumulated in parts.

    Of the run. steps: the shortest one. domains: fewest in the training images. cell_types: that no domain has several.
    averages: of the parameters (`optim.ema_decay`).

    Of the network. batch_norm: a model with BatchNorm. stem: a convolutional network, whose feature map after the stem
    `encode(..., after_stem=function)` changes. tokens: one whose patches are tokens. head: a classifier, whose head is
    given other features at test.

    Of held-out experiments. transductive: unlabelled images of theirs take part, in training or at evaluation.
    controls: it is used that wells of theirs are untreated, and their images. validation: that there are validation
    experiments, to choose a setting on.
    """

    groups: tuple[int, int] | None = None
    per_domain: int = 1
    domains: int = 1
    pairs: str = ""
    streams: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    views: int = 1
    whole_minibatch: bool = False
    steps: int = 0
    cell_types: bool = False
    averages: bool = False
    batch_norm: bool = False
    stem: bool = False
    tokens: bool = False
    head: bool = False
    transductive: bool = False
    controls: bool = False
    validation: bool = False

    def marks(self, untreated: np.ndarray) -> str:
        """The marks of what is scored on wells, of which those in `untreated` [n] bool are controls: T where images of
        them take part, C where labels of controls do."""
        return "T" * bool(self.transductive or self.controls and untreated.any()) + "C" * self.controls


class Encoded(NamedTuple):
    """A classifier's outputs: features [B, D], logits [B, K], and its new batch_stats."""

    features: jax.Array
    logits: jax.Array
    batch_stats: dict


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What `Method.loss` is computed from.

    features [B, D]; logits [B, K]; losses [B], the cross-entropy of each image, 0 where it has no label; labels [B], -1
    where unknown; labelled [B] bool; domains [B]; batch, what they were computed from; extra, what the method's
    own `forward` added; targets [B, K], of the losses: smoothed and mixed.
    """

    features: jax.Array
    logits: jax.Array
    losses: jax.Array
    labels: jax.Array
    labelled: jax.Array
    domains: jax.Array
    batch: Batch
    extra: dict
    targets: jax.Array

    @property
    def risk(self) -> jax.Array:
        """The empirical risk: the mean of the labelled images' losses."""
        return self.losses.sum() / self.batch.labelled


class Network(NamedTuple):
    """The network evaluated at test: the run's moving average if it keeps one, else its last state."""

    params: dict
    batch_stats: dict


class Group(NamedTuple):
    """What is predicted together: the requested rows [n] of the dataset, and all `members` [m] of their domain, of
    whichever split; `size`, rows per minibatch; `controls` [c], the untreated members;
    `sites`, the whole table, with the labels of control wells where the method needs controls and else with none, and
    `roles`, what the protocol does with its rows."""

    rows: np.ndarray
    members: np.ndarray
    size: int
    controls: np.ndarray
    sites: Sites | None = None
    roles: Roles | None = None


@dataclasses.dataclass(frozen=True)
class Method:
    """Empirical risk minimisation. Fields that no config sets: shares, of each domain in the training images, 0 for one
    that is held out; groups, that each training minibatch is drawn from (0 = all). A method that has fields `classes`
    and `cell_types` gets K, and the index of each domain's cell type (-1 for several).

    What a config may set a field to: the values of a `Literal`; numbers from 0, or those that `number` says, and whole
    ones for an `int`."""

    domain: str = "experiment"
    shares: tuple[float, ...] = ()
    groups: int = 0

    @property
    def needs(self) -> Needs:
        return Needs()

    @property
    def read_by(self) -> str:
        """What `at_test` gets one group of at a time: "" for everything, "experiment" or "plate"."""
        return ""

    def init(self, key: jax.Array, features: jax.Array) -> tuple[dict, dict]:
        """(parameters, trained with the network's; carry, which `loss` hands on). Args: features [B, D], for shapes."""
        return {}, {}

    def mix(self, key: jax.Array, images: jax.Array, targets: jax.Array, domains: jax.Array):
        """(images [B, S, S, C], targets [B, K]) to train on in place of these; an unlabelled one's target is level."""
        return images, targets

    def forward(self, encode: Callable[..., Encoded], images: jax.Array, batch: Batch) -> tuple[Encoded, dict]:
        """The network's outputs for the (mixed) images, and what `loss` needs besides.

        Args: encode(images, average=False, statistics=None, after_stem=None, tokens=None), the network in training
        mode, or the average of its past (`Needs.averages`); statistics [B] bool, the images that BatchNorm's are of;
        after_stem(x [b, h, w, D]) -> the same, what changes its feature map (`Needs.stem`); tokens(params of the
        method, patch tokens [B, N, D]) -> [B, M, D] more tokens (`Needs.tokens`). batch, with `batch.views` other views
        of the same images and `batch.key` for what is drawn here.
        """
        return encode(images), {}

    def loss(self, params: dict, carry: dict, out: Outputs, progress: jax.Array, key: jax.Array):
        """(loss, carry, metrics). Args: progress, the finished part of the run, 0 to 1."""
        return out.risk, carry, {}

    def update(self, differentiate: Callable, optimiser: optax.GradientTransformation, state, minibatch: dict):
        """One step: (params, collections, opt_state, metrics).

        Args:
          differentiate(params, collections, minibatch) -> (gradients, collections, metrics), of any part of the
            minibatch, {stream: {name: [n, ...]}}.
          state: has params, collections and opt_state.
        """
        gradients, collections, found = differentiate(state.params, state.collections, minibatch)
        updates, opt_state = optimiser.update(gradients, state.opt_state, state.params)
        found |= {"gradient_norm": optax.tree.norm(gradients)}
        return optax.apply_updates(state.params, updates), collections, opt_state, found

    def averaged(self, step: jax.Array, total_steps: int) -> jax.Array | None:
        """The share of the parameters' average so far that step number `step` (0, 1, ...) keeps; the rest of it is the
        new parameters. None: this method has no average. It is what is evaluated and published (`TrainState.network`).
        """
        return None

    def finished(self, predict, network: Network, rows: np.ndarray) -> Network:
        """The network to evaluate and publish, made of it after the last step. Args: predict, as for `at_test`; rows
        [n], those trained on."""
        return network

    def at_test(self, predict, network: Network, group: Group) -> dict[str, np.ndarray]:
        """The task's outputs, each [n, ...], with the `row` [n] of each, for the rows of a group.

        Args: predict(network, rows, tokens=None) returns them for any network, with tokens [M, D] beside the patches of
        every image; predict.batch_statistics(network, rows) the BatchNorm statistics of exactly the images of these
        rows, predict.patches(network, rows) [D] the mean of their patch tokens; predict.logits(network, features)
        [n, K] those of the head for any features [n, D]. Arrays named `chosen_*` [n] are settings that the method
        chose, and are metrics.
        """
        return predict(network, group.rows)


def number(default: float, least: float, most: float):
    """A field of a method that takes numbers from `least` to `most`; any other takes those from 0."""
    return dataclasses.field(default=default, metadata={"range": (least, most)})


def by_group(minibatch: dict, groups: int) -> list[dict]:
    """The labelled stream of a minibatch that was drawn from `groups` domains, one part for each: [n / groups, ...]."""
    split = jax.tree.map(lambda x: x.reshape(groups, -1, *x.shape[1:]), minibatch[TRAIN])
    return [{TRAIN: jax.tree.map(lambda x, g=g: x[g], split)} for g in range(groups)]


def mean_by_domain(values: jax.Array, domains: jax.Array, chosen: jax.Array, count: int) -> jax.Array:
    """The mean of `values` [B] in each domain [count], 0 for an empty one, of the `chosen` [B] alone."""
    one_hot = jax.nn.one_hot(domains, count) * chosen[:, None]  # [B, domains]
    return values @ one_hot / jnp.maximum(one_hot.sum(0), 1)
