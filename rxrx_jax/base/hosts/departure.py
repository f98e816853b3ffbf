"""How a host leaves a run of several, which wait for it, and what the others then say."""

import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable

import jax

from rxrx_jax.base.command import FIX, INTERRUPTED, INTERRUPTED_LINE
from rxrx_jax.base.errors import UserError, to_the_user

AGAIN = 75  # exit code: a host hangs or is lost, start again (EX_TEMPFAIL)
# jax's errors when another host no longer responds: gloo (CPU), NCCL (GPU), the coordination service.
LOST = (
    "gloo",
    "nccl",
    "connection",
    "unavailable",
    "deadline_exceeded",
    "aborted",
    "heartbeat",
    "coordination",
    "halted",
)
# What an object store's clients raise when it does not respond after all their retries: modules of
# exceptions, HTTP codes, status words.
NETWORK = ("aiohttp", "requests")
BUSY = ("408", "429", "500", "502", "503", "504")
STATUS = ("UNAVAILABLE", "DEADLINE_EXCEEDED")
# Where a host that ends by itself leaves, in the coordination service, what the user can fix, and where each says that
# it is gone; how long the others have to raise the same by themselves, and it waits for them.
FAILED, GONE, TOGETHER_SECONDS, LEAVE_SECONDS = "rxrx_jax/failed", "rxrx_jax/gone", 1.0, 10.0
DAY = 24 * 60 * 60 * 1000  # in ms

_ending = threading.Lock()  # of the thread that says why this process ends, and ends it
_before_exit: list[Callable[[BaseException], None]] = []


@contextlib.contextmanager
def leaving(*passing: type[BaseException]):
    """Around the work of a host. What one of several raises ends the process at once, with one line where the user or a
    restart can fix it: Python's usual exit waits for the other hosts, which wait for this one. Only what all hosts
    raise together may exit that way: the types `passing`. With one host only unresponsive storage is reported so."""
    try:
        yield
    except passing:
        raise
    except BaseException as e:
        several = jax.distributed.is_initialized() and jax.process_count() > 1
        away = is_away(e)
        if not several and not away:
            raise
        code, line = 1, None
        if isinstance(e, SystemExit):
            code = e.code if isinstance(e.code, int) else bool(e.code)
        elif isinstance(e, KeyboardInterrupt):
            code, line = INTERRUPTED, INTERRUPTED_LINE
        elif to_the_user(e) is not None:
            code, line = FIX, f"error: {to_the_user(e)}"
        elif away or is_lost(e):
            what = "the storage does not respond" if away else "another host is lost"
            again = "start all hosts again" if several else "start again"
            why = str(e).partition("\n")[0][:200]
            code, line = AGAIN, f"error: {what} ({why}): {again}"
        if several:
            _ending.acquire()  # and never let go: whoever has it ends the process
        if not isinstance(e, SystemExit) and code not in (FIX, INTERRUPTED):
            traceback.print_exc()
        if line:
            print(line, file=sys.stderr)
        if not several:
            raise SystemExit(code) from None
        if code == FIX and to_the_user(e):
            _tell(_service(), to_the_user(e))
        _clean_up(e)  # when the others write no more
        os._exit(code)


def _clean_up(error: BaseException) -> None:
    """What Python would do if the process did not end at once."""
    for function in reversed(_before_exit):
        with contextlib.suppress(Exception):
            function(error)
    sys.stdout.flush()
    sys.stderr.flush()


@contextlib.contextmanager
def before_exit(function: Callable[[BaseException], None]):
    """While it lasts, `leaving` calls function(error) before it ends the process at once."""
    _before_exit.append(function)
    try:
        yield
    finally:
        _before_exit.remove(function)


def _service():
    """The coordination service's store of keys, which outlives a collective that hangs."""
    from jax._src import distributed  # jax has no public name for it

    return distributed.global_state.client


def _tell(service, line: str) -> None:
    """Says on all hosts what made this one fail, and waits until they have ended, or are about to with the same: when
    this one is gone they would report a lost host."""
    end = time.monotonic() + LEAVE_SECONDS
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # another host was first
        service.key_value_set(FAILED, f"{jax.process_index()} {line}")
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # one is lost
        for i in range(jax.process_count()):
            service.blocking_key_value_get(f"{FAILED}/{i}", _ms_until(end))
    go_last()


def heed() -> None:
    """Starts a thread that ends this process with what another host has said in `_tell`. Call it on all hosts."""
    threading.Thread(target=_heed, args=(_service(),), name="heed", daemon=True).start()


def _heed(service) -> None:
    while True:
        try:
            host, _, line = service.blocking_key_value_get(FAILED, DAY).partition(" ")
            break
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                return  # the run is over
    time.sleep(TOGETHER_SECONDS)
    alone = _ending.acquire(blocking=False)  # else this host says the same itself
    if alone:
        print(f"error: host {host}: {line}", file=sys.stderr)
        _clean_up(UserError(line))
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        service.key_value_set(f"{FAILED}/{jax.process_index()}", "")
    if alone:
        go_last()
        os._exit(FIX)


def go_last(seconds: float = LEAVE_SECONDS) -> None:
    """Before a host ends at the same time as the others. The first one goes last, or after `seconds`: without the
    service of keys, which it has, jax aborts the others."""
    if not jax.distributed.is_initialized():
        return
    _ending.acquire(blocking=False)  # that the others leave is not an error to report
    service, end = _service(), time.monotonic() + seconds
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # one is lost
        if jax.process_index() > 0:
            service.key_value_set(f"{GONE}/{jax.process_index()}", "")
            return
        for i in range(1, jax.process_count()):
            service.blocking_key_value_get(f"{GONE}/{i}", _ms_until(end))
        time.sleep(TOGETHER_SECONDS)  # from the key to the end of the process


def _ms_until(end: float) -> int:
    return max(int(1000 * (end - time.monotonic())), 1)


def is_lost(error: BaseException) -> bool:
    """Whether an error says that another host does not respond."""
    of_jax = isinstance(error, (jax.errors.JaxRuntimeError, ValueError, RuntimeError))
    return of_jax and any(word in str(error).lower() for word in LOST)


def is_away(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that the storage does not respond for now."""
    if not isinstance(error, Exception) or isinstance(error, (UserError, jax.errors.JaxRuntimeError)):
        return False
    if isinstance(error, (ConnectionError, TimeoutError)) or type(error).__module__.partition(".")[0] in NETWORK:
        return True
    if str(getattr(error, "code", None)) in BUSY:
        return True
    if isinstance(error, ValueError) and any(word in str(error) for word in STATUS):  # tensorstore's
        return True
    return any(is_away(before) for before in {error.__cause__, error.__context__} - {None})
