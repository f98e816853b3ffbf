"""Stores what TFDS's own command writes for every dataset, in tests/reference/stored/tfds_build.json. It needs an
environment of its own: pip install -e '.[beam]' tensorflow mlcroissant, then

python tests/reference/make_tfds_build.py
"""

import json
import pathlib
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tools" / "builders"), str(HERE.parent / "tools")]

import tfds_cli_tools  # noqa: E402

if __name__ == "__main__":
    found = {}
    for name in tfds_cli_tools.WRITERS:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = tfds_cli_tools.contents(tfds_cli_tools.tfds_build(name, pathlib.Path(folder)))
    tfds_cli_tools.STORED.write_text(json.dumps(found, indent=1) + "\n")
