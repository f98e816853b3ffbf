"""Commands of the project as a user starts them."""

import subprocess
import sys

from paths import ROOT


def python(*arguments, cwd=ROOT):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=cwd)
