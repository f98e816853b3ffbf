"""NaN or diverging losses and unreadable images: what stops a run, and rolling back once."""

import collections
import json
import math
import statistics
import sys

from etils import epath

from rxrx_jax.base import files
from rxrx_jax.base.errors import UserError

WINDOW, SETTLED = 100, 20  # losses kept, and how many are needed to judge by
NOISE = 0.1  # a loss below this may jump by any factor
ROLLBACK = "rollback.json"


class Diverged(Exception):
    """The loss of `step` cannot be trained on; `found` holds its metrics."""

    def __init__(self, step: int, why: str, found: dict[str, float]):
        super().__init__(f"{why} at step {step}")
        self.step, self.found = step, found


class Guard:
    """Looks at the metrics of every step, one step late, so that the devices never wait.

    Args: max_loss_ratio, how many times the median of the last 100 losses is too much; 0, any finite loss passes;
    unreadable, how many images per epoch may be left out because they cannot be read; epoch, its steps; carried, what
    `carry` gave before the run was started again.

    When a method's `penalty_weight` changes, the training loss is redefined, so its history is discarded and a new
    baseline is established.
    """

    def __init__(self, max_loss_ratio: float, unreadable: int, epoch: int, carried: dict | None = None):
        self._max_loss_ratio, self._budget, self._epoch = max_loss_ratio, unreadable, epoch
        self._losses = collections.deque((carried or {}).get("losses", []), maxlen=WINDOW)
        self._penalty_weight = (carried or {}).get("penalty_weight", 0.0)
        self.unreadable = int((carried or {}).get("unreadable", 0))

    def carry(self) -> dict:
        """What a checkpoint keeps, so that a run that was started again judges as one that was not."""
        return {
            "unreadable": self.unreadable, "losses": list(self._losses), "penalty_weight": self._penalty_weight
        }  # fmt: skip

    def check(self, step: int, found: dict[str, float]) -> None:
        """Raises Diverged, or UserError when too many images could not be read. All hosts see the same numbers."""
        self.unreadable += int(found.get("unreadable", 0))
        epochs = math.ceil(step / self._epoch)
        if self.unreadable > self._budget * epochs:
            raise UserError(
                f"{self.unreadable} images could not be read by step {step}, named above by the hosts that read them: "
                f"rebuild the dataset, or allow more than data.unreadable={self._budget} per epoch"
            )
        for name in ("loss", "gradient_norm"):
            if not math.isfinite(found[name]):
                raise Diverged(step, f"{name} is {found[name]}", found)
        if (weight := found.get("penalty_weight", 0.0)) != self._penalty_weight:
            self._penalty_weight = weight
            self._losses.clear()
        loss = found["loss"]
        if self._max_loss_ratio and len(self._losses) >= SETTLED:
            usual = max(statistics.median(self._losses), NOISE)
            if loss > self._max_loss_ratio * usual:
                raise Diverged(step, f"loss is {loss:.4g}, {loss / usual:.0f} times its usual {usual:.4g}", found)
        self._losses.append(loss)


def save_minibatch(workdir: epath.Path, diverged: Diverged, images: list[dict]) -> epath.Path:
    """Writes what a bad step was made of, as its source describes it: WORKDIR/diverged-STEP.json."""
    path = workdir / f"diverged-{diverged.step}.json"
    number = lambda x: x if math.isfinite(x) else str(x)  # noqa: E731
    metrics = {name: number(value) for name, value in diverged.found.items()}
    files.write(path, json.dumps({"step": diverged.step, "why": str(diverged), **metrics, "images": images}, indent=1))
    return path


def stop_or_roll_back(workdir: epath.Path, bad: Diverged, images: list[dict], may_roll_back: bool) -> None:
    """Keeps what the bad minibatch was made of (nothing where it was noise), and that the run goes back, if it may and
    has not before; else raises UserError."""
    where = f"its images are in {save_minibatch(workdir, bad, images)}" if images else "of noise"
    if may_roll_back and images and rolled_back(workdir) is None:
        files.write(workdir / ROLLBACK, json.dumps({"step": bad.step}))
        print(f"WARNING: {bad}; going back to the last checkpoint, once, without that minibatch: {where}",
              file=sys.stderr, flush=True)  # fmt: skip
        return
    again = " again after going back once" if may_roll_back and images else ""
    hint = "" if may_roll_back else ", or pass --config.guard.rollback=True to go back once and leave it out"
    raise UserError(f"{bad}{again}: {where}; earlier checkpoints are kept: lower optim.lr or fix the data{hint}")


def rolled_back(workdir: epath.Path) -> int | None:
    """The step whose minibatch a run has left out, if it went back."""
    path = workdir / ROLLBACK
    if not path.exists():
        return None
    step = files.read_json(path, "put back a copy of it").get("step")
    if type(step) is not int:
        raise UserError(f"{path} names no step; put back a copy of it")
    return step
