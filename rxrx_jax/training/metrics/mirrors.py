"""Where the numbers of metrics.jsonl also go while a run is under way: TensorBoard, Weights & Biases or trackio.

A mirror is `write(step, numbers)` and `close()`. metrics.jsonl is what counts: a mirror that fails is left, and the run
continues.
"""

import hashlib
import importlib
import json
from typing import Protocol

from etils import epath

from rxrx_jax.base import files, hosts
from rxrx_jax.base.errors import UserError, missing_extra, shortened

NAMES = ("tensorboard", "wandb", "trackio")  # each an extra of pyproject.toml
PROJECT = "rxrx_jax"


class Mirror(Protocol):
    """write: numbers by name, of a step; they may come more than once for a step, never for an earlier one."""

    def write(self, step: int, numbers: dict[str, float]) -> None: ...

    def close(self) -> None: ...


def make(name: str, workdir: epath.PathLike) -> Mirror | None:
    """The mirror of `config.mirror`; None for "". Raises UserError for another name, and where its package is not
    installed or does not start."""
    if not name:
        return None
    if name not in NAMES:
        raise UserError(f"mirror={name!r}: expected {', '.join(NAMES)}, or nothing")
    workdir = epath.Path(workdir)
    try:
        return _Guarded(name, TensorBoard(workdir) if name == "tensorboard" else Tracker(name, workdir))
    except ImportError:
        raise missing_extra("tensorboardX" if name == "tensorboard" else name, name) from None
    except Exception as error:  # whatever a service says of a login, a network or a project
        reason = f"{type(error).__name__}: {shortened(str(error))}"
        raise UserError(f"mirror={name} does not start ({reason}); log in to it, or train without") from error


class TensorBoard:
    """Event files in workdir/tensorboard."""

    def __init__(self, workdir: epath.Path):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(workdir / "tensorboard"))

    def write(self, step: int, numbers: dict[str, float]) -> None:
        for key, value in numbers.items():
            self._writer.add_scalar(key, value, step)

    def close(self) -> None:
        self._writer.close()


class Tracker:
    """A run of wandb, or of trackio, which has the same functions. It is named after the workdir, which also tells it
    from others of that name, so that a run that resumes is the same there; its config is the run's."""

    def __init__(self, name: str, workdir: epath.Path):
        self._module = importlib.import_module(name)
        config = workdir / "config.json"
        about = {"project": PROJECT, "config": json.loads(config.read_text()) if config.exists() else {}}
        place = hashlib.sha256(str(files.locate(workdir)).encode()).hexdigest()[:8]
        if name == "wandb":
            about |= {"name": workdir.name, "id": f"{workdir.name}-{place}"}
            about |= {} if files.is_remote(workdir) else {"dir": str(workdir)}
        else:
            about |= {"name": f"{workdir.name}-{place}"}
        self._module.init(resume="allow", **about)

    def write(self, step: int, numbers: dict[str, float]) -> None:
        self._module.log(numbers, step=step)

    def close(self) -> None:
        self._module.finish()


class _Guarded:
    """A mirror that is left with one line on stderr when it fails."""

    def __init__(self, name: str, mirror: Mirror):
        self._name, self._mirror = name, mirror

    def write(self, step: int, numbers: dict[str, float]) -> None:
        self._try(lambda mirror: mirror.write(step, numbers))

    def close(self) -> None:
        self._try(lambda mirror: mirror.close())

    def _try(self, call) -> None:
        if self._mirror is None:
            return
        try:
            call(self._mirror)
        except Exception as error:
            hosts.say(f"WARNING: {self._name} gets no more numbers ({type(error).__name__}: {shortened(str(error))}); "
                      "metrics.jsonl has them all")  # fmt: skip
            self._mirror = None
