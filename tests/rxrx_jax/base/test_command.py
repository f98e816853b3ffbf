"""Every command ends as rxrx_jax.base.command.run says: its status, and one line instead of a traceback."""

import errno
import os
import re
import subprocess
import sys
import tempfile

import pytest
from paths import ROOT

from rxrx_jax import reproduce
from rxrx_jax.base import command
from rxrx_jax.base.errors import UserError
from tfds_builders import download, prepare

COMMANDS = sorted(
    path.relative_to(ROOT).as_posix()
    for package in ("rxrx_jax", "tfds_builders", "launch")
    for path in (ROOT / package).rglob("*.py")
    if '__name__ == "__main__"' in path.read_text()
)


def raising(error):
    def main(argv):
        raise error

    return main


@pytest.mark.parametrize(
    "error, code, line",
    [
        (UserError("seed=x: use a number"), 2, "error: seed=x: use a number\n"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a/b"), 2, "error: a/b: No such file\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "error: [Errno 28] No space left on device\n"),
        (KeyboardInterrupt(), 130, "interrupted: what is finished is kept; start the same command again\n"),
    ],
)  # fmt: skip
def test_what_the_user_can_fix_is_one_line(error, code, line, capsys):
    assert command.run(raising(error)) == code
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize("error", [ValueError("a fault"), OSError(errno.EIO, "the disk fails"), OSError("no errno")])
def test_any_other_error_is_raised(error):
    with pytest.raises(type(error)):
        command.run(raising(error))


def test_the_status_is_main_s():
    assert command.run(lambda argv: None) == 0 and command.run(lambda argv: 3) == 3
    assert command.run(lambda argv: len(argv), ["a", "b"]) == 2


@pytest.mark.parametrize("path", [path for path in COMMANDS if path != "launch/worker.py"])
def test_every_command_ends_through_it(path):
    """launch/worker.py alone does not: it runs rxrx_jax.main in its own process and passes its status on."""
    text = (ROOT / path).read_text()
    last = text.rpartition('if __name__ == "__main__":\n')[2].splitlines()
    assert last[-1].startswith("    sys.exit(command.run("), last
    assert not re.search(
        r"except .*(UserError|KeyboardInterrupt)", text.partition("\ndef main(")[2].partition("\ndef ")[0]
    )


def test_a_bad_flag_and_a_bad_config_are_one_line(tmp_path):
    for flag, words in (
        ("--config=nowhere.py", "nowhere.py: no such file"),
        ("--nonsense=1", "nonsense"),
        ("--config=mae_vit.py:colour=red", "config argument 'colour' is unknown"),
        ("--config.seed=one", "flag --config.seed=one: "),
    ):
        argv = [sys.executable, "-m", "rxrx_jax.main", "--config=mae_vit.py", flag]
        done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
        assert words in done.stderr


def test_a_script_of_one_s_own_may_use_it(tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(
        "import sys\nfrom rxrx_jax.base import command\n"
        "sys.exit(command.run(lambda argv: print(open(sys.argv[1]).read())))\n"
    )
    done = subprocess.run(
        [sys.executable, script, "nowhere"], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert (done.returncode, done.stderr) == (2, "error: nowhere: No such file or directory\n"), done


@pytest.mark.parametrize(
    "path, argv, how",
    [
        ("{w}/checkpoints/3", ["--workdir={w}"], "pass --workdir=DIR"),
        ("{w}/checkpoints/3", ["--workdir", "{w}"], "pass --workdir=DIR"),
        ("{w}", ["--config=a.py", "--workdir={w}/runs/a"], "pass --workdir=DIR"),  # a folder above was to be made
        ("{w}/data/x", ["--workdir={w}", "--config.data.folder={w}/data"], "pass --config.data.folder=DIR"),
        ("{home}/tensorflow_datasets/x", [], "set TFDS_DATA_DIR=DIR"),
        ("{w}/tmp/x", [], "set TMPDIR=DIR"),
        ("{w}/here/runs", [], "start the command in it"),
        ("/elsewhere", ["--workdir={w}"], ""),
    ],
)
def test_a_folder_that_cannot_be_used_is_named_with_what_moves_it(path, argv, how, tmp_path, monkeypatch, capsys):
    names = {"w": str(tmp_path), "home": str(tmp_path / "home")}
    (tmp_path / "here").mkdir(), (tmp_path / "tmp").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", names["home"])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    for variable in ("TFDS_DATA_DIR", "JAX_COMPILATION_CACHE_DIR", "TMPDIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(sys, "argv", ["main", *(argument.format(**names) for argument in argv)])
    path = path.format(**names)
    end = f"; to use another folder, {how}\n" if how else "\n"
    numbers = (errno.EACCES, errno.EROFS, errno.EDQUOT, errno.ENAMETOOLONG, errno.ESTALE, errno.ENOSPC)
    for number in (*numbers, errno.ENOTDIR, errno.EEXIST):
        words = os.strerror(number)
        assert command.run(raising(OSError(number, words, path))) == 2
        assert capsys.readouterr().err == f"error: {path}: {words}{end}"
        # As the library that Orbax writes with has it.
        text = f"PERMISSION_DENIED: Failed to open: \"{path}\" [OS error {number}] [os_error_code='{number}']"
        assert command.run(raising(ValueError(text))) == 2
        assert capsys.readouterr().err == f"error: {path}: {words}{end}"


@pytest.mark.parametrize("out", ["/dev/null", "/dev/null/a", "/proc/none", "/proc/none/a", "{w}/file", "{w}/file/a"])
def test_a_folder_that_cannot_be_made_is_named_with_its_flag(out, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    out = out.format(w=tmp_path)
    for arguments, main in (
        (["rxrx_sim", f"--out={out}"], prepare.main),
        (["rxrx1", f"--to={out}"], download.main),
        (["demo", f"--out={out}"], reproduce.main),
    ):
        monkeypatch.setattr(sys, "argv", ["command", *arguments])
        assert command.run(main) == 2
        error = capsys.readouterr().err
        flag = arguments[1].partition("=")[0]
        assert error.startswith(f"error: {out.removesuffix('/a')}") and error.count("\n") == 1, error
        assert error.endswith(f"; to use another folder, pass {flag}=DIR\n"), error


def test_a_file_that_is_not_there_is_not_a_folder_that_cannot_be_made(tmp_path, monkeypatch, capsys):
    for path in ("w/gone", "t.csv"):
        monkeypatch.setattr(sys, "argv", ["command", f"--workdir={tmp_path}/w", f"--table={tmp_path}/t.csv"])
        assert command.run(raising(FileNotFoundError(errno.ENOENT, "No such file", f"{tmp_path}/{path}"))) == 2
        assert capsys.readouterr().err == f"error: {tmp_path}/{path}: No such file\n"


def test_an_error_in_a_folder_that_was_removed_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    assert command.run(raising(PermissionError(errno.EACCES, "Permission denied", "a"))) == 2
    assert capsys.readouterr().err == "error: a: Permission denied\n"
