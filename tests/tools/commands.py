"""Commands of the project as a user starts them."""

import os
import subprocess
import sys

from paths import ROOT


def python(*arguments, cwd=ROOT):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # this tree, whichever is installed
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, env=environment)
