"""A tiny simulated dataset and tiny versions of the configs, for tests of the trainer. As a script it runs one:

python tests/tools/tiny.py CONFIG WORKDIR FOLDER KEY=VALUE ...
"""

import ast
import contextlib
import dataclasses
import pathlib
import sys

import numpy as np
from paths import ROOT

from rxrx_jax.base.config import load
from rxrx_jax.data import dataset

CONFIGS = ROOT / "configs"
SCREEN = dict(
    image_size=32,
    treatments=4,
    positive_controls=1,
    replicates=2,
    untreated_wells=1,
    train=("SIMA-01", "SIMA-02"),
    val=("SIMA-03",),
    test=("SIMB-01", "SIMB-02"),
)


def values(config: str, folder, **changes) -> dict:
    """The nested dict of `config` ("mae_vit.py:layout=fixed") on the tiny screen, prepared in `folder`. Changes are
    named by dotted keys; a value of None removes the key."""
    found = load(config)
    found["data"] |= {"folder": str(folder), "minibatch": 8, "builder": found["data"]["builder"] | SCREEN}
    found["data"]["groups_per_minibatch"] = min(found["data"]["groups_per_minibatch"], len(SCREEN["train"]))
    if found["data"]["unlabelled_minibatch"]:
        found["data"]["unlabelled_minibatch"] = 4
    if found["model"].get("widths"):
        found["model"]["widths"] = (8, 16)
    found["augment"]["crop"] = 32
    found |= {"evaluation_minibatch": 16, "log_steps": 1, "total_steps": 2}
    found.pop("total_epochs", None)
    for key, value in changes.items():
        *parents, last = key.split(".")
        node = found
        for parent in parents:
            node = node[parent]
        if value is None:
            del node[last]
        else:
            node[last] = value
    return found


@contextlib.contextmanager
def interrupted(call: int):
    """Ctrl-C where the `call`th minibatch (1, 2, ...) goes to the device, which has to come."""
    import pytest

    from rxrx_jax.base import sharding

    original, calls = sharding.to_device, []

    def stop(minibatch, mesh):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return original(minibatch, mesh)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sharding, "to_device", stop)
        yield


def under_protocol(dataset, name: str = "held_out_experiments"):
    """The dataset with the roles that a protocol gives its rows, as the trainer opens it."""
    from rxrx_jax.evaluate import protocols

    return dataclasses.replace(dataset, roles=protocols.roles(dataset, name))


def source(config):
    """The source of images of a config, as the trainer makes it."""
    from rxrx_jax.data import images
    from rxrx_jax.evaluate import protocols

    return images.make(config, lambda dataset: protocols.roles(dataset, config.protocol.name))


def shuffle_held_out_labels(monkeypatch) -> None:
    """From now on every dataset that is opened has the labels outside its train split permuted."""
    original = dataset.read_dataset

    def shuffled(path, cache=None):
        found = original(path, cache)
        label, outside = found.sites.label.copy(), found.sites.split != "train"
        label[outside] = np.random.default_rng(0).permutation(label[outside])
        return dataclasses.replace(found, sites=dataclasses.replace(found.sites, label=label))

    monkeypatch.setattr(dataset, "read_dataset", shuffled)


if __name__ == "__main__":
    from rxrx_jax.training import train

    config, workdir, folder, *changes = sys.argv[1:]
    changes = {k: ast.literal_eval(v) for k, _, v in (change.partition("=") for change in changes)}
    train.run(values(config, folder, **changes), pathlib.Path(workdir))
