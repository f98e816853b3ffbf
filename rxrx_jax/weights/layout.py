"""From PyTorch's tensors to the parameters of rxrx_jax.models: what all foreign formats share."""

import dataclasses
import math
import pathlib

import flax.linen as nn
import jax
import numpy as np

from rxrx_jax.base.errors import UserError
from rxrx_jax.models.densenet import DenseNet
from rxrx_jax.models.efficientnet import EfficientNet
from rxrx_jax.models.resnet import ResNet
from rxrx_jax.models.vit import SIZES, Encoder, Style, sincos_positions

# Names in `config.model` of the modules with their own sizes.
CONVNETS = {ResNet: "resnet50", DenseNet: "densenet161", EfficientNet: "efficientnet_lite0"}


@dataclasses.dataclass(frozen=True)
class Imported:
    """Weights that came from a file.

    encoder: the module that they fit; params: {"encoder": ...} and, of a masked autoencoder, its other parts, float32
    numpy arrays; channels: that images must have, None for any 1 to 11; crop: side in pixels that the positions are
    for; normalisation: of images, one of augment.NORMALISATIONS; decoder: (width, depth, heads) of a masked
    autoencoder's, as `config.task.decoder`, or None; notes: what a user should know, one line each; batch_stats:
    {"encoder": ...}, statistics of BatchNorm, {} of a ViT.
    """

    encoder: nn.Module
    params: dict
    channels: int | None
    crop: int
    normalisation: str = "image"
    decoder: tuple[int, int, int] | None = None
    notes: tuple[str, ...] = ()
    batch_stats: dict = dataclasses.field(default_factory=dict)

    @property
    def model(self) -> dict:
        """The keys of `config.model` that make this encoder; without `variant` if SIZES has none of this size, {} for a
        convolutional one that has other sizes than those with a name."""
        return model_keys(self.encoder)


def model_keys(encoder: nn.Module) -> dict:
    """The keys of `config.model` that make `encoder`, those that are not the default."""
    if not isinstance(encoder, Encoder):
        return {"name": CONVNETS[type(encoder)]} if encoder == type(encoder)() else {}
    names = [name for name, size in SIZES.items() if size == encoder.size]
    found = {"name": "vit"} | ({"variant": f"{names[0]}/{encoder.patch}"} if names else {})
    plain = dataclasses.asdict(Style())
    return found | {key: value for key, value in dataclasses.asdict(encoder.style).items() if value != plain[key]}


class Tensors:
    """The tensors of a file; each is taken once, as float32, and none may be left over."""

    def __init__(self, path: pathlib.Path | str, tensors: dict[str, np.ndarray]):
        self.path, self.left = path, dict(tensors)

    def __contains__(self, name: str) -> bool:
        return name in self.left

    def take(self, name: str, *shape: int | None) -> np.ndarray:
        """Raises UserError if it is missing or not of `shape` (None = any)."""
        if name not in self.left:
            raise UserError(f"{self.path} has no tensor {name!r}, which its kind of model needs")
        found = self.left.pop(name)
        if len(found.shape) != len(shape) or any(n not in (None, m) for n, m in zip(shape, found.shape)):
            wanted = "x".join("any" if n is None else str(n) for n in shape)
            raise UserError(f"{self.path}: tensor {name!r} is {'x'.join(map(str, found.shape))}, expected {wanted}")
        return finite(self.path, name, found)

    def linear(self, name: str, rows: int | None, columns: int | None, bias: bool = True) -> dict[str, np.ndarray]:
        """{"kernel" [columns, rows], "bias" [rows]} of a torch.nn.Linear with weight [rows, columns]."""
        kernel = {"kernel": self.take(f"{name}.weight", rows, columns).T}
        return kernel | ({"bias": self.take(f"{name}.bias", rows)} if bias else {})

    def norm(self, name: str, size: int) -> dict[str, np.ndarray]:
        """{"scale", "bias"} [size] of a torch.nn.LayerNorm."""
        return {"scale": self.take(f"{name}.weight", size), "bias": self.take(f"{name}.bias", size)}

    def patch_embedding(self, name: str) -> tuple[dict[str, np.ndarray], int, int]:
        """(parameters, channels, patch side) of the convolution that makes tokens, weight [D, C, p, p]."""
        weight = self.take(f"{name}.weight", None, None, None, None)
        width, channels, side, other = weight.shape
        if side != other:
            raise UserError(f"{self.path}: patches of {side}x{other} pixels are not square")
        kernel = weight.transpose(2, 3, 1, 0).reshape(-1, width)  # rows by pixel row, pixel column, channel
        return {"kernel": kernel, "bias": self.take(f"{name}.bias", width)}, channels, side

    def count(self, prefix: str) -> int:
        """How many numbered parts there are: 2 for prefix.0.x, prefix.1.x."""
        numbers = {name[len(prefix) + 1 :].split(".")[0] for name in self.left if name.startswith(f"{prefix}.")}
        return len(numbers)

    def drop(self, *prefixes: str) -> list[str]:
        """Removes the tensors whose names start so, and returns their names."""
        names = [name for name in self.left if name.startswith(prefixes)]
        for name in names:
            del self.left[name]
        return names

    def check_all_taken(self) -> None:
        if self.left:
            names = sorted(self.left)
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise UserError(f"{self.path} holds tensors that no model here has: {', '.join(names[:5])}{more}")


def finite(path, name: str, tensor: np.ndarray) -> np.ndarray:
    """A tensor as float32. Raises UserError naming it if one of its values is NaN or infinite."""
    with np.errstate(over="ignore"):
        found = np.asarray(tensor, np.float32)
    if bad := found.size - np.count_nonzero(np.isfinite(found)):
        raise UserError(f"{path}: {bad:,} of {found.size:,} values of {name!r} are NaN or infinite; use other weights")
    return found


def stack(path: pathlib.Path | str, parts: list[dict]) -> dict:
    """Trees of equal shapes -> one tree with a new first axis. Raises UserError where one differs from the first."""
    forms = [jax.tree.map(lambda x: tuple(x.shape), part) for part in parts]
    if others := [i for i, form in enumerate(forms) if form != forms[0]]:
        raise UserError(f"{path}: block {others[0]} has other tensors, or of other shapes, than block 0")
    return jax.tree.map(lambda *arrays: np.stack(arrays), *parts)


def by_head(columns: np.ndarray, heads: int, parts: int = 3) -> np.ndarray:
    """Fused projections [..., part, head, hd] as published -> [..., head, part, hd] as the models here have them; the
    last axis is flat on both sides. With part and head exchanged (`heads=3, parts=heads`) it is its own inverse."""
    *lead, n = columns.shape
    return columns.reshape(*lead, parts, heads, n // (parts * heads)).swapaxes(-3, -2).reshape(*lead, n)


def heads_of(path, width: int, head: int) -> int:
    if not head or width % head:
        raise UserError(f"{path}: width {width} is not a multiple of the {head} values of a head")
    return width // head


def square_side(path, patches: int) -> int:
    side = math.isqrt(patches)
    if not patches or side * side != patches:
        raise UserError(f"{path}: positions of {patches} patches are not those of a square image")
    return side


def read_positions(path, table: np.ndarray, class_token: bool, tolerance: float) -> tuple[str, dict, int]:
    """A stored table of positions [1, (1+)N, D] -> (Style.positions, its parameters, patches along a side).

    A table that equals the fixed sine-cosine code is left out: the model makes the same one. `tolerance` is absolute.
    """
    first = int(class_token)
    side = square_side(path, table.shape[1] - first)
    code = np.pad(sincos_positions(side, side, table.shape[2]), ((first, 0), (0, 0)))
    if np.abs(table[0] - code).max() <= tolerance:
        return "sincos", {}, side
    return "learned", {"positions": table}, side


def tolerance_of(stored: np.ndarray) -> float:
    """What rounding to the dtype of a file may change in a table of sines."""
    return 1e-5 if stored.dtype in (np.float32, np.float64) else 1e-2
