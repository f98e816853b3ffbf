"""What the parts of device_check.py share: what they are told, and the file of JSON lines that they write."""

import dataclasses
import json
import math
import pathlib


@dataclasses.dataclass(frozen=True)
class Setting:
    """rehearse: tiny sizes on the CPU; json: the file of lines; folder: one that all parts of a run share; data: where
    the bundle's prepared datasets were unpacked, which need not exist."""

    rehearse: bool
    json: pathlib.Path
    folder: pathlib.Path

    @property
    def data(self) -> pathlib.Path:
        return self.folder / "data"

    def earlier(self, part: str) -> dict:
        """The last line that a part before this one wrote, {} where it gave none."""
        return next((line for line in reversed(read(self.json)) if line["part"] == part and "error" not in line), {})


def write(path: pathlib.Path, line: dict) -> None:
    """Appends one line, which is in the file when this returns. A number that is not finite is written as null, and its
    key is named in "error"."""
    bad = [key for key, value in line.items() if isinstance(value, float) and not math.isfinite(value)]
    line = line | dict.fromkeys(bad) | ({"error": f"not finite: {', '.join(bad)}"} if bad else {})
    with open(path, "a") as file:
        file.write(json.dumps(line) + "\n")


def read(path: pathlib.Path) -> list[dict]:
    """All lines, without one that a killed part left half-written."""
    found = []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(text))
        except json.JSONDecodeError:
            pass
    return found


def one_line(text) -> str:
    """The first line of a message, cut to a length that can be read."""
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    return lines[0][:300] if lines else "no message"
