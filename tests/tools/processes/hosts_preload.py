"""What hosts_tools imports once for all its processes."""

import sys

HERE = __file__.rpartition("/")[0]
sys.path[:0] = [HERE, HERE.rpartition("/")[0]]  # the other files here and above

from rxrx_jax import main  # noqa: E402, F401
