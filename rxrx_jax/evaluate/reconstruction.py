"""MAE reconstructions: the masked loss in every scored role, and a picture."""

import functools
from collections.abc import Iterator

import jax
import numpy as np

from rxrx_jax import data
from rxrx_jax.base import hosts
from rxrx_jax.base.sharding import replicated, to_device
from rxrx_jax.models.vit import unpatchify
from rxrx_jax.report.pictures import save_reconstructions


def evaluate(context, images=6) -> Iterator[tuple[str, float]]:
    """`reconstruction/in_batch/loss` and so on, over the first evaluation minibatch of each role with fixed masks;
    writes workdir/reconstruction.png with `images` sites of the last one: original, masked, reconstructed."""
    task, module = context.task, context.task.module
    keys = jax.random.split(jax.random.key(context.seed), context.minibatch)

    def run(params, minibatch, statistics):
        views = context.augment.evaluation(minibatch, statistics)
        prediction, found = module.apply({"params": params}, views, task.noise(keys, views))
        loss, _ = task.score(prediction, views, found["mask"])
        if task.normalise_target:  # undo the target's own normalisation to show pixels
            target = module.patches(views)
            std = target.std(-1, keepdims=True, ddof=1)
            prediction = prediction * std + target.mean(-1, keepdims=True)
        mask = np.ones(prediction.shape[-1], np.float32) * found["mask"][:, :, None]
        by_channel = module.style.channel_agnostic
        square = lambda x: unpatchify(x, module.patch, *views.shape[1:3], by_channel)  # noqa: E731
        return minibatch["valid"], loss, views, square(mask), square(prediction)

    run = jax.jit(run, out_shardings=replicated(context.mesh))
    scored = {role: rows for role, rows in context.dataset.roles.scored.items() if len(rows)}
    for role, rows in scored.items():
        rows = np.random.default_rng(context.seed).permutation(rows)[: context.minibatch]
        crop = context.augment.crop
        minibatch = next(data.evaluation_minibatches(context.dataset, rows, context.minibatch, crop, go_on=True))
        found = run(context.network.params, to_device(minibatch, context.mesh), context.statistics)
        valid, *found = (np.asarray(x)[: len(rows)] for x in found)
        loss, *pictures = (x[valid] for x in found)
        context.leave_out(rows[~valid])
        yield f"reconstruction/{role}/loss", float(loss.mean())
        if role == list(scored)[-1]:
            titles = [str(context.dataset.sites.site_id[r]) for r in rows[valid][:images]]
            path, pictures = context.workdir / "reconstruction.png", [x[:images] for x in pictures]
            hosts.on_first_host(
                functools.partial(save_reconstructions, path, *pictures, titles, context.dataset.channels)
            )
