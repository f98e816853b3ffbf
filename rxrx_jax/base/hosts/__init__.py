"""Hosts of one run: how they find each other, agree, fail together, and exit when one is lost."""

import contextlib
import json
import sys
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from rxrx_jax.base.config import flatten
from rxrx_jax.base.errors import UserError, to_the_user
from rxrx_jax.base.hosts.arrival import join, part
from rxrx_jax.base.hosts.board import pin, pinned
from rxrx_jax.base.hosts.departure import AGAIN, STATUS, before_exit, go_last, is_away, is_lost, leaving

__all__ = [
    "AGAIN",
    "STATUS",
    "before_exit",
    "go_last",
    "check_equal_across_hosts",
    "exchange",
    "is_away",
    "is_lost",
    "join",
    "leaving",
    "on_all_hosts",
    "on_any",
    "on_first_host",
    "part",
    "pin",
    "pinned",
    "say",
]


def say(line: str) -> None:
    """One line on stderr, from the first host."""
    if jax.process_index() == 0:
        print(line, file=sys.stderr, flush=True)


def exchange(text: str) -> list[str]:
    """The text of every host, in order; all must call it."""
    if jax.process_count() == 1:
        return [text]
    mine = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array([len(mine)])).ravel()
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: len(mine)] = mine
    everyone = multihost_utils.process_allgather(padded)
    return [everyone[i, :n].tobytes().decode() for i, n in enumerate(lengths)]


def on_any(flag: bool) -> bool:
    """Whether a flag is set on any host; all must call it."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(flag)).any())


def on_all_hosts(function: Callable):
    """function()'s result on this host. When it raises on any host what the user can fix, UserError is raised on all,
    naming the host, so that none waits for one that has stopped; all must call it."""
    result, error = None, ""
    try:
        result = function()
    except (UserError, OSError) as e:
        error = to_the_user(e)
        if error is None or jax.process_count() == 1:
            raise
    errors = exchange(error)
    for i, error in enumerate(errors):
        if error:
            raise UserError(error if len(set(errors)) == 1 else f"host {i}: {error}")
    return result


def on_first_host(function: Callable):
    """What function() gives on the first host (anything that JSON can hold), on all of them; it runs there alone. What
    the user can fix there is raised as UserError on all; all must call it."""
    found, error = None, ""
    if jax.process_index() == 0:
        try:
            found = function()
        except (UserError, OSError) as e:
            error = to_the_user(e)
            if error is None or jax.process_count() == 1:
                raise
    found, error = json.loads(exchange(json.dumps([found, error]))[0])
    if error:
        raise UserError(error)
    return found


def check_equal_across_hosts(facts: dict[str, str]) -> None:
    """Raises UserError on every host when a fact is not the same on all of them; all must call it. The text of a fact
    may be JSON of a nested dict, of which the key that differs is named."""
    everyone = [json.loads(text) for text in exchange(json.dumps(facts))]
    for name in facts:
        for i, other in enumerate(everyone):
            if other[name] != everyone[0][name]:
                raise UserError(
                    f"host {i} has another {name} than host 0: {_difference(everyone[0][name], other[name])}; "
                    "start all hosts with the same command, code and data"
                )


def _difference(one: str, other: str) -> str:
    """The first key in which two JSON objects differ, else both texts, cut short."""
    with contextlib.suppress(ValueError, AttributeError):
        one, other = flatten(json.loads(one)), flatten(json.loads(other))
        key = next(k for k in sorted(one.keys() | other.keys()) if one.get(k) != other.get(k))
        return f"{key} is {other.get(key)!r}, not {one.get(key)!r}"
    return f"{other[:16]}, not {one[:16]}"
