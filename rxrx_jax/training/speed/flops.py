"""Floating-point operations of a function, counted in its jaxpr, and what devices can do."""

import math

import jax
from jax.extend import core
from jax.interpreters import partial_eval

# Dense bfloat16 operations per second and chip, without sparsity, by jax's device_kind, as the makers' data sheets say.
PEAK = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA L4": 121e12,
}


def peak() -> float | None:
    """The peak FLOPs per second of this machine's kind of chip; None where it is not in PEAK."""
    return PEAK.get(jax.devices()[0].device_kind)


def count(function, *arguments) -> float:
    """Operations (a multiplication and an addition are two) of the matrix products and convolutions of
    function(*arguments), arrays or ShapeDtypeStructs.

    Everything else, a few per cent in a transformer, is not counted, as is usual for model FLOPs (Chowdhery et al.
    2022, arXiv 2204.02311, appendix B). A scanned body counts as often as it runs, where XLA's own count has it once.
    What rematerialisation recomputes counts too: pass a function without it.
    """
    return of_jaxpr(jax.make_jaxpr(function)(*arguments))


def of_jaxpr(closed) -> float:
    """The same of a jax.extend.core.ClosedJaxpr."""
    needed, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))  # as the compiler does
    return _count(needed)


def _count(jaxpr) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[i] for i in contracted)
        elif name == "conv_general_dilated":
            total += _convolution(equation)
        elif name == "cond":
            total += max(_count(branch.jaxpr) for branch in equation.params["branches"])
        else:
            times = equation.params["length"] if name == "scan" else 1
            total += times * sum(_count(inner) for inner in _inner(equation.params))
    return total


def _convolution(equation) -> float:
    """Each output value is a sum over the kernel's window and input features; a dilated input (the gradient with
    respect to a strided convolution's input) is mostly zeros, which are never multiplied."""
    kernel, out = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
    features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    return 2 * math.prod(out) * math.prod(kernel) / features / math.prod(equation.params["lhs_dilation"])


def _inner(params):
    """The jaxprs among an equation's parameters: of jit, scan, remat, custom derivatives, ..."""
    for value in params.values():
        for one in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(one, core.ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, core.Jaxpr):
                yield one
