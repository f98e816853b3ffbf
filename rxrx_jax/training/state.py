"""The state of a run: a plain dataclass pytree."""

import dataclasses
from typing import Any

import jax

COLLECTIONS = ("batch_stats", "carry", "averages")


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TrainState:
    """step: int32 scalar, the number of finished updates; the rest are pytrees of arrays.

    collections holds what no gradient reaches: `batch_stats`, running statistics of BatchNorm; `carry`, what a task or
    method hands from step to step; `averages`, {} or {"params", "batch_stats"} averaged over the steps."""

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

    def with_network(self, params: Any, batch_stats: Any) -> "TrainState":
        """The state with that part replaced; what is new lies where the old one does."""
        new = {"params": params, "batch_stats": batch_stats}
        old = dict(zip(new, self.network()))
        new = jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), new, old)
        if self.collections["averages"]:
            return dataclasses.replace(self, collections=self.collections | {"averages": new})
        collections = self.collections | {"batch_stats": new["batch_stats"]}
        return dataclasses.replace(self, params=new["params"], collections=collections)
