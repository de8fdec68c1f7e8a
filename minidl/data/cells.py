"""What a cell of a table means: a gap, a number, a moment, or a label.

A file gives text, pandas or polars give numbers, booleans and dates; the same cell must mean the
same thing from each. `text_of` turns any cell into text, and `key` maps texts that mean the same
("10.50" and "10.5", "TRUE" and "true", a date with and without midnight) to one text.
"""

import math
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np

# Compared without regard to case; pandas' list, and "?".
MISSING = frozenset(
    "|?|na|n/a|nan|null|none|nat|<na>|#n/a|#na|#n/a n/a|(null)|\\n|-nan"
    "|1.#ind|-1.#ind|1.#qnan|-1.#qnan".split("|")
)
_LONGEST = max(map(len, MISSING))
EPOCH = datetime(1970, 1, 1)
ISO = "iso"
_DATES = (
    "%m/%d/%Y|%d/%m/%Y|%Y/%m/%d|%d.%m.%Y|%d-%m-%Y|%m-%d-%Y|%Y-%m|%m/%d/%y|%d/%m/%y|%d.%m.%y"
    "|%d %b %Y|%d %B %Y|%d-%b-%Y|%d-%b-%y|%b %d, %Y|%B %d, %Y|%b %d %Y"
).split("|")
_TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
DATE_FORMATS = (ISO, *(day + time for time in _TIMES for day in _DATES))
# "5E102" is rather a code than a number, unless the user says otherwise; "01234" is a code too.
_CODE = re.compile(r"^\d+(E\d+|e0*[1-9]\d\d+)$", re.MULTILINE)
_SWAPPED = str.maketrans(".,", ",.")
_WORDS = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}
_PADDED = re.compile(r"^0\d+$", re.MULTILINE)
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}([,'\s])\d{3}(\1\d{3})*(\.\d*)?")  # "1,234,567.89"


def is_missing(text: str, words: Iterable[str] = ()) -> bool:
    """Whether a text marks a gap: one of `MISSING`, or one of the user's own words."""
    text = text.strip()
    return (len(text) <= _LONGEST and text.lower() in MISSING) or text in words


def is_word(text: str, words: Iterable[str] = ()) -> bool:
    """Whether a text is one of `MISSING` that may be a label as well, such as "none" or "NA"."""
    return text.strip().lower() in MISSING - {"", "?", "nan"} and text.strip() not in words


def text_of(cell: Any) -> str:
    """Return a cell as text, "" where it is None, NaN, NaT or pandas' NA.

    Booleans are "true" and "false", moments are in UTC and lose a time of midnight.
    """
    if isinstance(cell, str):
        return cell.strip()
    if cell is None or type(cell).__name__ in ("NAType", "NaTType"):
        return ""
    if isinstance(cell, bool | np.bool_):
        return "true" if cell else "false"
    if isinstance(cell, np.datetime64):
        return "" if np.isnat(cell) else text_of(cell.astype("datetime64[us]").item())
    if isinstance(cell, datetime):
        moment = cell if cell.tzinfo is None else cell.astimezone(UTC).replace(tzinfo=None)
        return moment.isoformat(" ").removesuffix(" 00:00:00")
    if isinstance(cell, date):
        return cell.isoformat()
    if isinstance(cell, float | np.floating):
        value = float(str(cell))  # float32 0.1 is 0.1
        whole = value.is_integer() and abs(value) < 1e16
        return "" if math.isnan(value) else str(int(value)) if whole else repr(value)
    return str(cell).strip()


def key(text: str, decimal: str = ".") -> str:
    """Return the one text for all texts that mean the same cell.

    With a decimal comma, "1,5" and "1.5" are the same, as a file and a data frame write it.
    """
    if text.isdecimal():
        return text.lstrip("0") or "0"
    if text.lower() in ("true", "false"):
        return text.lower()
    value = number(text)
    if value is None and decimal != ".":
        value = number(text, decimal)
    if value is not None and math.isfinite(value):
        whole = value.is_integer() and abs(value) < 1e15
        return str(int(value)) if whole else f"{value:.15g}"
    seconds = moment(text, ISO) if text[:4].isdecimal() else None
    return text if seconds is None else text_of(EPOCH + timedelta(seconds=seconds))


def number(text: str, decimal: str = ".") -> float | None:
    """Return the number that a text spells, or None.

    With a decimal comma, a point is refused: "1.500" would be 1500 in such a file.
    """
    if "_" in text or (decimal != "." and "." in text):
        return None
    try:
        return float(text.replace(decimal, ".").replace("\N{MINUS SIGN}", "-"))
    except ValueError:
        return None


def declared_number(text: str, decimal: str = ".") -> float | None:
    """Return the number of a text in a column that the user calls one of numbers, or None.

    There true and yes are 1, false and no are 0; further as in `signed_number`.
    """
    value = _WORDS.get(text.lower())
    return signed_number(text, decimal) if value is None else value


def signed_number(text: str, decimal: str = ".") -> float | None:
    """Return the number of a text, also with a sign or groups of digits, or None.

    "$5" and "5%" are 5, "1,234.5" and "1'234.5" are 1234.5; with a decimal comma "1.234,5" is.
    """
    text = text.strip("$€£¥% ")
    grouped = text if decimal == "." else text.translate(_SWAPPED)
    if (found := _GROUPED.fullmatch(grouped)) is not None:
        return float(grouped.replace(found[1], ""))
    return number(text, decimal)


def is_code(text: str) -> bool:
    """Whether a text that spells a number is more likely a code, such as "5E102"."""
    return _CODE.match(text) is not None


def is_padded(text: str) -> bool:
    """Whether a text is digits with leading zeros, such as a postcode "01234"."""
    return _PADDED.match(text) is not None


def numbers(texts: Sequence[str], decimal: str = ".", words: Iterable[str] = ()) -> Any:
    """Return texts as float64 with NaN for gaps; None unless each is a plain number or a gap.

    Texts with leading zeros and codes such as "5E102" are no plain numbers.
    """
    values = _plain_numbers(texts, decimal)
    if values is None:
        texts = ["nan" if is_missing(text, words) else text for text in texts]
        values = _plain_numbers(texts, decimal)
    return values


def _plain_numbers(texts: Sequence[str], decimal: str) -> np.ndarray | None:
    if decimal != ".":
        texts = [text.translate(_SWAPPED) for text in texts]
    try:
        values = np.fromiter(map(float, texts), np.float64, len(texts))
    except ValueError:
        return None
    values[np.isnan(values)] = math.nan  # "-nan" has a sign
    whole = bool((np.isnan(values) | (np.floor(values) == values)).all())
    joined = "\n".join(texts)
    if "_" in joined or (whole and _PADDED.search(joined)) or _CODE.search(joined):
        return None
    return values


def blank(values: np.ndarray, words: Iterable[str]) -> np.ndarray:
    """Set to NaN, in place, the numbers that the user's words for a gap spell, such as -999."""
    marks = [value for value in map(number, words) if value is not None]
    if marks:
        values[np.isin(values, marks)] = math.nan
    return values


def moment(text: str, form: str) -> float | None:
    """Return the seconds from 1970 in UTC to the moment that a text spells in this format, or None.

    form: "iso", or a format of `datetime.strptime`.
    """
    try:
        if form != ISO:
            found = datetime.strptime(text, form)
        elif "-" in text or "T" in text:
            found = datetime.fromisoformat(text)
        else:  # digits alone are a number
            return None
        if found.tzinfo is not None:
            found = found.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        return None
    return (found - EPOCH).total_seconds()


def date_format(texts: Sequence[str]) -> str | None:
    """Return the first of `DATE_FORMATS` that reads all texts, or None."""
    for form in DATE_FORMATS if texts and any(c.isdecimal() for c in texts[0]) else ():
        if all(moment(text, form) is not None for text in texts):
            return form
    return None


def date_parts(seconds: np.ndarray) -> np.ndarray:
    """Return year, month, day of the week, hour, and days since 1970, (..., 5) float64.

    The month is 1 to 12, the day of the week 0 (Monday) to 6, the hour has fractions.  NaN stays.
    """
    gaps = np.isnan(seconds)
    whole = np.floor(np.where(gaps, 0, seconds)).astype("datetime64[s]")
    days = whole.astype("datetime64[D]")
    months = whole.astype("datetime64[M]").astype(np.int64)
    of_day = (whole - days).astype(np.int64) / 3600
    week_day = (days.astype(np.int64) + 3) % 7
    parts = [months // 12 + 1970, months % 12 + 1, week_day, of_day, seconds / 86400]
    return np.where(gaps[..., None], np.nan, np.stack(parts, axis=-1))
