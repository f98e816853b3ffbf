"""What a policy is conditioned on: a preference w on the simplex and an exponent beta, how they are drawn and how the
network sees them. The target is p(x | w, beta) proportional to R_w(x)^beta."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from rxrx_jax.base.errors import UserError

EXPONENTS = ("constant", "uniform", "loguniform", "gamma", "integers")
ENCODINGS = ("thermometer", "plain")


def thermometer(value: jax.Array, bins: int, low: float, high: float) -> jax.Array:
    """clip(value - edges, 0, gap) / gap: [...] -> [..., bins], the bins that a value fills, the last one partly."""
    edges = jnp.linspace(low, high, bins)
    gap = (high - low) / (bins - 1)
    return jnp.clip(value[..., None] - edges, 0, gap) / gap


def checked_preference(w, objectives: int, key: str = "task.preference") -> tuple[float, ...]:
    """A preference as a tuple. Raises UserError where it is of another length than `objectives` or off the simplex."""
    try:
        w = tuple(float(x) for x in w)
    except (TypeError, ValueError):
        raise UserError(f"{key}={w!r}: expected {objectives} numbers") from None
    if len(w) != objectives:
        raise UserError(f"{key}={w}: {len(w)} numbers for {objectives} objectives; give one for each")
    if not all(x >= 0 for x in w) or not abs(sum(w) - 1) < 1e-5:
        raise UserError(f"{key}={w} is off the simplex: expected numbers from 0 on whose sum is 1")
    return w


@dataclasses.dataclass(frozen=True)
class Conditions:
    """w ~ Dirichlet(alpha), or always `preference`, and beta.

    exponent: how beta is drawn. constant: always exponents[0]; uniform, loguniform: between the two; integers: from
    the one to the other; gamma: of that mean and standard deviation. A constant condition is not encoded."""

    objectives: int
    alpha: float = 1.0
    preference: tuple[float, ...] = ()
    exponent: str = "constant"
    exponents: tuple[float, float] = (8.0, 8.0)
    preference_bins: int = 16
    exponent_bins: int = 32
    encoding: str = "thermometer"

    def __post_init__(self):
        if self.preference:
            checked_preference(self.preference, self.objectives)
        if not self.alpha > 0:
            raise UserError(f"task.alpha={self.alpha}: expected a number above 0")
        if self.exponent not in EXPONENTS:
            raise UserError(f"task.exponent={self.exponent!r}: expected {', '.join(EXPONENTS)}")
        if len(self.exponents) != 2 or not all(0 < x < np.inf for x in self.exponents):
            raise UserError(f"task.exponents={self.exponents}: expected two numbers above 0")
        if self.exponent not in ("constant", "gamma") and not self.exponents[0] < self.exponents[1]:
            raise UserError(f"task.exponents={self.exponents}: expected the smaller one first")
        for key in ("preference_bins", "exponent_bins"):
            if getattr(self, key) < 2:
                raise UserError(f"task.{key}={getattr(self, key)}: a thermometer needs at least 2 bins")
        if self.encoding not in ENCODINGS:
            raise UserError(f"task.encoding={self.encoding!r}: expected {' or '.join(ENCODINGS)}")

    def sample(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(w float32 [d], beta float32 []) by one key."""
        keys, (first, second) = jax.random.split(key), self.exponents
        if self.preference or self.objectives == 1:
            w = jnp.array(self.preference or (1.0,))
        else:
            w = jax.random.dirichlet(keys[0], jnp.full(self.objectives, self.alpha))
        if self.exponent == "constant":
            beta = jnp.float32(first)
        elif self.exponent == "uniform":
            beta = jax.random.uniform(keys[1], (), minval=first, maxval=second)
        elif self.exponent == "loguniform":
            beta = jnp.exp(jax.random.uniform(keys[1], (), minval=np.log(first), maxval=np.log(second)))
        elif self.exponent == "integers":
            beta = jax.random.randint(keys[1], (), round(first), round(second) + 1).astype(jnp.float32)
        else:
            shape = (first / second) ** 2
            beta = jnp.maximum(jax.random.gamma(keys[1], shape) * first / shape, 1e-3)
        return w, beta

    @property
    def width(self) -> int:
        """The length of `encode`, at least 1."""
        return jax.eval_shape(self.encode, jnp.zeros(self.objectives), jnp.float32(1)).shape[0]

    def encode(self, w: jax.Array, beta: jax.Array) -> jax.Array:
        """(w [d], beta []) -> float32 [width]."""
        low, high = self._range()
        parts = []
        if self.encoding == "plain":
            parts += [] if self.preference else [w]
            parts += [] if self.exponent == "constant" else [(beta[None] - low) / (high - low)]
        else:
            parts += [] if self.preference else [thermometer(w, self.preference_bins, 0, 1).reshape(-1)]
            parts += [] if self.exponent == "constant" else [thermometer(beta, self.exponent_bins, low, high)]
        return jnp.concatenate(parts or [jnp.ones(1)])

    @property
    def largest(self) -> float:
        """The beta of evaluations: the largest that is drawn; gamma's mean."""
        return self.exponents[0] if self.exponent in ("constant", "gamma") else self.exponents[1]

    def _range(self) -> tuple[float, float]:
        """Of beta in its encoding; what is above it, as one in forty of gamma, is seen as the end."""
        first, second = self.exponents
        return (0.0, first + 2 * second) if self.exponent == "gamma" else (0.0, second)
