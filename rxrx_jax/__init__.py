"""rxrx_jax: models of the RxRx microscopy images that survive a change of experimental batch.

run = rxrx_jax.load("runs/mae_vit")
embedding = run.embed(images, plate=plates)
dataset = rxrx_jax.datasets.open("rxrx1")
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rxrx_jax import datasets as datasets
    from rxrx_jax import weights as weights
    from rxrx_jax.runs import Run as Run
    from rxrx_jax.runs import load as load

__version__ = "0.5.0"
__all__ = ["Run", "__version__", "datasets", "load", "weights"]


def __getattr__(name: str):
    """What `__all__` names is imported when it is first asked for, so that `import rxrx_jax` is quick and touches no
    device."""
    if name in ("Run", "load"):
        return getattr(importlib.import_module("rxrx_jax.runs"), name)
    if name in ("datasets", "weights"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
