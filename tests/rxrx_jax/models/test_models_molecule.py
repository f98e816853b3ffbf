"""The encoder of molecules against its definition in a float64 loop, DebertaV2 of transformers, padding and buckets."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parameters import random_variables
from paths import ROOT

from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.models.molecule import MoleculeEncoder, MoleculeHead, Style, make_molecule_encoder, pick
from rxrx_jax.models.vit import Size

SIZE, VOCABULARY = Size(12, 2, 20, 3), 11
STORED = ROOT / "tests" / "reference" / "peers" / "deberta.npz"


def molecules(seed=0, atoms=(7, 4), room=8):
    """Tokens [B, room] and symmetric distances [B, room, room] of random graphs, with CLS first."""
    random = np.random.default_rng(seed)
    tokens, distances = np.zeros((len(atoms), room), np.int32), np.zeros((len(atoms), room, room), np.uint8)
    tokens[:, 0] = 10
    for b, n in enumerate(atoms):
        tokens[b, 1 : n + 1] = random.integers(1, 10, n)
        d = np.triu(random.integers(2, 127, (n, n)), 1)
        distances[b, 1 : n + 1, 1 : n + 1] = d + d.T + np.eye(n, dtype=int)
    return tokens, distances


def variables(encoder, tokens, distances, seed=0):
    return random_variables(encoder.init, tokens, distances, seed=seed)


def run(encoder, params, *arrays, **options):
    return jax.jit(lambda p, *a: encoder.apply(p, *a, **options))(params, *arrays)


def by_the_definition(params, tokens, distances, heads):
    """[B, N, D] after each layer, one number at a time, in float64."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params["params"])
    kernel = p["layers"]["qkv"]["kernel"]
    h = kernel.shape[1] // heads

    def norm(x, of):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-7) * of["scale"] + of["bias"]

    def gelu(x):
        return x * np.vectorize(lambda v: (1 + math.erf(v / math.sqrt(2))) / 2)(x)

    table = p["positions"].copy()
    table[0] = 0
    positions = norm(table, p["norm_positions"])
    out = []
    for sequence, d in zip(tokens, distances):
        real = sequence > 0
        x, n = norm(p["tokens"][sequence], p["norm_tokens"]) * real[:, None], len(sequence)
        layers = []
        for number in range(len(kernel)):
            of = jax.tree.map(lambda w, number=number: w[number], p["layers"])
            dense = lambda x, name, of=of: x @ of[name]["kernel"] + of[name]["bias"]  # noqa: E731
            q, k, v = np.moveaxis(dense(x, "qkv").reshape(n, heads, 3, h), 2, 0)
            q_d, k_d, _ = np.moveaxis(dense(positions, "qkv").reshape(-1, heads, 3, h), 2, 0)
            mixed = np.zeros((n, heads, h))
            for head in range(heads):
                for i in range(n):
                    scores = np.full(n, -np.inf)
                    for j in np.flatnonzero(real):
                        here = d[i, j]
                        scores[j] = (
                            q[i, head] @ k[j, head] + q[i, head] @ k_d[here, head] + k[j, head] @ q_d[here, head]
                        )
                    weights = np.exp((scores - scores.max()) / math.sqrt(3 * h))
                    mixed[i, head] = weights / weights.sum() @ v[:, head]
            x = norm(x + dense(mixed.reshape(n, -1), "out"), of["norm1"])
            x = norm(x + dense(gelu(dense(x, "mlp1")), "mlp2"), of["norm2"])
            layers.append(x)
        out.append(layers)
    return np.swapaxes(np.array(out), 0, 1)  # [depth, B, N, D]


def test_the_encoder_is_its_definition():
    tokens, distances = molecules()
    encoder = MoleculeEncoder(SIZE, VOCABULARY)
    params = variables(encoder, tokens, distances)
    features, found = run(encoder, params, tokens, distances)
    expected = by_the_definition(params, tokens, distances, SIZE.heads)
    real = tokens > 0
    np.testing.assert_allclose(found["blocks"][:, real], expected[:, real], atol=1e-5, rtol=1e-5)
    np.testing.assert_array_equal(features, found["blocks"][-1])
    np.testing.assert_array_equal(found["embedding"], features[:, 0])
    np.testing.assert_array_equal(found["block_embeddings"], found["blocks"][:, :, 0])


def test_on_text_it_is_debertav2_of_transformers():
    with np.load(STORED) as file:
        stored = dict(file)
    weight = lambda name: stored[f"weight/{name}"]  # noqa: E731
    heads, depth = SIZE.heads, SIZE.depth

    def stacked(name):
        return np.stack([weight(f"encoder.layer.{i}.{name}") for i in range(depth)])

    def dense(name):
        return {"kernel": stacked(f"{name}.weight").swapaxes(1, 2), "bias": stacked(f"{name}.bias")}

    def norm(name, of=stacked):
        return {"scale": of(f"{name}.weight"), "bias": of(f"{name}.bias")}

    parts = [dense(f"attention.self.{name}_proj") for name in ("query", "key", "value")]
    by_head = lambda x: x.reshape(*x.shape[:-1], heads, 1, -1)  # noqa: E731
    qkv = {
        key: np.concatenate([by_head(part[key]) for part in parts], -2).reshape(*parts[0][key].shape[:-1], -1)
        for key in ("kernel", "bias")
    }
    layers = {"qkv": qkv, "out": dense("attention.output.dense"), "norm1": norm("attention.output.LayerNorm")}
    layers |= {"mlp1": dense("intermediate.dense"), "mlp2": dense("output.dense"), "norm2": norm("output.LayerNorm")}
    params = {
        "tokens": weight("embeddings.word_embeddings.weight"),
        "positions": weight("encoder.rel_embeddings.weight"),
        "norm_tokens": norm("embeddings.LayerNorm", weight),
        "norm_positions": norm("encoder.LayerNorm", weight),
        "layers": layers,
    }
    tokens, place = stored["tokens"], np.arange(stored["tokens"].shape[1])
    distances = np.broadcast_to(place[:, None] - place + 64, (len(tokens), len(place), len(place)))
    _, found = run(MoleculeEncoder(SIZE, VOCABULARY), {"params": params}, tokens, distances)
    real = tokens > 0
    for i in range(depth):
        np.testing.assert_allclose(found["blocks"][i][real], stored[f"hidden/{i + 1}"][real], atol=1e-5, rtol=1e-5)


def test_neither_padding_nor_its_bucket_changes_a_molecule():
    encoder = MoleculeEncoder(SIZE, VOCABULARY)
    tokens, distances = molecules(atoms=(5, 3), room=6)
    params = variables(encoder, tokens, distances)
    _, small = run(encoder, params, tokens, distances)
    grow = lambda x, by: np.pad(x, [(0, 0)] + [(0, by)] * (x.ndim - 1))  # noqa: E731
    _, large = run(encoder, params, grow(tokens, 11), grow(distances, 11))
    np.testing.assert_allclose(large["embedding"], small["embedding"], atol=1e-6, rtol=0)
    np.testing.assert_allclose(large["blocks"][:, :, :6][:, tokens > 0], small["blocks"][:, tokens > 0], atol=1e-6)
    _, alone = run(encoder, params, tokens[1:, :4], distances[1:, :4, :4])
    np.testing.assert_allclose(alone["embedding"], small["embedding"][1:], atol=1e-6, rtol=0)


def test_the_order_of_atoms_is_not_seen():
    encoder = MoleculeEncoder(SIZE, VOCABULARY)
    tokens, distances = molecules(atoms=(7,), room=8)
    params = variables(encoder, tokens, distances)
    order = np.concatenate([[0], 1 + np.random.default_rng(1).permutation(7)])
    same, found = (run(encoder, params, *x)[1]["embedding"] for x in
                   ((tokens, distances), (tokens[:, order], distances[:, order][:, :, order])))  # fmt: skip
    np.testing.assert_allclose(same, found, atol=1e-5)  # other sums, rounded otherwise


def test_the_derivative_of_picking_is_that_of_indexing():
    random = np.random.default_rng(0)
    values, index = random.normal(size=(2, 3, 4, 6)).astype(np.float32), random.integers(0, 6, (2, 4, 5))
    weight = random.normal(size=(2, 3, 4, 5)).astype(np.float32)
    plain = lambda v: jnp.take_along_axis(v, jnp.broadcast_to(index[:, None], weight.shape), -1)  # noqa: E731
    np.testing.assert_array_equal(pick(values, index), plain(values))
    found, expected = (
        jax.grad(lambda v, f=f: (f(v) * weight).sum())(values) for f in (lambda v: pick(v, index), plain)
    )
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.slow
def test_dropout_and_rematerialisation():
    tokens, distances = molecules()
    plain = MoleculeEncoder(SIZE, VOCABULARY)
    params = variables(plain, tokens, distances)
    dropped = [
        run(plain, params, tokens, distances, train=True, rngs={"dropout": jax.random.key(i)})[0] for i in (0, 1)
    ]
    assert not np.allclose(*dropped)

    def gradient(remat):
        encoder = MoleculeEncoder(SIZE, VOCABULARY, Style(remat=remat))
        rngs = {"dropout": jax.random.key(0)}
        loss = lambda p: encoder.apply(p, tokens, distances, train=True, rngs=rngs)[1]["embedding"].sum()  # noqa: E731
        return jax.jit(jax.grad(lambda p: loss(p)))(params)

    first, again = gradient("none"), gradient("full")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), first, again)
    assert not np.asarray(first["params"]["positions"][0]).any()  # row 0 is no parameter


def test_the_head_and_bad_values():
    head = MoleculeHead(4)
    x = np.ones((2, 3, 5), np.float32)
    assert head.apply(head.init(jax.random.key(0), x), x).shape == (2, 3, 4)
    values = dict(name="molecule", width=12, depth=2, mlp=20, heads=3, dropout=0.1, dtype="float32", remat="none")
    assert make_molecule_encoder(Config(values), 7) == MoleculeEncoder(SIZE, 7)
    for bad in ("heads", 5), ("dropout", 1.0), ("remat", "some"), ("dtype", "float8"), ("name", "vit"):
        with pytest.raises(UserError, match=f"model.{bad[0]}"):
            make_molecule_encoder(Config(values | dict([bad])), 7)
