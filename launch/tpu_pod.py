"""A slice of Cloud TPUs, or several, as a queued resource of gcloud:

python -m launch.tpu_pod --zone=us-west4-a --type=v5litepod-256 --runtime=v2-alpha-tpuv5-lite --spot \\
    --workdir=gs://BUCKET/RUN -- --config=mae_vit.py:rxrx3,variant=L/8

Waits for the slice, copies the code of a commit to all its hosts, trains, follows the first host's log, starts again
after a preemption, and deletes the slice in the end. With --slices=N there are N of them, over which the run is
data-parallel.
"""

import argparse
import contextlib
import shlex
import sys

from launch import common, remote
from rxrx_jax.base import command
from rxrx_jax.base.errors import UserError

BRING_UP = ("create", "wait", "pack", "copy", "install")
# One of several slices may have come back without the code, while the others kept it.
BRING_UP_AGAIN = ("wait", "reach", "pack", "copy", "install")
LOG_SECONDS = 60  # between copies of a host's log to the workdir


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m launch.tpu_pod", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--zone", required=True)
    parser.add_argument("--type", required=True, help="accelerator type: v5litepod-256, v6e-64, v5p-128")
    parser.add_argument("--slices", type=int, default=1, help="of that type")
    parser.add_argument("--runtime", required=True, help="v2-alpha-tpuv5-lite, v2-alpha-tpuv6e, v2-alpha-tpuv5")
    parser.add_argument("--project", help="default gcloud's")
    parser.add_argument("--name", help="of the queued resource and its slice; default from the workdir")
    parser.add_argument("--spot", action="store_true", help="cheaper, and may be preempted")
    parser.add_argument("--restarts", type=int, default=20, help="how often a lost or preempted run is started again")
    parser.add_argument("--prepare", metavar="COMMAND", help="run on every host before training: mounts the datasets")
    parser.add_argument("--keep", action="store_true", help="do not delete the slice in the end")
    common.add_commit(parser)
    options, trainer = common.parse(parser, argv)
    if not options.workdir.startswith("gs://"):
        raise UserError(f"--workdir={options.workdir}: pass gs://BUCKET/RUN; all hosts write there, and slices vanish")
    if options.slices < 1:
        raise UserError(f"--slices={options.slices}: expected 1 or more")
    plan = steps(options, trainer)
    if options.dry_run:
        common.show(plan.values())
        return 0
    signals = common.catch_signals()
    try:
        return train(plan, options.restarts, signals)
    finally:
        if not options.keep:
            with contextlib.suppress(common.Stopped):
                common.run(plan["delete"], signals)


def train(plan: dict[str, common.Step], restarts: int, signals: list[int]) -> int:
    """Runs to the end, on as many slices as it takes. Returns its exit code; raises Stopped before it has begun."""
    several = "reach" in plan
    here = begun = False  # whether the slice is there, with the code; whether the run was started
    for left in range(restarts, -1, -1):
        bring_up = (BRING_UP_AGAIN if several else ()) if here else BRING_UP
        for name in (*bring_up, "start"):
            if code := common.run(plan[name], signals):
                break
        else:
            begun = True
            try:
                code = follow(plan, signals)
            except common.Stopped:
                common.run(plan["stop"], signals)
                code = common.run(plan["follow"], signals)
                return 0 if code == common.UNFINISHED else code  # stopped after a checkpoint, as was asked for
            if code == 0:
                return 0
            name = "follow"
        here = common.run(plan["alive"], signals) == 0
        if here and name != "follow" and not (several and begun) or name == "create":
            raise UserError(f"{plan[name].why}: its command ended with code {code}; its output says why")
        if here and common.run(plan["ask"], signals) == 0:
            return common.FIX
        if here and name == "follow" and not common.helped_by_restart(code):
            return code
        if left:
            common.say(f"the run was {f'lost (code {code})' if here else 'preempted'}: starting again, {left} left")
            common.run(plan["kill" if here else "delete"], signals)
    return common.AGAIN


def follow(plan: dict[str, common.Step], signals: list[int]) -> int:
    """The exit code of the run on the first host, through lost connections while the slice is there."""
    while (code := common.run(plan["follow"], signals)) == common.LOST_CONNECTION:
        if common.run(plan["alive"], signals):
            break
    return code


def steps(options: argparse.Namespace, trainer: list[str]) -> dict[str, common.Step]:
    """Everything that is run, in order of first use."""
    commit = common.resolve_commit(options.commit)
    name = options.name or common.name_of(options.workdir)
    where = f"--zone={shlex.quote(options.zone)}"
    if options.project:
        where += f" --project={shlex.quote(options.project)}"
    resource = f"gcloud compute tpus queued-resources {{}} {name} {where}"

    several = options.slices > 1
    hosts = "gcloud compute tpus queued-resources" if several else "gcloud compute tpus tpu-vm"
    nodes = f"--node-prefix={name} --node-count={options.slices}" if several else f"--node-id={name}"
    everywhere = "--worker=all --node=all" if several else "--worker=all"

    def ssh(text: str, at: str = everywhere) -> str:
        return f"{hosts} ssh {name} {where} --quiet {at} --command={shlex.quote(text)}"

    # In the clone, where nobody else writes; a name in the temporary folder could be another user's link.
    packed = f'"$(git rev-parse --absolute-git-dir)"/rxrx_jax-{commit}.tar.gz'
    archive, prepare = f"rxrx_jax-{commit}.tar.gz", f"\n{options.prepare}" if options.prepare else ""
    # jax's own port on TPUs, 8482 since 0.8.1, is not among those that Google Cloud opens between the hosts of a
    # slice (8470, 8471, 8474, 8476, 11211): the hosts would wait for each other silently.
    environment = {"JAX_COORDINATOR_PORT": "8476"} | common.environment()
    line = ["-m", "launch.worker", *common.on_slices(trainer)]
    # A slice is deleted with its disks, a preempted one without a word, so that its logs go to the workdir meanwhile.
    # The next one's hosts have the same names.
    folder = shlex.quote(options.workdir.rstrip("/"))
    log = f'log={folder}/hosts/"$(hostname)-$(date -u +%Y%m%dT%H%M%S)".log'
    copy_log = f'gcloud storage cp ../{name}.log "$log" > /dev/null 2>&1'
    begin = f"{log}; {{ while sleep {LOG_SECONDS}; do {copy_log}; done; }} & copying=$!"
    end = f'kill "$copying" 2> /dev/null; gcloud storage cp ../{name}.log "$log"'
    state = f"state=$({resource.format('describe')} --format='value(state.state)')"
    steps = {
        "create": (
            "request the slice, unless it was requested before",
            f"{resource.format('describe')} > /dev/null 2>&1 || "
            + resource.format("create")
            + f" {nodes} --accelerator-type={shlex.quote(options.type)}"
            + f" --runtime-version={shlex.quote(options.runtime)}"
            + (" --spot" if options.spot else ""),
        ),
        "wait": (
            "wait until it is there",
            f'until {state} && [ "$state" = ACTIVE ]; do\n'
            '  case "$state" in FAILED | SUSPENDING | SUSPENDED) echo "the slice is $state" >&2; exit 1 ;; esac\n'
            "  sleep 30\ndone",
        ),
        "pack": (
            f"pack the code of commit {commit[:12]}",
            f"git archive --format=tar.gz --output={packed} {commit}",
        ),
        "copy": (
            "copy it to all hosts",
            f"{hosts} scp {packed} {name}:{archive} {where} --quiet {everywhere} && rm -f {packed}",
        ),
        "install": (
            "install it on all hosts",
            ssh(f"({remote.unpack(commit)}) < {archive}\n{remote.install(commit, 'tpu')}{prepare}"),
        ),
        "start": (
            "start the run on all hosts, unless it is running",
            ssh(remote.start(commit, name, line, environment, begin, end)),
        ),
        "follow": (
            "follow the first host's log until it ends",
            ssh(remote.follow(name), everywhere.replace("all", "0")),
        ),
        "alive": (
            "see whether the slice is still there",
            f'for _ in {{1..20}}; do {state} && break; sleep 30; done; [ "$state" = ACTIVE ]',
        ),
        "ask": (
            "when the first host failed: see whether any host says that the user must fix something (code 2)",
            ssh(f'cd rxrx_jax; tail -n 5 {name}.log; echo "exit code $(cat {name}.code)"')
            + " | tee /dev/stderr | grep -qx 'exit code 2'",
        ),
        "kill": ("before starting again on the same slice: end what is left", ssh(remote.kill(name))),
        "stop": ("on Ctrl-C: ask for a checkpoint and the end", ssh(remote.signal(name, "TERM"))),
        "delete": (
            "in the end, and after a preemption: delete the slice",
            resource.format("delete") + " --force --quiet",
        ),
    }
    if several:
        reach = f"for _ in {{1..40}}; do {ssh('true')} && exit 0; sleep 30; done; exit 1"
        steps["reach"] = "after a lost slice: wait until the hosts of all answer", reach
    return {name: common.Step(*step) for name, step in steps.items()}


if __name__ == "__main__":
    sys.exit(command.run(main))
