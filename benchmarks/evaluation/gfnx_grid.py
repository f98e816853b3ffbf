"""A step of gfnx on a grid, for `generate.py --gfnx=PYTHON`, which runs this file in gfnx's own environment:
`gfnx_grid.py SIDE MINIBATCH WIDTH STOP_BIAS ROUNDS STEPS`, milliseconds of processor time on the last line.

gfnx samples (`forward_rollout`); trajectory balance with a uniform P_B and Adam follow, with the network's logits
computed once more for the gradient, as its own examples do, all in one compiled program. Its policy has no condition,
its log Z is a number, and its reward is its own: less than what it is compared with computes.
"""

import json
import sys
import time

import gfnx
import jax
import jax.numpy as jnp
import optax


def main(side: int, minibatch: int, width: int, stop_bias: float, rounds: int, steps: int) -> float:
    env = gfnx.HypergridEnvironment(gfnx.EasyHypergridRewardModule(), dim=2, side=side)
    env_params = env.init(jax.random.key(0))
    sizes = (2 * side, width, width, 3)
    layers = [
        {"kernel": jax.random.normal(key, (a, b)) * (a**-0.5 if b > 3 else 0), "bias": jnp.zeros(b)}
        for key, a, b in zip(jax.random.split(jax.random.key(1), 3), sizes, sizes[1:])
    ]
    layers[-1]["bias"] = jnp.array([0.0, 0.0, stop_bias])
    params = {"layers": layers, "log_z": jnp.zeros(())}
    optimiser = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(2e-3))

    def logits(params, x):
        for i, layer in enumerate(params["layers"]):
            x = (x if i == 0 else jax.nn.leaky_relu(x)) @ layer["kernel"] + layer["bias"]
        return x

    def policy(key, observed, params):
        del key
        found = logits(params, observed)
        return found, {"forward_logits": found, "backward_logits": jnp.zeros((len(observed), 2))}

    def loss(params, paths):
        again = {"forward_logits": logits(params, paths.obs)}
        paths = paths.replace(info=paths.info | again)
        forward, backward = gfnx.utils.forward_trajectory_log_probs(env, paths, env_params)
        reward = jnp.where(paths.pad, 0.0, paths.log_gfn_reward).sum(1)
        return jnp.square(params["log_z"] + forward - backward - reward).mean()

    @jax.jit
    def step(params, state, key):
        paths, _ = gfnx.utils.forward_rollout(key, minibatch, policy, params, env, env_params)
        value, gradients = jax.value_and_grad(loss)(params, paths)
        updates, state = optimiser.update(gradients, state)
        return optax.apply_updates(params, updates), state, value

    state, best, key = optimiser.init(params), float("inf"), jax.random.key(2)
    for number in range(1 + rounds):
        start = time.process_time()
        for i in range(steps if number else 1):
            params, state, value = step(params, state, jax.random.fold_in(key, number * steps + i))
        jax.block_until_ready(value)
        assert jnp.isfinite(value)
        if number:
            best = min(best, (time.process_time() - start) / steps)
    return 1e3 * best


if __name__ == "__main__":
    side, minibatch, width, stop_bias, rounds, steps = sys.argv[1:]
    found = main(int(side), int(minibatch), int(width), float(stop_bias), int(rounds), int(steps))
    print(json.dumps({"ms": round(found, 2), "gfnx_jax": jax.__version__}))
