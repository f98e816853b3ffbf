"""What the user can fix: one line instead of a traceback."""

import errno
import os
import re
import sys
import tempfile

# Operating system errors that another folder helps against, and the variables that say where one is.
ELSEWHERE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.ESTALE, errno.ENOLCK, errno.ENOTDIR, errno.EEXIST),
)
# Those about a path or disk that the user named, as opposed to a bug in the code.
FIXABLE = (
    *(errno.ENOENT, errno.EISDIR, errno.ENOTEMPTY, errno.ELOOP, errno.EMFILE),
    *ELSEWHERE,
)
VARIABLES = ("TFDS_DATA_DIR", "JAX_COMPILATION_CACHE_DIR", "TMPDIR")


class UserError(ValueError):
    """Bad input: the message names the file, key or value and how to fix it."""


def to_the_user(error: BaseException) -> str | None:
    """The line that tells the user what to fix; None for any other error."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in FIXABLE:
        if error.filename is None:
            return str(error)
        if error.errno == errno.ENOENT:  # of a folder that a flag names: it cannot be made, as in /proc
            advice = moved_by(error.filename, below=False)
        else:
            advice = moved_by(error.filename) if error.errno in ELSEWHERE else ""
        return f"{error.filename}: {error.strerror}{advice}"
    # What Orbax's library writes and reads with repeats the system's words.
    if isinstance(error, ValueError) and (code := re.search(r"os_error_code='(\d+)'", str(error))):
        number, path = int(code[1]), re.search(r'"(/[^"]*)"', str(error))
        if number in FIXABLE and path:
            return to_the_user(OSError(number, os.strerror(number), path[1]))
    return None


def moved_by(path, below: bool = True) -> str:
    """ "; to use another folder, pass --workdir=DIR": the flag of this command, or the variable, that says where the
    folder of a path is; "" where none is known. Args: below, whether the path may be in that folder, and not only the
    folder itself or one above it."""
    if "://" in str(path):
        return ""
    try:
        path, flags = os.path.abspath(path), {}
        os.getcwd()
    except FileNotFoundError:  # the current folder was removed
        return ""
    others = {"start the command in it": ".", "set TFDS_DATA_DIR=DIR": "~/tensorflow_datasets"}
    others |= {"set TMPDIR=DIR": tempfile.gettempdir()}
    others |= {f"set {name}=DIR": os.environ[name] for name in VARIABLES if os.environ.get(name)}
    for argument, following in zip(sys.argv[1:], [*sys.argv[2:], ""]):
        flag, has_value, value = argument.partition("=")
        value = value if has_value else following
        if flag.startswith("--") and value and not value.startswith("-") and "://" not in value:
            flags[f"pass {flag}=DIR"] = value
    whole = lambda place: os.path.abspath(os.path.expanduser(place))  # noqa: E731
    if not below:  # what has a suffix is a file
        flags = {how: place for how, place in flags.items() if not os.path.splitext(place)[1]}
    places = {how: whole(place) for how, place in (others | flags).items()}
    found = {how: len(place) for how, place in places.items() if (_is_within(path, place) if below else path == place)}
    if not found:  # a folder above was to be made or entered
        given = {how: place for how, place in flags.items() if "/" in place and ".py" not in place}
        found = {how: len(place) for how, place in given.items() if _is_within(whole(place), path)}
    return f"; to use another folder, {max(found, key=found.get)}" if found else ""


def _is_within(path: str, folder: str) -> bool:
    return f"{path}/".startswith(f"{folder.rstrip('/')}/")


def missing_extra(package: str, extra: str) -> UserError:
    """What to raise where a package that comes with an extra of pyproject.toml cannot be imported."""
    return UserError(f"{package} is not installed; it comes with the extra [{extra}]: pip install 'rxrx_jax[{extra}]'")


def shortened(value, most: int = 120) -> str:
    """Text for a message, from a file that may hold anything: one line of at most `most` characters. What is neither
    text nor a number of ordinary size is named by its type alone: to print it may take for ever."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if abs(value) < 1 << 64 else "a number beyond 64 bits"
    if not isinstance(value, str):
        return f"a {type(value).__name__}"
    text = " ".join(value[: 4 * most].split())
    return text if len(text) <= most else f"{text[: most - 3]}..."


def reason(error: Exception) -> str:
    """What to say of an error in a line that names the file: the system's own words, or one bounded line."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)  # Arrow's text begins with the path
    return shortened(str(error)) or type(error).__name__
