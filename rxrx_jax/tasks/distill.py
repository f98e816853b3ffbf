"""Self-distillation across experiments: DINO (Caron et al. 2021, arXiv 2104.14294) whose two views are the same
perturbation in different experiments (CDCL, Haslum et al. 2023, arXiv 2212.11595).

No label enters the loss, but the pairs are made with the training rows' perturbations (`data.pairs`): the method is
guided by metadata, not blind to it. Of DINO, multi-crop (small local views), the schedule of the weight decay and the
frozen last layer of the first epoch are left out; of CDCL, these and the Barlow term.
"""

import dataclasses

import jax
import jax.numpy as jnp

from rxrx_jax import models
from rxrx_jax.adapt.method import Method
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.models.heads import Projection
from rxrx_jax.models.vit import Encoder


@dataclasses.dataclass(frozen=True)
class Distill:
    """Minibatches hold pairs of views at positions 2i and 2i+1, as `sampler.PairSampler` draws them.

    The teacher is the run's average of the parameters, which the task moves itself; the centre [domains or 1, K] is
    carried. At the start of the loss it moves towards the student. This is the same sequence of teachers as
    DINO's, which moves after the optimiser's step, only done at the beginning of the step after; momentum and
    temperature are read at this step's `progress`. Every move is linear in the minibatch's sums, but for the bound of
    `move_centre`, so that the mean of the collections of equal parts of a minibatch, each from the same state, is that
    of the whole where no part reaches it.

    momentum: the teacher's, rises to 1 on a cosine; temperatures: the teacher's first and last, reached on a line after
    the share `warmup` of the run; shares: of each domain in the training data, or () for one centre for all.
    """

    encoder: Encoder
    head: Projection
    momentum: float
    temperatures: tuple[float, float]
    warmup: float
    student_temperature: float
    centre_momentum: float
    shares: tuple[float, ...] = ()
    frozen = None
    inherits = "encoder"
    method = Method()

    @classmethod
    def from_config(cls, config: Config, source, method: Method) -> "Distill":
        del method
        task, encoder = config.task, models.make_encoder(config.model)
        if not isinstance(encoder, Encoder):
            raise UserError(f"model.name={config.model.name!r}: task.name=distill needs vit")
        if config.data.get("pairs") != "perturbation" or config.data.unlabelled_minibatch:
            raise UserError("task.name=distill needs data.pairs=perturbation and data.unlabelled_minibatch=0")
        if task.centre not in ("experiment", "all"):
            raise UserError(f"task.centre={task.centre!r}: expected experiment or all")
        for key in ("momentum", "centre_momentum"):
            if not 0 <= getattr(task, key) <= 1:
                raise UserError(f"task.{key}={getattr(task, key)}: expected a number from 0 to 1")
        if min(*task.temperatures, task.student_temperature) <= 0:
            raise UserError("task.temperatures and task.student_temperature must be above 0")
        return cls(
            encoder,
            Projection(*task.head),
            task.momentum,
            task.temperatures,
            task.warmup_percent / 100,
            task.student_temperature,
            task.centre_momentum,
            source.shares["experiment"] if task.centre == "experiment" else (),
        )

    def init(self, key, images):
        keys = jax.random.split(key)
        encoder = self.encoder.init(keys[0], images)["params"]
        _, found = self.encoder.apply({"params": encoder}, images)
        head = self.head.init(keys[1], found["embedding"])["params"]
        params = {"encoder": encoder, "head": head}
        centre = jnp.zeros((len(self.shares) or 1, self.head.prototypes))
        return {"params": params, "carry": {"centre": centre}, "averages": {"params": params, "batch_stats": {}}}

    def loss(self, params, collections, batch, key, progress):
        images, m = batch.images, self.momentum_at(progress)
        teacher = jax.tree.map(lambda t, s: m * t + (1 - m) * s, collections["averages"]["params"], params)
        teacher, centre = jax.lax.stop_gradient((teacher, collections["carry"]["centre"]))
        _, outputs = self.project(teacher, images)  # [B, K]
        domain = batch.columns["experiment"] if self.shares else jnp.zeros_like(batch.columns["experiment"])
        logits = (outputs - centre[domain]) / self.temperature_at(progress)
        p = swap(jax.nn.softmax(logits))  # of the pair's other view
        _, outputs_student = self.project(params, images, train=True, rngs={"drop_path": batch.keys[0]})
        log_q = jax.nn.log_softmax(outputs_student / self.student_temperature)
        loss = -(p * log_q).sum(1).mean()
        entropy = entropies(p).mean()
        # Collapse: to one prototype, every entropy goes to 0; to all of them, both go to log K; KL 0 in either.
        metrics = {
            "kl": loss - entropy,
            "teacher_entropy": entropy,
            "teacher_marginal_entropy": entropies(p.mean(0)),
            "agreement": (p.argmax(1) == log_q.argmax(1)).mean(),
        }
        carry = {"centre": self.move_centre(centre, outputs, domain)}
        averages = {"params": teacher, "batch_stats": {}}
        return loss, (collections | {"carry": carry, "averages": averages}, metrics)

    def predict(self, params, batch_stats, images, mask):
        """Of the average, the teacher: its embedding, as DINO is evaluated."""
        del batch_stats, mask
        return {"embedding": self.project(params, images)[0]}

    def project(self, params, images, train=False, rngs=None):
        """Images [B, S, S, C] -> (embedding [B, D], output of the head [B, K]), of student or teacher."""
        _, found = self.encoder.apply({"params": params["encoder"]}, images, train=train, rngs=rngs)
        return found["embedding"], self.head.apply({"params": params["head"]}, found["embedding"])

    def momentum_at(self, progress):
        return 1 - (1 - self.momentum) * (1 + jnp.cos(jnp.pi * progress)) / 2

    def temperature_at(self, progress):
        first, last = self.temperatures
        return first + (last - first) * (jnp.minimum(progress / self.warmup, 1) if self.warmup else 1)

    def move_centre(self, centre, outputs, domain):
        """The centres [domains or 1, K] after a minibatch of teacher outputs [B, K] of `domain` [B].

        One centre for all moves by 1 - centre_momentum towards the minibatch's mean (equation 4 of DINO). A domain's
        moves towards the mean of its images, by 1 - centre_momentum times its share of the minibatch over its share of
        the training data, at most all the way (CDCL's published code; without the bound there).
        """
        one_hot = jax.nn.one_hot(domain, len(centre))  # [B, domains]
        shares = jnp.array(self.shares or (1.0,))
        count = one_hot.sum(0)
        mean = one_hot.T @ outputs / jnp.maximum(count, 1)[:, None]
        over = count / len(outputs) / jnp.where(shares > 0, shares, 1)
        rate = jnp.minimum((1 - self.centre_momentum) * over, 1)[:, None]
        return (1 - rate) * centre + rate * mean


def swap(x: jax.Array) -> jax.Array:
    """[2P, ...] with the two of every pair exchanged."""
    return x.reshape(-1, 2, *x.shape[1:])[:, ::-1].reshape(x.shape)


def entropies(p: jax.Array) -> jax.Array:
    """In nats, over the last axis of probabilities."""
    return -jax.scipy.special.xlogy(p, p).sum(-1)
