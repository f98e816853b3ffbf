"""Molecules against what they do to cells: two towers whose outputs agree for a compound and its wells, and not for
others (Radford et al. 2021, arXiv 2103.00020; of molecules and phenomics Fradkin et al. 2024, arXiv 2409.08302)."""

import dataclasses

import jax
import jax.numpy as jnp

from rxrx_jax.adapt.method import Method
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.models.molecule import MoleculeEncoder, MoleculeHead, Towers, Wells, make_molecule_encoder
from rxrx_jax.tasks.environments import library_of, whole_minibatch

MOST_SCALE = 100.0  # of cosines, as Radford et al.


@dataclasses.dataclass(frozen=True)
class Contrast:
    """The loss is the mean of the cross-entropies of finding a compound's wells among those of the minibatch and the
    reverse, each pair weighted by how much its replicates agree. Of each molecule one dose is drawn, which is a token
    of the molecule. width: of the wells' embeddings; doses: how many."""

    encoder: MoleculeEncoder
    head: MoleculeHead
    wells: Wells
    width: int
    doses: int
    temperature: float
    vocabulary: str
    frozen = None
    inherits = "encoder"
    method = Method()
    chosen_by = ("retrieval", "validation/top_5_percent")

    @classmethod
    def from_config(cls, config: Config, source, method: Method) -> "Contrast":
        del method
        whole_minibatch(config)
        library, outputs = library_of(config, source), config.task.width
        if not getattr(library, "doses", ()):
            raise UserError("task.name=contrast: these molecules have no wells; set data.phenomics")
        if not config.task.temperature > 0:
            raise UserError(f"task.temperature={config.task.temperature}: use a number above 0")
        encoder = make_molecule_encoder(config.model, library.tokens)
        head, wells = MoleculeHead(outputs, config.task.dropout), Wells(outputs)
        size = library.width, len(library.doses), config.task.temperature
        return cls(encoder, head, wells, *size, library.vocabulary)

    @property
    def towers(self) -> Towers:
        return Towers(self.encoder, self.head, self.wells)

    def init(self, key, view):
        keys = jax.random.split(key)
        params = self.encoder.init(keys[0], **view)["params"]
        head, wells, dose = jax.random.split(keys[1], 3)
        features = jnp.zeros((1, self.encoder.size.width))
        return {"params": {
            "encoder": params,
            "head": self.head.init(head, features)["params"],
            "wells": self.wells.init(wells, jnp.zeros((1, self.width)))["params"],
            "dose_tokens": 0.02 * jax.random.normal(dose, (self.doses, self.encoder.size.width)),
            "logit_scale": -jnp.log(jnp.float32(self.temperature)),
        }}  # fmt: skip

    def loss(self, params, collections, batch, key, progress):
        del progress
        b = len(batch.keys)
        dose = jax.random.randint(jax.random.fold_in(key, 1), (b,), 0, self.doses)
        ours, theirs, weight = self._towers(params, batch.views[0], batch.columns["targets"], dose, batch.keys[0])
        logits = ours @ theirs.T * jnp.exp(params["logit_scale"]).clip(1, MOST_SCALE)
        there = weight >= 0
        logits = jnp.where(there[None], logits, -1e9)
        own = jnp.arange(b), jnp.arange(b)
        both = jax.nn.log_softmax(logits)[own] + jax.nn.log_softmax(jnp.where(there[:, None], logits, -1e9).T)[own]
        weight = jnp.maximum(weight, 0)
        right = (logits.argmax(1) == jnp.arange(b)) * weight
        total = jnp.maximum(weight.sum(), 1e-6)
        return -(both * weight).sum() / (2 * total), (collections, {"retrieved": right.sum() / total})

    def predict(self, params, batch_stats, views, mask):
        del batch_stats, mask
        return {"embedding": self.encoder.apply({"params": params["encoder"]}, **views)[1]["embedding"]}

    def scored(self, params, columns, keys, dose):
        """Of each molecule at the dose number `dose`: `molecule` and `wells`, unit vectors [B, outputs], and `weight`
        [B], -1 where it was not screened."""
        del keys
        views = {name: columns[name] for name in ("tokens", "distances")}
        doses = jnp.full(len(columns["tokens"]), dose)
        names = "molecule", "wells", "weight"
        return dict(zip(names, self._towers(params, views, columns["targets"], doses)))

    def of_molecules(self, params, views, dose, dropout=None):
        """Unit vectors [B, outputs] of molecules at the doses with these numbers, [B]. Args: dropout, a key in
        training."""
        return self.towers.of_molecules(params, views, dose, dropout)

    def of_wells(self, params, x):
        """Unit vectors [B, outputs] of embeddings [B, width], in the units of `phenomics.Screened`."""
        return self.towers.of_wells(params, x)

    def _towers(self, params, views, targets, dose, dropout=None):
        ours = self.of_molecules(params, views, dose, dropout)
        measured = targets.reshape(len(targets), self.doses, self.width + 1)
        measured = jnp.take_along_axis(measured, dose[:, None, None], 1)[:, 0]
        there = ~jnp.isnan(measured).any(1)
        measured = jnp.where(there[:, None], measured, 0)
        return ours, self.of_wells(params, measured[:, :-1]), jnp.where(there, measured[:, -1], -1)
