"""Weights in and out: files of other projects as parameters of the models here, and runs as folders to publish.

imported = weights.load("model.safetensors")           # OpenPhenom, timm, or a folder that `export` wrote
tokens, found = imported.encoder.apply({"params": imported.params["encoder"]}, images)
"""

import dataclasses
import functools
import math
import pathlib
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp

from rxrx_jax.base import files
from rxrx_jax.base.errors import UserError, shortened
from rxrx_jax.base.seen import NAME as SEEN
from rxrx_jax.base.seen import Seen
from rxrx_jax.base.seen import read as read_seen
from rxrx_jax.base.sharding import named_leaves, parameters_sha256, place_like
from rxrx_jax.models.vit import Encoder, Size, Style
from rxrx_jax.weights import convnets, hub, openphenom, timm, wrappers
from rxrx_jax.weights.layout import Imported, finite, model_keys
from rxrx_jax.weights.read import read_saved, read_tensors

__all__ = ["Imported", "about", "encoder_parameters", "load", "read_tensors", "seen"]
AGAIN = "export the run again"
FILE, ABOUT = "model.safetensors", "config.json"  # of an exported folder


def load(path: str | pathlib.Path, channels: int | None = None, side: int | None = None, part: str = "") -> Imported:
    """Weights of a file or folder, recognised by the names of its tensors.

    Args:
      path: a file (safetensors or torch.save) of an OpenPhenom kind of model, of a timm ViT, of a ResNet or DenseNet of
        torchvision or timm, or of EfficientNet-Lite0, a folder that holds one as model.safetensors, a folder that
        rxrx_jax.weights.export wrote, or hf://owner/name for any of these.
      channels: of the images it will see; a file of timm or torchvision with another number is adapted, the others are
        as they are.
      side: patches along a side of these images; learned positions of a timm file are interpolated.
      part: which of several sets of tensors in the file, as "student"; "" = the only one, or the teacher.

    Raises UserError naming the file, and the tensor if one is missing, left over, of another shape or not finite.
    """
    return _convert(*_read(path), channels, side, part)


def encoder_parameters(path: str | pathlib.Path, shapes, encoder=None, part: str = "") -> dict:
    """The first of what `encoder_network` gives, of a network without BatchNorm."""
    return encoder_network(path, shapes, {}, encoder, part)[0]


def encoder_network(
    path: str | pathlib.Path, shapes, statistics, encoder: nn.Module | None = None, part: str = ""
) -> tuple[dict, dict]:
    """The encoder's parameters of a file or exported folder, and its BatchNorm statistics, for a model of these shapes.

    Args:
      path: as `load` takes it. A file of timm or torchvision is adapted to the channels, and learned positions, of
        `shapes`, which stderr tells.
      shapes: tree of arrays or ShapeDtypeStruct; where one has a sharding, the parameter gets it.
      statistics: the same of the statistics, {} without BatchNorm.
      encoder: the module, to compare also what shapes do not show: heads and epsilon.
      part: as `load` takes it.

    Raises UserError naming the first parameter that does not fit and the keys of config.model to set.
    """
    wanted = named_leaves(shapes)
    file, saved = _read(path)
    imported = _convert(file, saved, None, None, part)
    if imported.channels:
        imported = _convert(file, saved, *_view(wanted, imported.encoder), part)
    found = named_leaves(imported.params["encoder"])
    keys = _advice(imported.encoder, encoder)
    for name in sorted(found.keys() | wanted.keys()):
        there, here = (tuple(tree[name].shape) if name in tree else "absent" for tree in (found, wanted))
        if there != here:
            raise UserError(f"{path} does not fit: {name} is {there} there and {here} in this model; set {keys}")
    if isinstance(encoder, Encoder):
        for name, there, here in (
            ("heads", imported.encoder.size.heads, encoder.size.heads),
            ("epsilon", imported.encoder.style.epsilon, encoder.style.epsilon),
        ):
            if there != here:
                raise UserError(f"{path} does not fit: {name} is {there} there and {here} in this model; set {keys}")
    for note in imported.notes:
        print(f"{path}: {note}", file=sys.stderr)
    of_norm = imported.batch_stats["encoder"] if statistics else {}  # whose names are among the parameters'
    place = functools.partial(jax.tree.map, place_like)
    return place(imported.params["encoder"], shapes), place(of_norm, statistics)


def seen(path: str | pathlib.Path) -> Seen:
    """What the weights at `path` have seen, from the table in an exported folder; unknown, under the name
    of the file or address, for all others. Reads no tensor."""
    if hub.is_address(path):
        found = seen(hub.fetch(str(path)))
        return dataclasses.replace(found, unknown=(str(path),)) if found.unknown else found
    path = pathlib.Path(path).expanduser()
    folder = path if path.is_dir() else path.parent
    ours = (path.is_dir() or path.name == FILE) and (folder / ABOUT).exists()
    found = read_seen(folder / SEEN) if ours else None
    return Seen(unknown=(path.name,)) if found is None else found


def about(path: str | pathlib.Path) -> dict:
    """config.json of a folder that rxrx_jax.weights.export wrote; {} of other weights."""
    path = hub.fetch(str(path)) if hub.is_address(path) else pathlib.Path(path).expanduser()
    beside = (path if path.is_dir() else path.parent) / ABOUT
    if not path.is_dir() and path.name != FILE:
        return {}
    found = files.read_json(beside, AGAIN) if beside.exists() else {}
    return found if "encoder" in found else {}


def _advice(there: nn.Module, here: nn.Module | None) -> str:
    """The keys of config.model that make the encoder `there`, those that `here` has otherwise or, where `here` is no
    vit, those that are not the default. Weights say nothing about stochastic depth."""
    keys = model_keys(there)
    if not isinstance(there, Encoder):
        other = f"another model: none here has its {' + '.join(map(str, there.depths))} blocks"
        return f"--config.model.name={keys['name']}" if keys else other
    if isinstance(here, Encoder):
        present = dataclasses.asdict(here.style) | {"drop_path": there.style.drop_path}
        style = {key: value for key, value in dataclasses.asdict(there.style).items() if value != present[key]}
        keys = {key: keys[key] for key in ("name", "variant") if key in keys} | style
    said = " ".join(f"--config.model.{key}={value}" for key, value in keys.items())
    size, patch = there.size, there.patch
    none = (
        f"; no variant is {size.width} wide with {size.depth} blocks, {size.heads} heads, MLP {size.mlp}, patch {patch}"
    )
    return said + ("" if "variant" in keys else none)


def _view(shapes: dict, encoder: nn.Module) -> tuple[int | None, int | None]:
    """(channels, patches along a side) of the images of a model like `encoder` with these shapes; None if unknown."""
    if not isinstance(encoder, Encoder):
        return (shapes["stem_conv/kernel"].shape[2] if "stem_conv/kernel" in shapes else None), None
    patch = encoder.patch
    rows = shapes["embed/kernel"].shape[0] if "embed/kernel" in shapes else 0
    patches = shapes["positions"].shape[1] - ("class_token" in shapes) if "positions" in shapes else 0
    side = math.isqrt(patches)
    return rows // patch**2 if rows and rows % patch**2 == 0 else None, side if side**2 == patches and side else None


def _read(path: str | pathlib.Path):
    """(file, what it holds)."""
    if hub.is_address(path):
        path = hub.fetch(str(path))
    path = pathlib.Path(path).expanduser()
    path = path / FILE if path.is_dir() else path
    return path, read_saved(path)


def _convert(path: pathlib.Path, saved, channels: int | None, side: int | None, part: str) -> Imported:
    tensors, notes, part = wrappers.inner(path, saved, part)
    if any(name.startswith("encoder/") for name in tensors):
        if part:
            raise UserError(f"{path} is an exported run, which has no part {part!r}; leave it out")
        return _load_ours(path, tensors)
    readers = {}
    for mark in convnets.MARKS:
        readers[mark] = lambda found: convnets.convert(path, found, channels)
    for mark in (f"{openphenom.BACKBONE}{openphenom.MARK}", openphenom.MARK):
        readers[mark] = lambda found: openphenom.convert(path, found)
    readers[timm.MARK] = lambda found: timm.convert(path, found, channels, side)
    for mark, reader in readers.items():
        found, more = wrappers.encoder(path, tensors, mark, part)
        if found:
            imported = reader(found)
            return dataclasses.replace(imported, notes=(*notes, *more, *imported.notes))
    names = ", ".join(map(shortened, sorted(tensors)[:3]))
    raise UserError(f"{path}: no known kind of model has tensors like {names}; expected OpenPhenom, a timm ViT, "
                    "a ResNet or DenseNet of torchvision or timm, or EfficientNet-Lite0")  # fmt: skip


def _load_ours(path: pathlib.Path, tensors: dict) -> Imported:
    beside = path.with_name(ABOUT)
    try:
        config = files.read_json(beside, AGAIN)
        fields = dict(config["encoder"])
        size = Size(**{name: fields.pop(name) for name in ("width", "depth", "mlp", "heads")})
        encoder = Encoder(size, fields.pop("patch"), Style(**fields))
        about = {key: config[key] for key in ("channels", "crop", "normalisation")}
        sha256 = config["parameters_sha256"]
        view = jax.ShapeDtypeStruct((1, config["crop"], config["crop"], config["channels"] or 1), jnp.float32)
        wanted = named_leaves(jax.eval_shape(encoder.init, jax.random.key(0), view)["params"])
    except UserError:
        raise
    except (ValueError, LookupError, TypeError, ArithmeticError, MemoryError) as error:
        raise UserError(f"{beside} does not describe {path.name}; {AGAIN} ({shortened(str(error))})") from error
    found = {name.removeprefix("encoder/"): x for name, x in tensors.items() if name.startswith("encoder/")}
    for name in sorted(found.keys() | wanted.keys()):
        there, here = (tuple(tree[name].shape) if name in tree else "absent" for tree in (found, wanted))
        if there != here:
            raise UserError(f"{path}: encoder/{name} is {there} there and {here} by {ABOUT}; export the run again")
    params: dict = {}
    for name, value in tensors.items():
        *parents, last = name.split("/")
        finite(path, name, value)
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    if parameters_sha256(params) != sha256:
        raise UserError(f"{path} is damaged: its parameters are not those that {ABOUT} records; export the run again")
    return Imported(encoder, params, **about)
