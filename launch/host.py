"""One host with several GPUs, this one or one that ssh reaches:

python -m launch.host [--restarts R] [--ssh HOST] --workdir=DIR -- --config=mae_vit.py ...

One process drives all the host's GPUs: jax shards over them, and minibatches are read once for all.
"""

import argparse
import pathlib
import shlex
import signal
import sys

from launch import common, local, remote
from rxrx_jax.base import command
from rxrx_jax.base.errors import UserError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m launch.host", description=__doc__)
    parser.add_argument("--restarts", type=int, default=10, help="how often a lost or preempted run is started again")
    parser.add_argument("--ssh", metavar="HOST", help="run there; connects by keys, asks for nothing")
    parser.add_argument("--extra", default="gpu", help="what pip installs on HOST: gpu, tpu")
    parser.add_argument("--module", default=local.TRAINER, help=argparse.SUPPRESS)
    parser.set_defaults(grace=10)
    common.add_commit(parser)
    options, trainer = common.parse(parser, argv)
    if not options.ssh:
        return local.see_through(lambda: [({}, local.trainer_line(trainer, options.module))], options)

    if not common.is_remote(options.workdir) and not pathlib.Path(options.workdir).is_absolute():
        raise UserError(f"--workdir={options.workdir}: pass a path from / of {options.ssh}, or gs://BUCKET/RUN")
    plan = steps(options, trainer)
    if options.dry_run:
        common.show(plan.values())
        return 0
    signals = common.catch_signals()
    for name in ("copy", "install", "start"):
        common.must(plan[name], signals)
    stopped = False
    while True:
        try:
            code = common.run(plan["follow"], signals)
            if code != common.LOST_CONNECTION:
                return code
            common.run(plan["pause"], signals)
        except common.Stopped as asked:
            if stopped or asked.number == signal.SIGHUP:  # the terminal was closed, which the run outlives
                raise
            stopped = True
            common.run(plan["stop"], signals)


def steps(options: argparse.Namespace, trainer: list[str]) -> dict[str, common.Step]:
    """What is done for a run on another host, in order; `stop` on Ctrl-C, `pause` when the connection was lost."""
    commit, name = common.resolve_commit(options.commit), common.name_of(options.workdir)

    def ssh(text: str) -> str:
        return f"ssh -o BatchMode=yes {shlex.quote(options.ssh)} {shlex.quote(text)}"

    environment = common.environment()
    line = ["-m", "launch.host", f"--restarts={options.restarts}", "--", *trainer]
    return {
        "copy": common.Step(
            f"copy the code of commit {commit[:12]}",
            f"git archive --format=tar.gz {commit} | {ssh(remote.unpack(commit))}",
        ),
        "install": common.Step("install it", ssh(remote.install(commit, options.extra))),
        "start": common.Step("start the run, unless it is running", ssh(remote.start(commit, name, line, environment))),
        "follow": common.Step("follow its log until it ends", ssh(remote.follow(name))),
        "pause": common.Step("when the connection was lost: wait, then follow again", "sleep 10"),
        "stop": common.Step("on Ctrl-C: ask for a checkpoint and the end", ssh(remote.signal(name, "TERM"))),
    }


if __name__ == "__main__":
    sys.exit(command.run(main))
