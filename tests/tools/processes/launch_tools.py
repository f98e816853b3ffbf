"""A clone whose trainer is tests/launch/trainer.py, and commands of clusters that only note how they are called."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

from paths import ROOT

HERE = ROOT / "tests" / "launch"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def make_clone(folder: pathlib.Path) -> pathlib.Path:
    """A git clone with launch/, the stand-in for the trainer and one for jax."""
    (folder / "rxrx_jax" / "base").mkdir(parents=True)
    shutil.copytree(ROOT / "launch", folder / "launch", ignore=shutil.ignore_patterns("__pycache__"))
    base = [f"base/{part}.py" for part in ("__init__", "errors", "command", "config", "config_flag", "plugins")]
    for name in ("__init__.py", *base):
        shutil.copy(ROOT / "rxrx_jax" / name, folder / "rxrx_jax" / name)
    shutil.copy(HERE / "trainer.py", folder / "rxrx_jax" / "main.py")
    (folder / "jax.py").write_text(
        "import os\ndef process_index():\n    return int(os.environ.get('SLURM_PROCID', 0))\n"
    )
    (folder / "configs").mkdir()
    text = "import ml_collections\ndef get_config():\n    return ml_collections.ConfigDict({'optim': {'lr': 0.1}})\n"
    (folder / "configs" / "x.py").write_text(text)
    (folder / ".gitignore").write_text("__pycache__/\n")
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *arguments], check=True)
    return folder


class Stubs:
    """A folder for PATH with stubs of `names`."""

    def __init__(self, folder: pathlib.Path, *names: str):
        self.folder = folder
        (folder / "home").mkdir(parents=True)
        for name in (*names, "sleep"):
            shutil.copy(HERE / "stub.py", folder / name)
            text = f"#!{sys.executable} -IS\n" + (folder / name).read_text()
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        self.answer([])

    def answer(self, answers: list) -> None:
        (self.folder / "answers.json").write_text(json.dumps(answers))

    def calls(self) -> list[str]:
        path = self.folder / "calls.txt"
        return path.read_text().splitlines() if path.exists() else []

    def environment(self) -> dict[str, str]:
        home = str(self.folder / "home")
        return os.environ | {"PATH": f"{self.folder}:{os.environ['PATH']}", "HOME": home}


def launch(name: str, *arguments: str, clone=ROOT, environment=None) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", f"launch.{name}", *arguments],
        cwd=clone,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that a test can press Ctrl-C in its terminal
    )


def finish(process: subprocess.Popen, seconds: float = 120) -> tuple[int, str, str]:
    """(exit code, stdout, stderr)"""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"still running after {seconds} s:\n{out}\n{err}") from None
    return process.returncode, out, err


def until(condition, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in pathlib.Path(f"/proc/{pid}/status").read_text()


def interrupt(process: subprocess.Popen) -> None:
    """Ctrl-C, which reaches the launcher and all that share its terminal."""
    os.killpg(process.pid, signal.SIGINT)
