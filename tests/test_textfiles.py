"""What C reads of a text file is what Python's csv and float read; and what it leaves to them."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest

from minidl.data import textfiles
from minidl.data.formats import Format
from minidl.data.readers import tables_of
from minidl.data.tables import joined
from minidl.errors import DataError

needs_c = pytest.mark.skipif(textfiles._cells is None, reason="no C compiler was present")

NUMBERS = (
    "0 -0 17 3.25 -.5 5. +4 1e5 2.5E-3 9007199254740993 1e22 1e23 8.5e-290 5e-324 1.5e300".split()
)
ODD = "01 00.5 5E102 5e102 1e99 1e005 1_0 inf +nan 0x10 1,5 1e 1e5- - . 1e400 ١ 5%".split()
ODD += ["1" * 21, "0." + "0" * 21]
GAPS = ["", "NA", "-nan", "nA", "  ", "-999", "k.A.", "NA "]
TEXTS = [
    "a",
    "Köln",
    " x ",
    "Paris, Rome",
    'a "b"',
    '"',
    'a"b',
    "true",
    "2020-01-02",
    "l1\nl2",
    "-",
]


def random_file(rng: random.Random) -> tuple[bytes, Format]:
    """A small table, mostly plain, with a little of all that may stand in one."""
    mark = rng.choice(",,,;\t |")
    n_columns, end = rng.choice([1, 2, 2, 3, 5]), rng.choice(["\n", "\n", "\r\n", "\r"])
    pools = [NUMBERS, NUMBERS + rng.sample(GAPS, 2), TEXTS, TEXTS[:3], GAPS]
    pools += [rng.sample(NUMBERS, 3) + rng.sample(ODD, 1)]
    quotes = rng.choice([0, 0, 0.3, 1])

    def cell(pool: list[str]) -> str:
        text = rng.choice(pool)
        if rng.random() < quotes or set(text) & {mark, '"', "\n"} - {rng.choice(' "')}:
            return '"' + text.replace('"', '""') + '"'
        return text

    lines = [mark.join(f"c{j}" for j in range(n_columns))]
    for _ in range(rng.choice([1, 5, 30])):
        if rng.random() < 0.1 or len(lines) == 1:
            columns = rng.choices(pools, k=n_columns)
        lines.append(mark.join(map(cell, columns)))
    if rng.random() < 0.1:
        lines.insert(
            rng.randrange(1, len(lines)), rng.choice(["", " ", mark, '"', "1" + mark, "\0"])
        )
    data = end.join(lines).encode(encoding := rng.choice(["utf-8", "utf-8", "utf-16"]))
    if rng.random() < 0.05:
        data = data.replace(b"7", rng.choice([b"\xff", b"\r", b'"']))
    decimal = "," if mark != "," and rng.random() < 0.2 else "."
    missing = rng.choice([(), ("-999", "k.A."), ("x", "a\0b")])
    return data + end.encode() * rng.randrange(2), Format(mark, encoding, True, decimal, missing)


def read(data: bytes, form: Format, **options) -> tuple[list, str | None]:
    """What each piece of a file holds, and the error that follows them."""
    found, error = [], None
    try:
        file = io.BufferedReader(io.BytesIO(data))
        for table in tables_of(file, form, "f", rows=1, **options):
            columns = {
                name: (column.texts, column.values.tobytes())
                for name, column in table.columns.items()
            }
            found.append((columns, table.lines.tolist(), table.written))
    except DataError as raised:
        error = str(raised)
    return found, error


@needs_c
@pytest.mark.parametrize("part", range(4))
def test_c_reads_what_csv_reads(monkeypatch, part):
    rng = random.Random(part)
    for _ in range(400):
        data, form = random_file(rng)
        options = {"keep": rng.choice([(), ("c0",)]), "literal": rng.choice([(), ("c0", "c1")])}
        monkeypatch.setattr(textfiles, "BLOCK", rng.choice([1, 30, 100, 1000]))
        ahead = read(data, form, **options)
        with monkeypatch.context() as without:
            without.setattr(textfiles, "_cells", None)
            assert ahead == read(data, form, **options), (data, form)


@needs_c
@pytest.mark.parametrize("decimal", ".,")
def test_numbers_are_rounded_as_by_float(decimal):
    rng = random.Random(0)
    texts = NUMBERS[:-2]
    for _ in range(3000):
        digits, power = rng.getrandbits(rng.randint(1, 63)), rng.randint(-270, 270)
        half = (1 << rng.randint(53, 62)) + rng.randint(-3, 3)  # at or near a tie of two floats
        texts += [f"{digits}e{power:+d}", f"{half}", f"{half}.e-{rng.randint(1, 9)}"]
        texts += [repr(rng.gauss(0, 1) * 10.0 ** rng.randint(-9, 9)), f"-{rng.random():.18f}"]
    plain = 0
    for text in texts:
        values, kinds = np.empty((1, 1)), bytearray(1)
        line = text.replace(".", decimal).encode() + b"\n"
        assert textfiles._cells.read(line, values, kinds, b";", decimal.encode(), b"") is not None
        assert kinds[0] or repr(float(values[0, 0])) == repr(float(text))
        plain += not kinds[0]
    assert plain > 0.99 * len(texts)


@needs_c
@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (b'1,x\n2,"a, b"\n', b"x\na, b\0"),
        (b'1,"a ""b"""\r\n2,"""\n', None),
        (b'1,"a ""b"""\r\n2,""""\n', b'a "b"\n"\0'),
        (b"1,NA\n2,\n", b""),
        (b" 1 ,NA \n NA, 2\n", b""),
        (b'"1","2"\n"-3",""\n', b""),
        (b"01,a\n1.5,a\n", b"01\n1.5\0a\0"),
        (b'a"b,1\n"",2\n', b'a"b\n\0'),
        ("ä,ö\nä,ü\n".encode(), "ä\0ö\nü\0".encode()),
        (b"1,2\n3\n", None),
        (b"1,2,3\n4,5\n", None),
        (b"1,2\n\n", None),
        (b"1,2\r3,4\n", None),
        (b'1,"2\n3",4\n', None),
        (b'1,"2" \n3,4\n', None),
        (b"1,\0\n3,4\n", None),
        (b"1,2\n3,4", None),
    ],
)
def test_lines_that_are_written_plainly_are_for_c(lines, expected):
    values, kinds = np.empty((2, 2)), bytearray(2)
    assert textfiles._cells.read(lines, values, kinds, b",", b".", b"\nNA\n") == expected


@needs_c
def test_a_block_is_read_again_where_a_column_has_turned_into_texts(monkeypatch):
    monkeypatch.setattr(textfiles, "BLOCK", 30)
    data = b"a,b\n" + b"1.50,2\n" * 8 + b"x,3\n" + b"1.50,4\n" * 40
    found, _ = read(data, Format())
    assert [columns["a"][0] for columns, *_ in found[:2]] == [None, ("1.50", "x")]
    assert {columns["a"][0] for columns, *_ in found[2:]} == {("1.50",)}


def test_rows_before_an_error_come_first(monkeypatch):
    monkeypatch.setattr(textfiles, "BLOCK", 8)

    class Failing(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > 60:
                raise OSError("the disk is gone")
            return super().read(size)

    for rows, error in (
        (b"1,2\n3,4\n" * 9 + b"5\n" + b"1,2\n" * 9, "f:20: 1 cells, but 2 columns"),
        (b"1,2\n3,4\n" * 9 + b"5,\0\n" + b"1,2\n" * 9, "f:20: holds a zero byte"),
        (b"1,2\n3,4\n" * 9 + b"5,\xff\n" + b"1,2\n" * 9, "f:20: byte 0xff"),
    ):
        found, said = read(b"a,b\n" + rows, Format())
        assert said.startswith(error) and sum(len(lines) for _, lines, _ in found) >= 16
    found = []
    with pytest.raises(DataError, match=r"^f: cannot be read: the disk is gone$"):
        found += tables_of(Failing(b"a,b\n" + b"1,2\n3,4\n" * 99), Format(), "f", rows=1)
    assert joined(found).n_rows >= 14


def test_cells_of_several_lines_may_pass_from_block_to_block(monkeypatch):
    rows = "".join(f'{i},"line 1\nline {i}\n\n"\n' for i in range(50))
    expected = joined([*tables_of(io.BytesIO(f"a,b\n{rows}".encode()), Format())])
    assert expected.lines.tolist() == list(range(5, 205, 4))
    for block in (1, 8, 25, 200):
        monkeypatch.setattr(textfiles, "BLOCK", block)
        pieces = [*tables_of(io.BytesIO(f"a,b\n{rows}".encode()), Format(), rows=1)]
        assert len(pieces) > 2 and joined(pieces).lines.tolist() == expected.lines.tolist()
        assert joined(pieces).columns["b"].texts == expected.columns["b"].texts


def test_short_lines_below_a_long_header_take_no_memory_for_cells_that_are_not_there():
    header = ",".join(f"c{j}" for j in range(textfiles.MAX_COLUMNS))
    data = (header + "\n" + "a\n" * 500_000).encode()  # as many rows would be 400 GB
    with pytest.raises(DataError, match=f"^f:2: 1 cells, but {textfiles.MAX_COLUMNS} columns"):
        next(tables_of(io.BytesIO(data), Format(), "f"))
