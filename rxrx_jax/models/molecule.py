"""A transformer over the atoms of a molecule: disentangled attention (He et al. 2021, arXiv 2006.03654) whose relative
positions are distances in the molecular graph, as MolE has it (Mendez-Lucio et al. 2024).

Shapes: B molecules, N atoms of the largest and CLS, which comes first, D width, P kinds of distances, H heads of h.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from rxrx_jax.base.errors import UserError
from rxrx_jax.base.sharding import constrain_tokens, platform
from rxrx_jax.models.vit import REMAT, Dense, Size

PADDING = 0  # the token, and the distance, of what is not an atom
POSITIONS = 128  # kinds of distances: 0 for CLS and padding, 1 for an atom itself, d + 1 for d bonds between
EPSILON = 1e-7
NORMAL = nn.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True)
class Style:
    """dropout: of embeddings, attention and what each layer adds; remat: "none" or a key of `vit.REMAT`."""

    dropout: float = 0.1
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32


def linear(features: int, width: int, name: str, dtype=jnp.float32) -> Dense:
    """Of an encoder of that width. Weights start as N(0, 0.02) at width 768, and wider in a narrow one, as a sum of
    fewer products would else vanish."""
    return Dense(features, True, dtype, nn.initializers.normal(0.02 * (768 / width) ** 0.5), name=name)


def norm(name: str, dtype=jnp.float32) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=EPSILON, dtype=dtype, name=name)


@jax.custom_vjp
def pick(values: jax.Array, index: jax.Array) -> jax.Array:
    """values [B, H, N, P] at index [B, N, M] of the last axis -> [B, H, N, M].

    Its derivative is a matrix product with the index in one-hot form: the scatter that XLA would make of it adds one
    number at a time on a CPU."""
    return jnp.take_along_axis(values, index[:, None].astype(jnp.int32), axis=-1, mode="clip")


def _pick_forward(values, index):
    return pick(values, index), (index, values.shape[-1])


def _pick_backward(saved, gradient):
    index, count = saved
    one_hot = jax.nn.one_hot(index, count, dtype=gradient.dtype)  # [B, N, M, P]
    return jnp.einsum("bhnm,bnmp->bhnp", gradient, one_hot), None


pick.defvjp(_pick_forward, _pick_backward)


class Layer(nn.Module):
    """One post-norm layer: x [B, N, D], positions [P, D], distances [B, N, N], real [B, N] -> [B, N, D].

    The score of atom j for atom i at distance d is (q_i.k_j + q_i.K_d + k_j.Q_d) / sqrt(3 h), where K_d and Q_d are the
    position's key and query by the same projections as the atoms'. Columns of qkv go head by head, as in `vit.Block`.
    """

    size: Size
    style: Style

    @nn.compact
    def __call__(self, x, positions, distances, real, train=False):
        dtype, drop = self.style.dtype, nn.Dropout(self.style.dropout, deterministic=not train)
        width = self.size.width
        y = drop(linear(width, width, "out", dtype)(self.attention(x, positions, distances, real, drop)))
        x = norm("norm1", dtype)(x + y)
        y = nn.gelu(linear(self.size.mlp, width, "mlp1", dtype)(x), approximate=False)
        return constrain_tokens(norm("norm2", dtype)(x + drop(linear(width, width, "mlp2", dtype)(y))))

    def attention(self, x, positions, distances, real, drop):
        b, n, d = x.shape
        qkv, heads = linear(3 * d, d, "qkv", self.style.dtype), self.size.heads
        q, k, v = jnp.moveaxis(qkv(x).reshape(b, n, heads, 3, -1), 3, 0)  # [B, N, H, h]
        q_d, k_d, _ = jnp.moveaxis(qkv(positions).reshape(-1, heads, 3, d // heads), 2, 0)  # [P, H, h]
        scores = jnp.einsum("bnhc,bmhc->bhnm", q, k, preferred_element_type=jnp.float32)
        scores += pick(jnp.einsum("bnhc,phc->bhnp", q, k_d, preferred_element_type=jnp.float32), distances)
        towards = jnp.einsum("bmhc,phc->bhmp", k, q_d, preferred_element_type=jnp.float32)
        scores += jnp.swapaxes(pick(towards, jnp.swapaxes(distances, 1, 2)), 2, 3)
        scores = jnp.where(real[:, None, None], scores * (3 * d / heads) ** -0.5, jnp.finfo(scores.dtype).min)
        weights = drop(jax.nn.softmax(scores)).astype(v.dtype)
        return jnp.einsum("bhnm,bmhc->bnhc", weights, v).reshape(b, n, d)


class MoleculeEncoder(nn.Module):
    """`__call__(tokens [B, N] int, distances [B, N, N] int, train, more)` -> (features [B, N, D], intermediates).

    Tokens are 0 at padding; the first is CLS. Distances are indices of POSITIONS, 0 to and from CLS and
    padding. more: embeddings [B, M, D] float32 of tokens that come last and whose distances are 0. Intermediates:
    "embedding" [B, D] float32, CLS after the last layer; "blocks" [depth, B, N, D] and "block_embeddings" [depth, B, D]
    float32, the same after every layer. Dropout draws from the rng stream "dropout".
    """

    size: Size
    vocabulary: int
    style: Style = Style()

    @nn.compact
    def __call__(self, tokens, distances, train=False, more=None):
        dtype, width = self.style.dtype, self.size.width
        real = tokens != PADDING
        table = jnp.asarray(self.param("tokens", NORMAL, (self.vocabulary, width)))
        positions = jnp.asarray(self.param("positions", NORMAL, (POSITIONS, width))).at[0].set(0)
        positions = norm("norm_positions", dtype)(positions)
        norm_tokens = norm("norm_tokens", dtype)
        x = norm_tokens(table[tokens]) * real[:, :, None].astype(dtype)
        if more is not None:
            count = more.shape[1]
            x = jnp.concatenate([x, norm_tokens(more)], 1)
            real = jnp.pad(real, ((0, 0), (0, count)), constant_values=True)
            distances = jnp.pad(distances, ((0, 0), (0, count), (0, count)))  # as CLS has them
        x = nn.Dropout(self.style.dropout, deterministic=not train)(x)
        layer, remat = Layer, self.style.remat
        if remat != "none":
            layer = nn.remat(Layer, prevent_cse=False, policy=REMAT[remat], static_argnums=(5,))
        layer = layer(self.size, self.style, name="layers")

        def run(layer, x, *given):
            x = layer(x, *given, train)
            return x, {"blocks": x, "block_embeddings": x[:, 0].astype(jnp.float32)}

        scan = nn.scan(
            run,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=nn.broadcast,
            length=self.size.depth,
            unroll=self.size.depth if platform() == "cpu" and remat == "none" else 1,  # as in `vit.Blocks`
        )
        x, intermediates = scan(layer, x, positions, distances, real)
        return x, intermediates | {"embedding": x[:, 0].astype(jnp.float32)}


class MoleculeHead(nn.Module):
    """Dropout, dense, GELU, dropout, linear: features [..., D] -> [..., outputs] float32."""

    outputs: int
    dropout: float = 0.1

    @nn.compact
    def __call__(self, x, train=False):
        drop = nn.Dropout(self.dropout, deterministic=not train)
        width = x.shape[-1]
        x = nn.gelu(linear(width, width, "dense")(drop(x.astype(jnp.float32))), approximate=False)
        return linear(self.outputs, width, "outputs")(drop(x))


class Wells(nn.Module):
    """The tower of frozen embeddings: x [B, d] -> [B, outputs]."""

    outputs: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.outputs, name="outputs")(nn.gelu(nn.Dense(self.outputs, name="dense")(x)))


@dataclasses.dataclass(frozen=True)
class Towers:
    """Molecules at doses and embeddings of wells as unit vectors [B, outputs] of one space. Parameters: encoder, head,
    wells, and dose_tokens [doses, D]."""

    encoder: MoleculeEncoder
    head: MoleculeHead
    wells: Wells

    def of_molecules(self, params, views, dose, dropout=None):
        """Of molecules, {"tokens" [B, N], "distances" [B, N, N]}, at the doses with these numbers, [B]. Args: dropout,
        a key in training."""
        options = dict(train=dropout is not None, rngs=None if dropout is None else {"dropout": dropout})
        token = params["dose_tokens"][dose][:, None]  # [B, 1, D]
        _, found = self.encoder.apply({"params": params["encoder"]}, **views, more=token, **options)
        return _unit(self.head.apply({"params": params["head"]}, found["embedding"], **options))

    def of_wells(self, params, x):
        """Of embeddings [B, width], in the units of `phenomics.Screened`."""
        return _unit(self.wells.apply({"params": params["wells"]}, x))


def _unit(x):
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)


def make_molecule_encoder(config, vocabulary: int) -> MoleculeEncoder:
    """The encoder of `config.model` for that many kinds of tokens. Raises UserError naming a bad value."""
    from rxrx_jax.models import chosen, compute_dtype  # they are made of this module too

    if config.name != "molecule":
        raise UserError(f"model.name={config.name!r}: this task is of molecules and needs molecule")
    size = Size(config.width, config.depth, config.mlp, config.heads)
    if size.heads < 1 or size.width % size.heads:
        raise UserError(f"model.width={size.width} is not a multiple of model.heads={size.heads}")
    if not 0 <= config.dropout < 1:
        raise UserError(f"model.dropout={config.dropout}: expected a number from 0 to below 1")
    remat = chosen("remat", config.get("remat", "none"), ("none", *REMAT))
    return MoleculeEncoder(size, vocabulary, Style(config.dropout, remat, compute_dtype(config)))
