"""The lines of a csv file, plain or gzipped, as text: neither a line nor what is unpacked is larger than a table's."""

import codecs
import gzip
import io
import pathlib
import zlib
from collections.abc import Iterator

from rxrx_jax.base.errors import UserError
from rxrx_jax.base.files import is_bomb

LONGEST = 2**24  # characters; a profile of ten thousand features has a hundredth
GZIP = b"\x1f\x8b"
# How files begin that are given in place of a csv file, whatever their names say.
OTHERS = {
    codecs.BOM_UTF16_LE: "UTF-16 text",
    codecs.BOM_UTF16_BE: "UTF-16 text",
    b"PK\x03\x04": "a zip archive or a spreadsheet",
    b"PAR1": "a Parquet file",
    b"BZh91AY": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
}


def read(path: pathlib.Path) -> Iterator[str]:
    """Yields the lines of a UTF-8 file with their ends, without a BOM. Raises UserError, one line, for any other."""
    try:
        with path.open("rb") as file:
            packed = file.peek(2).startswith(GZIP)
            yield from _read(path, gzip.GzipFile(fileobj=file) if packed else file, path.stat().st_size, packed)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a UTF-8 csv file ({error})") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: damaged, or cut short ({error}): copy or fetch it again") from error


def _read(path: pathlib.Path, file, size: int, packed: bool) -> Iterator[str]:
    start = file.peek(8)[:8]
    other = next((what for magic, what in OTHERS.items() if start.startswith(magic)), "")
    if other or start[:2].count(0) == 1:  # ASCII in UTF-16 without a BOM
        raise UserError(f"{path}: {other or 'UTF-16 text'}, and not UTF-8 csv: write it again as such, or gzipped")
    total = 0
    with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        while line := text.readline(LONGEST):
            total += len(line)
            if len(line) == LONGEST:
                raise UserError(f"{path}: a line of more than {LONGEST:,} characters: this is not a table of sites")
            if packed and is_bomb(size, total):
                raise UserError(f"{path}: {total:,} characters and more in a file of {size:,} bytes: refused as a bomb")
            yield line
