"""The state of a run: a plain dataclass pytree."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

COLLECTIONS = ("batch_stats", "carry", "averages")
SELECTIONS = ("last", "best_val")
CHOSEN_BY = "validation/site_accuracy"  # the metric of best_val of images: per image, as WILDS chooses


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TrainState:
    """step: int32 scalar, the number of finished updates; the rest are pytrees of arrays.

    collections holds what no gradient reaches: `batch_stats`, running statistics of BatchNorm; `carry`, what a task or
    method hands from step to step; `averages`, {} or {"params", "batch_stats"} averaged over the steps; and with
    selection=best_val `best`, the network of the best evaluation so far with its `value` and `step`, which no step of
    training changes."""

    step: jax.Array
    params: Any
    collections: dict[str, Any]
    opt_state: Any

    @property
    def published(self) -> str:
        """The part of the state that is evaluated and published: the averages if there are any."""
        return "averages" if self.collections["averages"] else "params"

    def network(self) -> tuple[Any, Any]:
        """(params, batch_stats) of that part."""
        if averages := self.collections["averages"]:
            return averages["params"], averages["batch_stats"]
        return self.params, self.collections["batch_stats"]

    def with_candidate(self, value: float) -> "TrainState":
        """The state of a run with `best` when its network has been evaluated: the first of the best stays."""
        best = self.collections["best"]
        if not value > float(best["value"]):
            return self
        params, batch_stats = jax.tree.map(jnp.copy, self.network())  # the train step donates its state
        new = {"params": params, "batch_stats": batch_stats, "value": np.float32(value), "step": jnp.copy(self.step)}
        new = jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), new, best)
        return dataclasses.replace(self, collections=self.collections | {"best": new})

    def with_best(self) -> "TrainState":
        """The state whose evaluated and published network is that of the best evaluation."""
        best = jax.tree.map(jnp.copy, self.collections["best"])
        return self.with_network(best["params"], best["batch_stats"])

    def with_network(self, params: Any, batch_stats: Any) -> "TrainState":
        """The state with that part replaced; what is new lies where the old one does."""
        new = {"params": params, "batch_stats": batch_stats}
        old = dict(zip(new, self.network()))
        new = jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), new, old)
        if self.collections["averages"]:
            return dataclasses.replace(self, collections=self.collections | {"averages": new})
        collections = self.collections | {"batch_stats": new["batch_stats"]}
        return dataclasses.replace(self, params=new["params"], collections=collections)
