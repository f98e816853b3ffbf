"""Random parameters without compiling an initialiser."""

import jax
import numpy as np


def random_variables(init, *args, seed=0, scale=0.3, **kwargs):
    """Arrays like those of `init(key, *args, **kwargs)`, all random: scales and variances of norms around 1,
    the rest around 0, so that no bias and no norm is left out by a comparison."""
    shapes = jax.eval_shape(lambda: init(jax.random.key(0), *args, **kwargs))
    random = np.random.default_rng(seed)

    def draw(path, x):
        name = path[-1].key
        around = 1.0 if name in ("scale", "var") else 0.0
        noise = random.uniform(-1, 1, x.shape) if name == "var" else random.normal(size=x.shape)
        fan = np.sqrt(x.shape[-2]) * scale if name == "kernel" else 1.0
        return (around + scale * noise / fan).astype(x.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)
