"""Nodes of a SLURM cluster:

python -m launch.slurm --nodes=8 --gpus=8 --time=24:00:00 --sbatch=--partition=gpu --workdir=/shared/RUN \\
    -- --config=mae_vit.py:rxrx3,variant=L/8

Copies the code of a commit to the shared file system, submits a job that puts itself back in the queue until the run is
finished, and follows the first task's log. Ctrl-C stops the run after a checkpoint; closing the terminal does not.
"""

import argparse
import pathlib
import shlex
import signal
import sys

from launch import common
from rxrx_jax.base import command
from rxrx_jax.base.errors import UserError

BODY = r"""
# TERM, 90 s before the time limit or in a preemption, goes to the tasks alone: they checkpoint, the first exits with
# 85, and the job goes back in the queue. USR1 comes from the user and ends the run: scancel --batch --signal=USR1 JOB
stopped=
trap 'stopped=yes; scancel --signal=TERM "$SLURM_JOB_ID"' USR1

cd "$folder/code/$commit" || exit 2
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # srun does not take it over by itself
srun --kill-on-bad-exit=1 --output="$folder/hosts/%t.log" --open-mode=append "$@" 2> "$folder/srun.log" &
step=$!
while kill -0 "$step" 2> /dev/null; do wait "$step"; done # the trap interrupts it
wait "$step"
code=$?
cat "$folder/srun.log"

# The first task to exit has the others killed, and srun exits with the highest code of all: what the tasks said counts.
said=$(sed -n 's/.*: Exited with exit code \([0-9]*\)$/\1/p' "$folder/srun.log")
if grep -qx 2 <<< "$said"; then
  code=2
elif grep -qx 1 <<< "$said"; then
  code=1
elif [ -n "$stopped" ]; then
  grep -qx 85 <<< "$said" && code=0 # a checkpoint and the end, as asked for
elif [ "$code" -eq 75 ] || [ "$code" -eq 85 ] || [ "$code" -ge 128 ]; then
  [ "${SLURM_RESTART_COUNT:-0}" -lt "$restarts" ] && scontrol requeue "$SLURM_JOB_ID" && exit 0
fi
echo "$code" > "$folder/slurm.code"
exit "$code"
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m launch.slurm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=0, help="per node; each gets a task of its own")
    parser.add_argument("--tasks", type=int, default=1, help="per node, without GPUs")
    parser.add_argument("--time", default="24:00:00", help="limit, after which the job goes back in the queue")
    parser.add_argument("--sbatch", action="append", default=[], metavar="OPTION", help="for sbatch, may be repeated")
    parser.add_argument("--name", help="of the job; default from the workdir")
    parser.add_argument("--restarts", type=int, default=100, help="how often the job goes back in the queue")
    parser.add_argument("--python", default=sys.executable, help="on the nodes, with the project's dependencies")
    common.add_commit(parser)
    options, trainer = common.parse(parser, argv)
    if any("\n" in value for value in (options.time, *options.sbatch)):
        raise UserError("--time and --sbatch go into the script by lines: leave line breaks out of them")
    if not common.is_remote(options.workdir) and not pathlib.Path(options.workdir).is_absolute():
        raise UserError(f"--workdir={options.workdir}: pass a path from / on a file system that all nodes share")
    plan = steps(options, trainer)
    if options.dry_run:
        common.show(plan.values())
        return 0
    signals = common.catch_signals()
    for name in ("copy", "write", "submit"):
        common.must(plan[name], signals)
    try:
        return common.run(plan["follow"], signals)
    except common.Stopped as stopped:
        if stopped.number == signal.SIGHUP:  # the terminal was closed, which leaves the job alone
            raise
        common.run(plan["stop"], signals)
        return common.run(plan["follow"], signals)


def steps(options: argparse.Namespace, trainer: list[str]) -> dict[str, common.Step]:
    """Everything that is run, in order."""
    commit = common.resolve_commit(options.commit)
    folder = common.folder_of(options.workdir).absolute()
    q = {
        part: shlex.quote(str(folder / part))
        for part in (f"code/{commit}", "hosts", "hosts/0.log", "slurm.sh", "slurm.job", "slurm.code")
    }
    code, job = q[f"code/{commit}"], f'"$(cat {q["slurm.job"]})"'
    return {
        "copy": common.Step(
            f"copy the code of commit {commit[:12]}",
            f"mkdir -p {code} {q['hosts']} && git archive {commit} | tar -x -C {code}",
        ),
        "write": common.Step(
            "write the script", f"cat > {q['slurm.sh']} {common.heredoc(script(options, trainer, folder, commit))}"
        ),
        "submit": common.Step(
            "submit it",
            f"rm -f {q['slurm.code']}; touch {q['hosts/0.log']}\n"
            f"sbatch --parsable {q['slurm.sh']} | cut -d ';' -f 1 > {q['slurm.job']} && test -s {q['slurm.job']}",
        ),
        "follow": common.Step(
            "follow the first task's log until the job has left the queue",
            f"job={job}\n"
            f"tail -n 0 -F {q['hosts/0.log']} 2> /dev/null &\n"
            # Where squeue fails the controller is away for a while, which does not end jobs.
            'until jobs=$(squeue --me --noheader --format=%A) && ! grep -qx "$job" <<< "$jobs"; do sleep 5; done\n'
            "kill $!\n"
            f'exit "$(cat {q["slurm.code"]} 2> /dev/null || echo 143)"',
        ),
        "stop": common.Step(
            "on Ctrl-C: ask for a checkpoint and the end, or take the job out of the queue",
            f"scancel --quiet --state=PENDING {job}\nscancel --quiet --batch --signal=USR1 {job}",
        ),
    }


def script(options: argparse.Namespace, trainer: list[str], folder: pathlib.Path, commit: str) -> str:
    """The batch script: what is asked of sbatch, then the values that BODY uses."""
    # jax takes SLURM_LOCALID for the one GPU of its process, out of all of the node: so one task per GPU, and no
    # --gpus-per-task or --gpu-bind, with which every task would see a single GPU, of number 0.
    gpus = [f"--gpus-per-node={options.gpus}"] if options.gpus else []
    directives = [
        f"--job-name={shlex.quote(options.name or common.name_of(options.workdir))}",
        f"--nodes={options.nodes}",
        f"--ntasks-per-node={options.gpus or options.tasks}",
        *gpus,
        f"--time={options.time}",
        "--requeue",
        "--signal=TERM@90",
        f"--output={shlex.quote(str(folder / 'slurm.log'))}",
        "--open-mode=append",
        *options.sbatch,
    ]
    values = [
        f"folder={shlex.quote(str(folder))}",
        f"commit={commit}",
        f"restarts={options.restarts}",
        f"set -- {shlex.join([options.python, '-m', 'launch.worker', *trainer])}",
    ]
    return "\n".join(["#!/bin/bash", *(f"#SBATCH {d}" for d in directives), "", *values, BODY])


if __name__ == "__main__":
    sys.exit(command.run(main))
