"""What a cluster starts on each host: the trainer, or an embedding job, in this process.

python -m launch.worker --config=mae_vit.py --workdir=DIR ...
python -m launch.worker embed --checkpoint=WORKDIR --data=rxrx3 --workdir=DIR ...

A cluster takes 0 for the end, but the trainer also exits with 0 when SIGTERM (a preemption, a time limit) made it stop
after a checkpoint. Then the first host exits with 85 instead, so that the cluster starts the run again.
"""

import runpy
import sys

from launch import common


def main(module: str = "rxrx_jax.main") -> int:
    module, sys.argv[1:] = common.program(sys.argv[1:], module)
    workdir = [a.partition("=")[2] for a in sys.argv if a.startswith("--workdir=")][-1]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    if code == 0:
        import jax  # the trainer has joined the other hosts with it

        # The others may look before the first has written its last line.
        if jax.process_index() == 0 and not common.finished(workdir):
            return common.UNFINISHED
    return code


if __name__ == "__main__":
    sys.exit(main())
