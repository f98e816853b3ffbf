"""Where the repository and the stored reference values are."""

import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "tests" / "reference" / "stored"
