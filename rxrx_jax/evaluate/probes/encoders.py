"""The table of probes: the pretrained encoder against the baselines that it must beat, and block by block."""

from collections.abc import Iterator

import jax
import numpy as np

from rxrx_jax.adapt import correct
from rxrx_jax.adapt.method import Network
from rxrx_jax.base.errors import UserError
from rxrx_jax.evaluate.probes.kinds import KINDS, check, score
from rxrx_jax.models.handcrafted import Handcrafted
from rxrx_jax.models.vit import Encoder

KEY = "evaluators.probe.corrections"


def evaluate(
    context, blocks=False, corrections=("none", "centre_scale_experiment"), kinds=KINDS[:1]
) -> Iterator[tuple[str, float | str]]:
    """`probe/ENCODER/CORRECTION/in_batch/site_accuracy` and so on: a logistic regression on embeddings of unaugmented
    train images, for ENCODER in pretrained (this run's), untrained (the same architecture, fresh parameters),
    handcrafted and handcrafted_spatial (image statistics, on the same normalised images), and each CORRECTION of
    `corrections`, names of `adapt.correct`. Where one of them uses controls, also without control wells, as
    `.../cross_batch/treatments/...`. What is recorded of a fit, its C and whether it converged, is
    `probe/ENCODER/CORRECTION/C` and so on, and the same with C = 1 `probe/ENCODER/CORRECTION/C_1/...` (`kinds.fit`).

    blocks: True, or a tuple of block numbers from 1 to depth, for the metrics of `score_blocks` too.
    kinds: of probes; those of another than the logistic regression are `probe/ENCODER/CORRECTION/KIND/...`.
    """
    numbers = block_numbers(context.task.encoder, blocks)
    ends = {check(kind, "evaluators.probe.kinds"): "" if kind == KINDS[0] else f"/{kind}" for kind in kinds}
    marks = {name: correct.find(name, KEY).marks for name in corrections}
    anchored = any("C" in mark for mark in marks.values())
    rows, pretrained = context.embeddings()
    sites = context.dataset.sites
    experiment = np.array(context.dataset.experiments)[sites.experiment[rows]]
    plate = np.array(context.dataset.plates)[sites.plate[rows]]
    for encoder, features in [("pretrained", pretrained), *_baselines(context, rows)]:
        for correction, extra in marks.items():
            corrected = correct.correct(correction, features, experiment, plate, sites.well_type[rows], KEY)
            for kind, end in ends.items():
                start = f"probe/{encoder}/{correction}{end}"
                for name, value in score(start, corrected, rows, context.dataset, anchored, kind):
                    prefix, _, metric = name.rpartition("/")
                    where = prefix.rpartition("/")[2]
                    if metric == "sites" and where in context.dataset.roles.scored:  # the first of a split
                        yield f"marks/{prefix}", context.marks(where, extra, trained=encoder == "pretrained")
                    yield name, value
    if numbers:
        yield from score_blocks(context, numbers, rows, ends)


def score_blocks(
    context, numbers: tuple[int, ...], rows: np.ndarray, ends: dict[str, str]
) -> Iterator[tuple[str, float | str]]:
    """`probe/block_K/in_batch/site_accuracy` and so on: the same probes of the output of each of these blocks of
    the encoder, pooled as the embedding is but before the final norm; then `probe/best_block`, the K whose
    accuracy on the validation experiments, the one that the protocol chooses by (per site if it says nothing), is
    highest (the first of ties), and its metrics once more as `probe/best_block/...`. It is omitted without labelled
    validation sites. Args: ends, what follows the block's name in the metrics of each kind of probe.

    The best block of a masked autoencoder is seldom its last (Kenyon-Dean et al. 2024, arXiv 2411.02572, section 4).
    The parameters are those that the task predicts with. All blocks come from one pass over the images. The host holds
    [sites, blocks, D] float32: of RxRx1's 125,510 sites 2.3 GB for S, 12 GB for L.
    """
    chosen = np.array(numbers) - 1

    def run(images, params):
        _, found = context.task.encoder.apply({"params": params}, images)
        return {"embedding": found["block_embeddings"][chosen].swapaxes(0, 1)}

    by_block = context.of_images(run, rows, context.network.params["encoder"])["embedding"]
    for kind, end in ends.items():
        found = {}
        for i, number in enumerate(numbers):
            found[number] = dict(score("", by_block[:, i], rows, context.dataset, kind=kind))
            yield from ((f"probe/block_{number}{end}{name}", value) for name, value in found[number].items())
        by = f"/validation/{context.dataset.roles.scoring.chosen_by}"
        validation = {k: v[by] for k, v in found.items() if by in v}
        if validation:
            best = max(validation, key=validation.get)
            yield f"probe/best_block{end}", best
            yield from ((f"probe/best_block{end}{name}", value) for name, value in found[best].items())


def block_numbers(encoder, blocks) -> tuple[int, ...]:
    """What the setting `blocks` means for an encoder. Raises UserError if it has no such blocks."""
    if blocks is False or blocks == ():
        return ()
    if not isinstance(encoder, Encoder):
        raise UserError("evaluators.probe.blocks needs a model of transformer blocks (model.name=vit); remove it")
    every = range(1, encoder.size.depth + 1)
    if blocks is True:
        return tuple(every)
    if not isinstance(blocks, tuple) or any(type(k) is not int or k not in every for k in blocks):
        raise UserError(f"evaluators.probe.blocks={blocks}: expected True or numbers of blocks, 1 to {every[-1]}")
    return tuple(sorted(set(blocks)))


def _baselines(context, rows):
    """Yields (encoder name, embeddings [n, D])."""
    shape = (1, context.augment.crop, context.augment.crop, context.dataset.image_shape[2])
    fresh = jax.jit(context.task.init)(jax.random.key(context.seed + 1), np.zeros(shape, np.float32))
    yield "untrained", context(Network(fresh["params"], fresh.get("batch_stats", {})), rows)["embedding"]
    statistics = lambda images: {"embedding": Handcrafted(spatial=True).apply({}, images)[0]}  # noqa: E731
    found = context.of_images(statistics, rows)["embedding"]
    yield "handcrafted", found[:, : Handcrafted.plain(shape[3])]  # of one pass over the images
    yield "handcrafted_spatial", found
