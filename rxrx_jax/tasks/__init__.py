"""Tasks: what a stage trains, one file each. `task.name` names one of TASKS, or the path of a file with a function
`make(config, source, method)`. A task is a dataclass with

init(key, view) -> {"params", and of the collections "batch_stats", "carry", "averages" those that it has}
    view [1, ...] is like those of its source, used for shapes
loss(params, collections, batch, key, progress) -> (loss, (collections, metrics))
predict(params, batch_stats, images, mask) -> {"embedding": [B, D], ...}; for tasks whose source has images
method: what the step asks for the update
frozen: a regular expression of parameter paths that are not trained, or None
inherits: the parameter subtree that comes from the stage before, or None
vocabulary: of tasks of molecules, a digest of what tokens and labels mean, which the stage before must share
proposed, propose: of tasks that sample on the host, {name: ShapeDtypeStruct [B, ...]} of the columns that
    propose(state, minibatch) adds to this host's part of a minibatch before each step
chosen_by: (evaluator, metric) by which `selection=best_val` chooses; without it, the accuracy on validation experiments

key is one for the step, `batch.keys` [B] one for each example; progress is the finished part of the run, 0 to 1. What
is read at test, published and inherited is `averages` where a state has any, else its parameters (`state.network`). A
task that has averages in `init` moves them in its loss; else `optim.ema_decay` asks the step for them.
"""

import sys

from rxrx_jax import adapt
from rxrx_jax.base import plugins
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.tasks.classify import Classify
from rxrx_jax.tasks.contrast import Contrast
from rxrx_jax.tasks.distill import Distill
from rxrx_jax.tasks.environments import Environments
from rxrx_jax.tasks.flow import Flow
from rxrx_jax.tasks.mae import Mae
from rxrx_jax.tasks.properties import Properties

TASKS = {
    "mae": Mae.from_config,
    "distill": Distill.from_config,
    "classify": Classify.from_config,
    "probe": Classify.probe_from_config,
    "contrast": Contrast.from_config,
    "environments": Environments.from_config,
    "properties": Properties.from_config,
    "flow": Flow.from_config,
}


def make_task(config: Config, source):
    """The task of `config.task` for what a source gives, with the method of `config.adapt`."""
    name = config.task.name
    method = adapt.Method()
    if "adapt" in config:
        shares, groups = source.shares, config.data.groups_per_minibatch
        facts = {name: getattr(source, name) for name in adapt.FACTS if hasattr(source, name)}
        method = adapt.make_method(config.adapt.as_kwargs(), shares, groups, **facts)
    if name.endswith(".py"):
        return plugins.load(name, sys.modules[__name__], "task.name").make(config, source, method)
    if name not in TASKS:
        raise UserError(f"task.name={name!r}: expected {', '.join(TASKS)}, or the path of a .py file")
    return TASKS[name](config, source, method)
