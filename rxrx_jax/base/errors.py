"""What the user can fix: one line instead of a traceback."""

import errno

# Operating system errors about a path or disk that the user named, as opposed to a bug in the code.
FIXABLE = (
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY),
    *(errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
)


class UserError(ValueError):
    """Bad input: the message names the file, key or value and how to fix it."""


def to_the_user(error: BaseException) -> str | None:
    """The line that tells the user what to fix; None for any other error."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in FIXABLE:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else str(error)
    return None


def missing_extra(package: str, extra: str) -> UserError:
    """What to raise where a package that comes with an extra of pyproject.toml cannot be imported."""
    return UserError(f"{package} is not installed; it comes with the extra [{extra}]: pip install 'rxrx_jax[{extra}]'")
