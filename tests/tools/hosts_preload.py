"""What hosts_tools imports once for all its processes."""

import sys

sys.path.insert(0, __file__.rpartition("/")[0])  # the other files here

from rxrx_jax import main  # noqa: E402, F401
