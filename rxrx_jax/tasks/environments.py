"""Masked environments, the first step of MolE's pretraining: from the rest of a molecule, predict what lies within two
bonds of an atom that is hidden. No measured label is used."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from rxrx_jax.adapt.method import Method
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.models.molecule import MoleculeEncoder, MoleculeHead, make_molecule_encoder

MASKED, REPLACED = 0.8, 0.1  # of the chosen atoms; the rest keeps its token (Devlin et al. 2019, arXiv 1810.04805)


@dataclasses.dataclass(frozen=True)
class Environments:
    """The loss is the mean cross-entropy over chosen atoms, `share` of each molecule's and at least one, whose label is
    known. mask: the token that hides an atom; the ordinary ones are below it."""

    encoder: MoleculeEncoder
    head: MoleculeHead
    mask: int
    share: float
    vocabulary: str
    frozen = None
    inherits = "encoder"
    method = Method()

    @classmethod
    def from_config(cls, config: Config, source, method: Method) -> "Environments":
        del method
        whole_minibatch(config)
        library, share = library_of(config, source), config.task.mask_share
        if not 0 < share < 1:
            raise UserError(f"task.mask_share={share}: expected a number between 0 and 1")
        encoder = make_molecule_encoder(config.model, library.tokens)
        head = MoleculeHead(library.labels, encoder.style.dropout)
        return cls(encoder, head, library.mask, share, library.vocabulary)

    def init(self, key, view):
        return init(self.encoder, self.head, key, view)

    def loss(self, params, collections, batch, key, progress):
        del progress
        found = self._run(params, batch.views[0], batch.columns["labels"], batch.keys, batch.keys[0])
        losses = optax.softmax_cross_entropy_with_integer_labels(found["logits"], found["labels"])
        known = found["known"]
        count = jnp.maximum(known.sum(), 1)
        metrics = {"masked_accuracy": (found["right"] & known).sum() / count}
        return jnp.where(known, losses, 0).sum() / count, (collections, metrics)

    def predict(self, params, batch_stats, views, mask):
        del batch_stats, mask
        return {"embedding": self.encoder.apply({"params": params["encoder"]}, **views)[1]["embedding"]}

    def scored(self, params, columns, keys, usual):
        """How many atoms of each molecule are chosen, of how many the label is known, and for how many of these it is
        predicted, by the network and by `usual` [tokens], the most frequent label of the atom's token: int32 [B]."""
        views = {name: columns[name] for name in ("tokens", "distances")}
        found = self._run(params, views, columns["labels"], keys)
        right = {"right": found["right"], "usual": usual[found["tokens"]] == found["labels"], "known": True}
        return {name: (x & found["known"]).sum(1) for name, x in right.items()} | {"chosen": found["chosen"].sum(1)}

    def _run(self, params, views, labels, keys, dropout=None):
        """Of up to K chosen atoms of each molecule, [B, K]: logits [B, K, labels], labels, the tokens that they had,
        chosen, and known and right of those. Args: keys [B]; dropout, a key in training."""
        at, chosen, tokens = jax.vmap(self.hide)(keys, views["tokens"])
        options = dict(train=dropout is not None, rngs=None if dropout is None else {"dropout": dropout})
        features, _ = self.encoder.apply({"params": params["encoder"]}, tokens, views["distances"], **options)
        features = jnp.take_along_axis(features, at[:, :, None], 1)  # [B, K, D]
        logits = self.head.apply({"params": params["head"]}, features, **options)
        labels, tokens = (jnp.take_along_axis(x, at, 1) for x in (labels, views["tokens"]))
        # Label 0 stands for every environment that is not known.
        return {"logits": logits, "labels": labels, "tokens": tokens, "chosen": chosen, "known": chosen & (labels > 0),
                "right": logits.at[..., 0].set(-jnp.inf).argmax(-1) == labels}  # fmt: skip

    def hide(self, key, tokens):
        """(places [K], which of them are used [K], tokens [N] with these hidden) of one molecule, by one key."""
        keys = jax.random.split(key, 3)
        atoms = (tokens > 0).at[0].set(False)  # not CLS
        most = max(round(self.share * (len(tokens) - 1)), 1)
        count = jnp.maximum(jnp.round(self.share * atoms.sum()), 1)
        _, at = jax.lax.top_k(jnp.where(atoms, jax.random.uniform(keys[0], tokens.shape), -1), most)
        used = (jnp.arange(most) < count) & atoms[at]
        how = jax.random.uniform(keys[1], (most,))
        other = jax.random.randint(keys[2], (most,), 1, self.mask)
        new = jnp.where(how < MASKED, self.mask, jnp.where(how < MASKED + REPLACED, other, tokens[at]))
        return at, used, tokens.at[at].set(jnp.where(used, new, tokens[at]))


def init(encoder: MoleculeEncoder, head: MoleculeHead, key, view) -> dict:
    """{"params": {"encoder", "head"}}."""
    keys = jax.random.split(key)
    params = encoder.init(keys[0], **view)["params"]
    features = jnp.zeros((1, encoder.size.width))
    return {"params": {"encoder": params, "head": head.init(keys[1], features)["params"]}}


def library_of(config: Config, source):
    """The library of a source of molecules. Raises UserError for any other source."""
    library = getattr(source, "dataset", None)
    if not hasattr(library, "vocabulary"):
        raise UserError(f"task.name={config.task.name} is of molecules: it needs data.source=molecules")
    return library


def whole_minibatch(config: Config) -> None:
    """Raises UserError where a minibatch comes in parts, whose losses are means over different numbers of labels."""
    if config.get("accumulate", 1) != 1:
        raise UserError(f"accumulate={config.accumulate}: task.name={config.task.name} needs whole minibatches, 1")
