"""A process that saves one checkpoint after the other is killed at random moments, and resumes from what it left:

python tests/tools/checkpoint/checkpoint_killed.py FOLDER KILLS SEED

prints a JSON object: the steps at which it resumed, and what was wrong.
"""

import json
import os
import pathlib
import random
import signal
import sys
import time

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp  # noqa: F401  imported before the fork, as are the next

from rxrx_jax.base.sharding import make_mesh, state_shardings
from rxrx_jax.training.checkpoint import Checkpoints
from rxrx_jax.training.state import TrainState

KEEP = 2


def make_state(step: int) -> TrainState:
    params = {"encoder": {"kernel": np.random.default_rng(step).normal(size=(300, 200)).astype(np.float32)}}
    return TrainState(np.int32(step), params, {"batch_stats": {}, "carry": {}, "averages": {}}, {})


def save_until_killed(folder: pathlib.Path, pipe: int) -> None:
    """Tells `pipe` at which step it resumes ("from"), that the state is wrong, or which save has begun, which says that
    the one before is complete."""
    jax.config.update("jax_platforms", "cpu")
    say = lambda *words: os.write(pipe, (json.dumps(words) + "\n").encode())  # noqa: E731
    place = state_shardings(make_state(0), make_mesh())
    shapes = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), make_state(0), place)
    with Checkpoints(folder / "checkpoints", KEEP) as checkpoints:
        found, clock = checkpoints.restore(shapes) or (make_state(0), {"step": 0.0})
        step = int(found.step)
        same = jax.tree.map(lambda a, b: np.asarray(a).tobytes() == b.tobytes(), found, make_state(step))
        if not all(jax.tree.leaves(same)) or clock != {"step": float(step)}:
            say("wrong", step)
        say("from", step)
        while True:
            step += 1
            checkpoints.save(jax.device_put(make_state(step), place), {"step": float(step)})
            say("begun", step)


def main(folder: str, kills: int, seed: int) -> None:
    delays, wrong, resumed_at, begun = random.Random(seed), [], [], 0
    for _ in range(kills):
        read, write = os.pipe()
        if not (child := os.fork()):
            os.close(read)
            try:
                save_until_killed(pathlib.Path(folder), write)
            finally:
                os._exit(1)
        os.close(write)
        lines = os.fdopen(read)
        word, step = json.loads(lines.readline() or '["ended", 0]')
        # The save that had begun may be lost; the one before it was complete.
        if word != "from" or not begun - 1 <= step <= begun + 1:
            wrong.append([word, step, begun])
        resumed_at.append(step)
        time.sleep(delays.uniform(0, 0.7))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        begun = max([begun, *(json.loads(line)[1] for line in lines)])
        lines.close()
    print(json.dumps({"resumed at": resumed_at, "wrong": wrong}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
