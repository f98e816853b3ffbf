"""The lines of tables: gzipped as well as plain, and neither longer nor more than a table's."""

import bz2
import gzip
import lzma

import pytest
import table_tools

from rxrx_jax.base import files
from rxrx_jax.base.errors import UserError
from tfds_builders.common.rows import tables

COLUMNS = ("id", "a")
TABLE = "id,a\n" + "".join(f"{n},x{n}\n" for n in range(3000))


def read(tmp_path, content):
    table_tools.write(tmp_path, t=content)
    return list(tables.read(tmp_path / "t.csv", COLUMNS))


def test_a_gzipped_table_is_the_table(tmp_path):
    """Also in several members, as `cat a.gz b.gz` makes it, and with a BOM."""
    plain = read(tmp_path, TABLE.encode())
    assert len(plain) == 3000 and plain[-1].cells == {"id": "2999", "a": "x2999"}
    assert read(tmp_path, gzip.compress(TABLE.encode())) == plain
    assert read(tmp_path, gzip.compress(TABLE[:70].encode("utf-8-sig")) + gzip.compress(TABLE[70:].encode())) == plain


def changed(data):
    return data[:-1000] + bytes(16) + data[-984:]


OTHERS = {
    "cut gzip": (gzip.compress(TABLE.encode())[:-100], "damaged, or cut short"),
    "changed gzip": (changed(gzip.compress(TABLE.encode())), "damaged, or cut short"),
    "no gzip after all": (b"\x1f\x8bid,a", "damaged, or cut short"),
    "not text": (gzip.compress(TABLE.encode() + b"\xff"), "not a UTF-8 csv file"),
    "UTF-16": (TABLE.encode("utf-16"), "UTF-16 text, and not UTF-8 csv: write it again as such, or gzipped"),
    "without a BOM": (TABLE.encode("utf-16-be"), "UTF-16 text"),
    "gzipped UTF-16": (gzip.compress(TABLE.encode("utf-16-le")), "UTF-16 text"),
    "spreadsheet": (b"PK\x03\x04...", "a zip archive or a spreadsheet, and not"),
    "Parquet": (b"PAR1...", "a Parquet file, and not"),
    "bzip2": (bz2.compress(TABLE.encode()), "compressed with bzip2, and not"),
    "xz": (lzma.compress(TABLE.encode()), "compressed with xz, and not"),
    "one long line": (gzip.compress(b"id,a\n" + bytes(2**24)), "a line of more than 16,777,216 characters"),
}


@pytest.mark.parametrize(("content", "why"), OTHERS.values(), ids=list(OTHERS))
def test_what_is_not_such_a_file_is_one_line(tmp_path, content, why):
    with pytest.raises(UserError) as error:
        read(tmp_path, content)
    assert f"{tmp_path / 't.csv'}: {why}" in str(error.value) and "\n" not in str(error.value)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ALWAYS_FINE", 10_000)
    content = gzip.compress(b"id,a\n" + b"\n" * 10**6)
    with pytest.raises(UserError, match=rf"t.csv: [\d,]+ characters and more in a file of {len(content):,} bytes"):
        read(tmp_path, content)
    assert len(read(tmp_path, gzip.compress(TABLE.encode()))) == 3000
