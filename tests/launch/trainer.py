"""Stands for rxrx_jax.main. --plan=A,B,...: what the first start does, the second, ...

HOST:WHAT has one host do it while the others train on; WHAT alone all hosts. `done` finishes, a number is an exit code,
-N a signal to itself, `train` continues until SIGTERM, which it answers with a checkpoint, `deaf` through SIGTERM too.
"""

import os
import pathlib
import signal
import sys
import time


def figures(values):
    return "what is trained"


def main():
    flags = dict(a[2:].split("=", 1) for a in sys.argv[1:] if "=" in a)
    workdir = pathlib.Path(flags["workdir"])
    workdir.mkdir(parents=True, exist_ok=True)
    me = int(os.environ.get("JAX_PROCESS_ID", os.environ.get("SLURM_PROCID", 0)))
    (workdir / f"pid{me}").write_text(str(os.getpid()))
    with open(workdir / f"starts{me}", "a") as f:
        f.write("x")
    start = len((workdir / f"starts{me}").read_text())
    hosts = int(os.environ.get("JAX_NUM_PROCESSES", os.environ.get("SLURM_NTASKS", 1)))
    plan = flags["plan"].split(",")
    host, _, what = plan[min(start, len(plan)) - 1].rpartition(":")
    if host and int(host) != me:
        what = "train"
    signal.signal(signal.SIGTERM, signal.SIG_IGN if what == "deaf" else lambda *_: (print("checkpoint"), sys.exit(0)))
    print(f"host {me} start {start}: {what}", flush=True)
    while what not in ("train", "deaf") and not all(started(workdir / f"starts{i}", start) for i in range(hosts)):
        time.sleep(0.02)
    if what == "done":
        (workdir / "metrics.jsonl").write_text('{"step": 1}\n{"done": true}\n')
    elif what in ("train", "deaf"):
        time.sleep(60)
        sys.exit(99)
    elif what.startswith("-"):
        os.kill(os.getpid(), int(what[1:]))
        time.sleep(60)
    else:
        sys.exit(int(what))


def started(path, times):
    return path.exists() and len(path.read_text()) >= times


if __name__ == "__main__":
    main()
