"""Blocks of delimited text are what the csv module reads, and what is not as published is told by row and column."""

import csv
import gzip
import io
import math
import re
import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hccp_jax.data.csv_stream import NOTHING, Column, find, stream
from hccp_jax.errors import UserError

INT, FLOAT, TEXT = Column(), Column("float"), Column("text")
KINDS = {"int": int, "float": float, "text": str}
LINE = re.compile(r"^[^\n]*$")


def read(path: Path, columns: dict[str, Column], **options) -> pl.DataFrame:
    """The whole file; no block may have other columns or be empty."""
    blocks = list(stream(path, columns, **options))
    assert all(block.columns == list(columns) and block.height for block in blocks)
    return pl.concat(blocks)


def refusal(path: Path, columns: dict[str, Column], **options) -> str:
    with pytest.raises(UserError) as refused:
        list(stream(path, columns, **options))
    assert LINE.match(str(refused.value))
    return str(refused.value)


def file_of(folder: Path, content: str | bytes, name: str = "log.csv") -> Path:
    path = folder / name
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return path


def cells(kind: str) -> st.SearchStrategy[str]:
    """Texts of a kind, as files have them."""
    if kind == "int":
        return st.one_of(st.integers(-(1 << 63), (1 << 63) - 1).map(str), st.sampled_from(["007", " 5", "-0", "9 "]))
    if kind == "float":
        return st.one_of(st.floats(allow_nan=False, allow_infinity=False).map(repr), st.sampled_from(["1", ".5", "2."]))
    return st.text(st.sampled_from("aé 日'\\;,\"\t|"), max_size=6)


@st.composite
def files(draw) -> tuple[dict[str, Column], list[str], list[list[str]]]:
    """Columns that may be missing, the names of all columns, and rows of fields."""
    kinds = draw(st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=4))
    names = [f"{kind}{number}" for number, kind in enumerate(kinds)]
    wanted = draw(st.lists(st.sampled_from(range(len(kinds))), unique=True, min_size=1))
    fields = st.tuples(*(st.one_of(cells(kind), st.sampled_from(NOTHING)) for kind in kinds)).map(list)
    rows = draw(st.lists(fields, min_size=1, max_size=8))
    return {names[i]: Column(kinds[i], missing=True) for i in wanted}, names, rows


@given(st.data(), files())
@settings(max_examples=60, deadline=None)
def test_blocks_are_what_the_csv_module_reads(data, file):
    columns, names, rows = file
    delimiter = data.draw(st.sampled_from(",\t|"))
    ending = data.draw(st.sampled_from(["\n", "\r\n"]))
    header = data.draw(st.booleans())
    text = io.StringIO()
    quoting = data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    writer = csv.writer(text, delimiter=delimiter, lineterminator=ending, quoting=quoting)
    if header:
        writer.writerow([data.draw(st.sampled_from([name, f" {name}", f"{name} "])) for name in names])
    for row in rows:
        writer.writerow(row)
        text.write(ending * data.draw(st.sampled_from([0, 0, 0, 2])))
    mark = data.draw(st.sampled_from(["", "\ufeff"]))
    content = (mark + text.getvalue()).encode()
    options = {"names": None if header else names, "delimiter": delimiter, "block": data.draw(st.integers(256, 600))}
    with tempfile.TemporaryDirectory() as folder:
        path = file_of(Path(folder), content, data.draw(st.sampled_from(["a.csv", "a.csv.gz"])))
        found = read(path, columns, **options)
    parsed = [row for row in csv.reader(io.StringIO(text.getvalue(), newline=""), delimiter=delimiter) if row]
    for name, column in columns.items():
        fields = [row[names.index(name)] for row in parsed[int(header) :]]
        wanted = [None if field in NOTHING else KINDS[column.kind](field) for field in fields]
        assert found[name].to_list() == wanted
        assert found[name].dtype == {"int": pl.Int64, "float": pl.Float64, "text": pl.String}[column.kind]


@given(st.data(), st.integers(64, 4000))
@settings(max_examples=60, deadline=None)
def test_the_first_bad_field_is_told_by_row_and_column_whatever_the_block(data, block):
    count = data.draw(st.integers(1, 120))
    rows = [[str(i), f"{i}.5", "pv"] for i in range(count)]
    columns = {"a": Column(high=10_000), "b": FLOAT, "c": Column("text", choices=("pv", "buy"))}
    row, place = data.draw(st.tuples(st.integers(0, count - 1), st.integers(0, 2)))
    later = data.draw(st.integers(row, count - 1))
    bad = data.draw(st.sampled_from([["x", "10001", ""], ["y", "nan", "NULL", "inf"], ["ipv", ""]][place]))
    rows[later][0] = "x" if later > row else rows[later][0]  # another fault later on is not the first
    rows[row][place] = bad
    with tempfile.TemporaryDirectory() as folder:
        path = file_of(Path(folder), "a,b,c\n" + "".join(",".join(row) + "\n" for row in rows))
        told = refusal(path, columns, block=block)
    assert told.startswith(f"log.csv: row {row + 1}: {'abc'[place]}=")
    assert told.endswith(f", expected {columns['abc'[place]].expected}")


@given(st.sampled_from([INT, FLOAT, TEXT, Column(missing=True), Column(low=0, high=40)]), st.data())
@settings(max_examples=100, deadline=None)
def test_a_field_fits_exactly_where_the_file_is_accepted(column, data):
    """The search for the bad row goes by other code than the reading: it must never call good what was refused."""
    odd = ["1_0", "+5", "٣", "0x1f", "9" * 19, "9" * 20, "1e400", "Infinity", "nan", *NOTHING]
    text = data.draw(st.one_of(st.text(st.sampled_from("0123.-+eE_x \t"), max_size=5), st.sampled_from(odd)))
    with tempfile.TemporaryDirectory() as folder:
        path = file_of(Path(folder), f"z,a\n0,{text}\n")
        if column.fits(text):
            assert read(path, {"a": column}).height == 1
        else:
            told = [f"log.csv: row 1: a={shown}, expected {column.expected}" for shown in seen_as(column, text)]
            assert refusal(path, {"a": column}) in told


def seen_as(column: Column, text: str) -> list[str]:
    """How a field may be shown: as text where it cannot be read, as a value where that is out of bounds."""
    if text in NOTHING:
        return ["nothing"]
    try:
        return [repr(text), repr(int(text, 0) if "x" in text else KINDS[column.kind](text))]
    except ValueError:
        return [repr(text)]


REFUSED = {
    "empty": ("", "no column a; found "),
    "a header without rows": ("a,b\n", "row 1: no rows"),
    "half a header": ("a,b", "row 1: no rows"),
    "another header": ("x,b\n1,2\n", "no column a; found x, b"),
    "a column twice": ("a,b, a\n1,2,3\n", "more than one column a; found a, b, a"),
    "too few fields": ("a,b\n1,2\n3\n", "row 2: 1 fields, expected 2"),
    "too many fields": ("a,b\n1,2\n\n3,4,5\n", "row 2: 3 fields, expected 2"),
    "cut in a field": ("a,b\n1,2\n3,4", "row 2: cut off, no end of line; if nothing is missing, add one"),
    "cut before a field": ("a,b\n1,2\n3", "row 2: 1 fields, expected 2"),
    "text": ("a,b\n1,2\nx,4\n", "row 2: a='x', expected an integer in [0, 9]"),
    "a fraction": ("a,b\n1.0,2\n", "row 1: a='1.0', expected an integer in [0, 9]"),
    "out of range": ("a,b\n1,2\n10,2\n", "row 2: a=10, expected an integer in [0, 9]"),
    "below": ("a,b\n-1,2\n", "row 1: a=-1, expected an integer in [0, 9]"),
    "nothing": ("a,b\n1,2\nNULL,2\n", "row 2: a=nothing, expected an integer in [0, 9]"),
    "an open quote": ('a,b\n1,2\n2,"3\n3,4\n', "row 2: unexpected end of data"),
    "a quote over lines": ('a,b\n1,"2\n2,3\n3,4"\n', "row 1: a quote is closed only 2 lines later"),
    "quotes that swallow a row": ('a,b\n1,"2\n3,"4\n', "row 1: ',' expected after '\"'"),
    "Latin-1": (b"a,b\n1,2\n2,\xe9\n", "row 2: b: byte 0xe9 is not UTF-8 text"),
    "a header in Latin-1": (b"a,\xe9\n1,2\n", "row 0: no header can be read ("),
    "carriage returns only": ("a,b\r1,2\r3,4\r", "row 0: no header can be read ("),
    "NUL bytes": (bytes(64), "no column a; found '\\x00\\x00"),
    "a very long line": ("x" * 9000 + "\n", "no column a; found " + "x" * 500 + "..."),
}


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("fault", REFUSED)
def test_what_is_not_as_published_is_told(tmp_path, fault, suffix):
    content, told = REFUSED[fault]
    path = file_of(tmp_path, content, f"log.csv{suffix}")
    assert refusal(path, {"a": Column(low=0, high=9), "b": TEXT}).startswith(f"log.csv{suffix}: {told}")


@pytest.mark.parametrize(
    ("rows", "told"),
    [("1,99\n98,1\n", "row 1: b=99"), ("98,1\n1,99\n", "row 1: a=98"), ("1,2\n98,99\n", "row 2: a=98")],
)
def test_of_several_numbers_out_of_range_the_first_is_told(tmp_path, rows, told):
    columns = {"a": Column(high=9), "b": Column(high=9)}
    assert refusal(file_of(tmp_path, "a,b\n" + rows), columns).startswith(f"log.csv: {told}, expected")


def test_a_file_without_a_header_is_refused_alike(tmp_path):
    names = ["a", "b"]
    for content, told in (
        ("", "row 1: no rows"),
        ("1,2\n3,4\n5", "row 3: 1 fields, expected 2"),
        ("1,2\n3,x\n", "row 2: b='x', expected an integer"),
        ("\ufeff1,2\nx,4\n", "row 2: a='x', expected an integer"),
        ("1,2\r3,4\r", "row 2: cut off, no end of line"),
    ):
        assert refusal(file_of(tmp_path, content), {"a": INT, "b": INT}, names=names).startswith(f"log.csv: {told}")
    assert refusal(tmp_path / "none.csv", {"a": INT}, names=names).startswith("none.csv: cannot be read after row 0")
    assert "no column c; found a, b" in refusal(file_of(tmp_path, "1,2\n"), {"c": INT}, names=names)


@pytest.mark.parametrize("names", [None, ["a", "b"]])
def test_a_damaged_gzip_stream_is_refused(tmp_path, names):
    whole = gzip.compress(b"a,b\n"[: 0 if names else 4] + b"".join(b"%d,%d\n" % (i, i * i) for i in range(20_000)))
    columns = {"a": INT, "b": INT}
    path = tmp_path / "log.csv.gz"
    for content in (whole[:-4], whole[: len(whole) // 2], whole[:15], b"a,b\n1,2\n", whole[:-6] + bytes(6)):
        path.write_bytes(content)
        assert re.match(
            r"log\.csv\.gz: (cannot be read after row|row 0: no header)", refusal(path, columns, names=names)
        )
    path.write_bytes(whole + whole if names else whole)  # streams may follow each other
    assert read(path, columns, names=names).height == (40_000 if names else 20_000)


def test_what_may_be_missing_is_null_and_nothing_else_is(tmp_path):
    path = file_of(tmp_path, "a,b,c\n1,,x\nNULL,2.5,null\n3,\\N,\n")
    columns = {"c": Column("text", missing=True), "a": Column(missing=True), "b": Column("float", missing=True)}
    assert read(path, columns).rows() == [("x", 1, None), (None, None, 2.5), (None, 3, None)]
    assert refusal(path, {"c": TEXT}) == "log.csv: row 2: c=nothing, expected text"
    assert Column("text", choices=("pv", "buy"), missing=True).expected == "one of pv, buy"
    assert Column("float", low=0, missing=True).expected == "a number in [0, inf] or nothing"


def test_a_choice_that_may_be_missing(tmp_path):
    column = Column("text", choices=("pv", "buy"), missing=True)
    assert read(file_of(tmp_path, "z,a\n0,pv\n0,\n0,buy\n"), {"a": column})["a"].to_list() == ["pv", None, "buy"]
    assert "row 2: a='cart', expected one of pv, buy" in refusal(file_of(tmp_path, "z,a\n0,\n0,cart\n"), {"a": column})


def test_blank_lines_are_no_rows_and_no_blocks(tmp_path):
    blank = "\n" * 600
    path = file_of(tmp_path, f"a\n{blank}1\n{blank}2\n{blank}")
    assert read(path, {"a": INT}, block=100)["a"].to_list() == [1, 2]


def test_a_row_longer_than_a_block_is_an_error_in_a_line(tmp_path):
    path = file_of(tmp_path, "a,b\n1," + "x" * 5000 + "\n2,y\n")
    assert refusal(path, {"a": INT}, block=64).startswith("log.csv: ")
    assert read(path, {"a": INT}, block=1 << 14)["a"].to_list() == [1, 2]


def test_a_reader_may_stop_early(tmp_path):
    path = file_of(tmp_path, "a\n" + "".join(f"{i}\n" for i in range(50_000)), "log.csv.gz")
    for _ in range(5):
        blocks = stream(path, {"a": INT}, block=4096)
        assert next(blocks)["a"][0] == 0
        blocks.close()


@given(st.floats())
def test_a_number_has_bounds(value):
    assume(math.isfinite(value))
    column = Column("float", low=-1.5, high=7)
    assert column.fits(repr(value)) == (-1.5 <= value <= 7)


def test_a_file_is_found_by_any_of_its_names(tmp_path):
    (tmp_path / "data").mkdir()
    file_of(tmp_path / "data", "x", "b.csv.gz")
    assert find(tmp_path, "a.csv", "b.csv") == tmp_path / "data" / "b.csv.gz"
    file_of(tmp_path, "x", "b.csv.gz")
    assert find(tmp_path, "a.csv", "b.csv") == tmp_path / "b.csv.gz"
    file_of(tmp_path / "data", "x", "a.csv")
    assert find(tmp_path, "a.csv", "b.csv") == tmp_path / "data" / "a.csv"
    with pytest.raises(UserError, match=r"^input=.*: no c\.csv or d\.csv there, with or without \.gz$"):
        find(tmp_path, "c.csv", "d.csv")
