"""What the launchers share: arguments, exit codes, the commit whose code runs, and steps that are printed or run."""

import argparse
import dataclasses
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable

from etils import epath

from rxrx_jax.base import command
from rxrx_jax.base.errors import UserError

FIX, AGAIN = 2, 75  # what rxrx_jax.main exits with: the user must fix something; start again
UNFINISHED = 85  # what launch.worker returns instead of 0 when a checkpoint was written and the run is not finished
TRAINER, EMBED = "rxrx_jax.main", ["embed"]  # the first argument after -- that asks for rxrx_jax.embed
LOST_CONNECTION = 255  # what ssh exits with
ROOT = pathlib.Path(__file__).resolve().parent.parent  # of the clone; an installed package has none
POLL_SECONDS = 0.05


@dataclasses.dataclass(frozen=True)
class Step:
    """One bash command of a launcher and what it is for."""

    why: str
    command: str


class Stopped(SystemExit):
    """The launcher got a signal, number, that asks it to stop; it exits with a shell's code for SIGTERM."""

    def __init__(self, number: int):
        super().__init__(128 + signal.SIGTERM)
        self.number = number


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The launcher's own options (with `workdir`) and the trainer's arguments, which follow `--`. --workdir may stand
    on either side. UserError for a mistake in the trainer's config, which is told before anything else is asked for,
    and when the trainer's arguments name no --config or no side names the workdir."""
    argv = list(sys.argv[1:] if argv is None else argv)
    cut = argv.index("--") if "--" in argv else len(argv)
    values = {} if {"-h", "--help"} & {*argv[:cut]} else _config(argv[:cut], argv[cut + 1 :])
    parser.add_argument("--workdir", help="where the run is written, passed on to the trainer")
    parser.add_argument("--dry-run", action="store_true", help="print what would run, and run nothing")
    options, trainer = parser.parse_args(argv[:cut]), argv[cut + 1 :]
    if options.workdir:
        trainer = [*trainer, f"--workdir={options.workdir}"]
    given = [a.partition("=")[2] for a in trainer if a.startswith("--workdir=")]
    if not given or not given[-1]:
        raise UserError("pass --workdir=DIR: a run that is started again continues in it")
    if trainer[:1] != EMBED and not any(a.startswith("--config=") for a in trainer):
        raise UserError("pass the trainer's arguments after --, as in: -- --config=mae_vit.py")
    options.workdir = given[-1] if is_remote(given[-1]) else os.path.expanduser(given[-1])
    trainer = [f"--workdir={options.workdir}" if a.startswith("--workdir=") else a for a in trainer]
    if "\n" in "".join([options.workdir, getattr(options, "name", None) or ""]):
        raise UserError("--workdir and --name go into scripts by lines: leave line breaks out of them")
    if trainer[:1] == EMBED:
        from rxrx_jax import embed

        embed.make_parser().parse_args(trainer[1:])
    if options.dry_run and values:
        from rxrx_jax import main

        print(f"# {main.figures(values)}\n", flush=True)
    return options, trainer


def _config(own: list[str], trainer: list[str]) -> dict:
    """The config that the trainer's arguments name, resolved; {} if they name none, or for another program."""
    module = argparse.ArgumentParser(add_help=False)
    module.add_argument("--module", default=TRAINER)
    if module.parse_known_args(own)[0].module != TRAINER or not any(a.startswith("--config=") for a in trainer):
        return {}
    from rxrx_jax.base import config_flag  # after --help has been answered

    return config_flag.values(trainer)


def program(trainer: list[str], module: str = TRAINER) -> tuple[str, list[str]]:
    """The module that runs on each host, and its arguments: what follows `embed`, or all for `module`."""
    return ("rxrx_jax.embed", trainer[1:]) if trainer[:1] == EMBED else (module, trainer)


def on_slices(trainer: list[str]) -> list[str]:
    """The arguments on hosts of TPU slices, which look for each other."""
    return [*EMBED, "--multihost", *trainer[1:]] if trainer[:1] == EMBED else ["--multihost", *trainer]


# Exit codes


def helped_by_restart(code: int) -> bool:
    """Whether a process that ended with `code` was lost or preempted (a signal, a hanging host) rather than wrong."""
    return code in (AGAIN, UNFINISHED) or code < 0 or code >= 128


def finished(workdir: str) -> bool:
    """Whether the last line of the run's metrics.jsonl says done. The workdir may be an object store's. A damaged file
    says nothing: the trainer, started again, reports it."""
    try:
        lines = (epath.Path(workdir) / "metrics.jsonl").read_bytes().splitlines()
        last = json.loads(lines[-1]) if lines else None
        return isinstance(last, dict) and last.get("done") is True
    except (FileNotFoundError, IsADirectoryError, ValueError, RecursionError):  # not started, or cut off within a line
        return False


def see_through(once: Callable[[], int], restarts: int, workdir: str, stopped: Callable[[], bool]) -> int:
    """Calls once(), which trains and returns an exit code, again after a loss or a preemption, at most `restarts` times
    and not when the user has stopped it. The last exit code."""
    for left in range(restarts, -1, -1):
        code = once()
        preempted = code == 0 and not finished(workdir)
        if stopped() or not left or not (preempted or helped_by_restart(code)):
            break
        say(f"the run {'was preempted' if preempted else f'ended with code {code}'}: starting again, {left} left")
    return code


# The code, the names and the environment of a run


def environment() -> dict[str, str]:
    """Of this environment, what a run on other machines gets too: where compiled programs are kept."""
    return {name: os.environ[name] for name in ("JAX_COMPILATION_CACHE_DIR",) if name in os.environ}


def assignments(environment: dict[str, str]) -> str:
    """The environment as words before a shell command."""
    return "".join(f"{name}={shlex.quote(value)} " for name, value in environment.items())


def add_commit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--commit", help="whose code runs; default the clone's, which then must hold no changes")


def resolve_commit(commit: str | None) -> str:
    """The full hash. UserError when the clone holds changes that no commit has, unless a commit is named, and where
    this is not a clone."""
    if not (ROOT / ".git").exists():
        raise UserError(
            "other machines get the code of a commit, and this is an installed package: clone the repository, "
            "`pip install -e .` there, and start the launcher in the clone (launch.local and launch.host work here too)"
        )
    if commit and re.fullmatch("[0-9a-f]{40}", commit):
        return commit
    if not commit and git("status", "--porcelain"):
        raise UserError(
            "the clone has changes that are not committed: commit them, or name --commit=HEAD to go without"
        )
    return git("rev-parse", "--verify", f"{commit or 'HEAD'}^{{commit}}")


def git(*arguments: str) -> str:
    result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    if result.returncode:
        raise UserError(f"git {' '.join(arguments)}: {result.stderr.strip()}")
    return result.stdout.strip()


def name_of(workdir: str) -> str:
    """The last part of the workdir as a name that every cluster takes: lower case, digits, hyphens."""
    name = re.sub("[^a-z0-9]+", "-", workdir.rstrip("/").rpartition("/")[2].lower()).strip("-")
    return name if name[:1].isalpha() else f"run-{name}"


def is_remote(workdir: str) -> bool:
    return "://" in workdir


def folder_of(workdir: str) -> pathlib.Path:
    """Where logs and scripts are kept on this machine: the workdir, or for one in an object store runs/NAME."""
    return pathlib.Path("runs") / name_of(workdir) if is_remote(workdir) else pathlib.Path(workdir)


# Steps


def heredoc(text: str) -> str:
    """Shell words that give a text, which ends in a line break, to a command as its input, whatever lines it has."""
    end = "END"
    while f"\n{end}\n" in f"\n{text}":
        end += "_"
    return f"<<'{end}'\n{text}{end}"


def show(steps: Iterable[Step]) -> None:
    """Prints the steps as a shell script."""
    print("\n\n".join(f"# {step.why}\n{step.command}" for step in steps))


def catch_signals() -> list[int]:
    """A list that grows by every signal to stop that this process gets from now on."""
    received = []
    for number in command.stop_signals():
        signal.signal(number, lambda n, _: received.append(n))
    return received


def run(step: Step, signals: list[int]) -> int:
    """Runs a step to its end and returns its exit code. Takes a signal off the list by ending the step: Stopped."""
    say(step.why)
    # In a session of its own, because Ctrl-C would otherwise end whatever is to stop or clean up the run.
    process = subprocess.Popen(["bash", "-c", step.command], stdin=subprocess.DEVNULL, start_new_session=True, cwd=ROOT)
    while process.poll() is None:
        if signals:
            number = signals.pop()
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise Stopped(number)
        time.sleep(POLL_SECONDS)
    return process.returncode


def must(step: Step, signals: list[int]) -> None:
    """Runs a step that may not fail. UserError when it does."""
    if code := run(step, signals):
        raise UserError(f"{step.why}: its command ended with code {code}; its output says why")


def say(line: str) -> None:
    print(f"launch: {line}", file=sys.stderr, flush=True)
