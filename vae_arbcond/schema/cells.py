"""Cells of one column: which are missing, what they hold, and how to name the first bad one.

Everything here works on one `pandas.Series` of any dtype and knows nothing of the model.
"""

import datetime
import re

import numpy as np
import pandas as pd
import pyarrow as pa

_ARROW_TEXT = (
    "arrow_text"  # pandas reads "string[pyarrow]" as another dtype than ArrowDtype's.
)
_INTEGER = re.compile(r"[+-]?[0-9]{1,400}")
_NUMBER = re.compile(
    r"[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|inf|infinity)", re.IGNORECASE
)
_OFFSET = re.compile(r".*\d{2}:\d{2}.*([Zz]|[+-]\d{2}:?(\d{2})?)")
_ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}.*)?")


def dtype_name(dtype, column: str) -> str:
    """The text that `parse_dtype` turns back into `dtype`.

    Raises:
      ValueError: a dtype that has no such text (decimals, Arrow dictionaries).
    """
    if isinstance(dtype, pd.StringDtype):
        return "str" if dtype.na_value is np.nan else f"string[{dtype.storage}]"
    if isinstance(dtype, pd.ArrowDtype) and pa.types.is_string(dtype.pyarrow_dtype):
        return _ARROW_TEXT
    name = str(dtype)
    try:
        known = isinstance(dtype, pd.CategoricalDtype) or parse_dtype(name) == dtype
    except (TypeError, ValueError, NotImplementedError):
        known = False
    if not known:
        raise ValueError(
            f"Column {column!r} has dtype {name}, which a schema cannot hold; convert it "
            f"first, with .astype('float64'), .astype('category') or .astype('str'), say."
        )
    return name


def parse_dtype(name: str):
    """The pandas or NumPy dtype called `name` in a schema."""
    if name == _ARROW_TEXT:
        return pd.ArrowDtype(pa.string())
    return pd.api.types.pandas_dtype(name)


def is_text(dtype) -> bool:
    """Whether a column of this dtype can hold nothing but text."""
    return isinstance(dtype, pd.StringDtype) or (
        isinstance(dtype, pd.ArrowDtype) and dtype.kind == "U"
    )


def is_object(dtype) -> bool:
    """Whether a column of this dtype can hold any Python value."""
    return isinstance(dtype, np.dtype) and dtype.kind == "O"


def is_missing(cells: pd.Series) -> np.ndarray:
    """None, NaN, NaT and NA: bool [N]."""
    missing = cells.isna().to_numpy(bool)
    if cells.dtype.kind == "f" and not isinstance(cells.dtype, np.dtype):
        missing = missing | np.isnan(as_floats(cells))  # Nullable floats hold NaN beside NA.
    return missing


def plain(value):
    """A NumPy scalar as the Python value it prints as; anything else unchanged."""
    return value.item() if isinstance(value, np.generic) else value


def first(cells: pd.Series, bad: np.ndarray) -> str:
    """Names the first cell of `bad` (bool [N]) for a message: row label and value."""
    position = int(np.argmax(bad))
    label, value = plain(cells.index[position]), plain(cells.iloc[position])
    shown = value if isinstance(value, float | int | bool) else repr(value)
    return f"row {label!r} holds {shown}"


def as_floats(cells: pd.Series) -> np.ndarray:
    """Cells of a number or bool dtype as float64 [N], NaN where missing."""
    if isinstance(cells.dtype, np.dtype) and not is_object(cells.dtype):
        return cells.to_numpy().astype(np.float64)
    return cells.to_numpy(np.float64, na_value=np.nan)


def number_of_text(text: str) -> int | float | None:
    """The number written in `text` (spaces around it allowed), or None."""
    text = text.strip()
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) else None


def are_dates(texts: pd.Series) -> np.ndarray:
    """Which texts are ISO 8601 dates that exist, with or without a time: bool [N]."""
    formed = np.array([bool(_ISO_DATE.fullmatch(text.strip())) for text in texts], bool)
    known = pd.to_datetime(
        texts.astype(object).where(formed, None), format="ISO8601", errors="coerce", utc=True
    )
    return known.notna().to_numpy(bool)


def read_numbers(cells: pd.Series, column: str) -> pd.Series:
    """Cells as numbers without loss: of a number dtype, or objects (int, float, None).

    Text that is a number ("3.5") is read as that number.

    Raises:
      ValueError: a cell is neither missing nor a number, or the dtype holds none.
    """
    if is_missing(cells).all():  # Of whatever dtype an empty column has.
        return pd.Series(np.nan, cells.index)
    if isinstance(cells.dtype, pd.CategoricalDtype):
        cells = cells.astype(cells.cat.categories.dtype)
    if isinstance(cells.dtype, pd.SparseDtype) or cells.dtype.kind in "cmM":
        raise ValueError(
            f"Column {column!r} has dtype {cells.dtype} where numbers are wanted; convert it "
            f"first: .sparse.to_dense(), .dt.total_seconds() or np.abs, say."
        )
    if cells.dtype.kind in "iufb":
        return cells
    missing = is_missing(cells)
    numbers = np.full(len(cells), None, object)
    bad = np.zeros(len(cells), bool)
    for i, cell in enumerate(cells.to_numpy(object)):
        if missing[i]:
            continue
        value = plain(cell)
        if isinstance(value, str):
            value = number_of_text(value)
        bad[i] = isinstance(value, bool) or not isinstance(value, int | float)
        numbers[i] = value
    if bad.any():
        raise ValueError(
            f"Column {column!r} holds numbers, but {first(cells, bad)}; correct that cell, "
            f"leave it empty, or override the column as 'categorical' when fitting."
        )
    return pd.Series(numbers, cells.index, dtype=object)


def numbers_as_floats(cells: pd.Series, column: str) -> np.ndarray:
    """Cells as finite float64 [N], NaN where missing.

    Raises:
      ValueError: as `read_numbers`; or a cell is infinite.
    """
    numbers = read_numbers(cells, column)
    try:
        values = as_floats(numbers)
    except OverflowError:  # A Python integer beyond 1e308.
        values = np.array([_big(v) for v in numbers], np.float64)
    if np.isinf(values).any():
        raise ValueError(
            f"Column {column!r}: {first(cells, np.isinf(values))}, which is not a finite "
            f"number; correct that cell or leave it empty."
        )
    return values


def _big(value) -> float:
    if value is None:
        return np.nan
    return float(value) if abs(value) < 2**1023 else np.inf


def real_dtype(name: str) -> bool:
    """Whether `cast_numbers` can make a column of this dtype."""
    dtype = parse_dtype(name)
    return dtype.kind in "iuf" or is_object(dtype)


def cast_numbers(values: np.ndarray, dtype, whole: bool) -> pd.Series:
    """float64 [N] as a Series of `dtype`: rounded where `whole` or the dtype holds integers.

    Values beyond what the dtype holds become its largest or smallest.
    """
    if whole or dtype.kind in "iub":
        values = np.rint(values)
    if dtype.kind == "O":
        return pd.Series([int(v) if whole else float(v) for v in values], dtype=object)
    numpy_dtype = getattr(dtype, "numpy_dtype", dtype)
    if dtype.kind in "iu":
        info = np.iinfo(numpy_dtype)
        largest = float(info.max)
        if largest > info.max:  # 2**63 - 1 is no float64: the next one below is.
            largest = np.nextafter(largest, 0.0)
        values = np.clip(values, float(info.min), largest)
    elif dtype.kind == "f":
        info = np.finfo(numpy_dtype)
        values = np.clip(values, float(info.min), float(info.max))
    return pd.Series(values.astype(numpy_dtype)).astype(dtype)


def cast_exactly(cells: pd.Series, dtype) -> pd.Series | None:
    """Gap-free cells as `dtype` when every value survives unchanged, else None."""
    if cells.dtype == dtype:
        return cells
    with np.errstate(all="ignore"):
        try:
            cast = cells.astype(dtype)
        except (TypeError, ValueError, OverflowError):  # pyarrow's errors are ValueErrors.
            return None
    before, after = cells.to_numpy(object), cast.to_numpy(object)
    if (
        len(after) and type(after[0]) is datetime.date
    ):  # Equal to no Timestamp, not even its own.
        after = [pd.Timestamp(v) for v in after]
    # Python compares int with float, and timestamps of two units, exactly.
    same = all(a == b for a, b in zip(before, after, strict=True))
    return cast if same else None


def zone_of(dtype) -> str | None:
    """The time zone of a datetime dtype, None where it has none."""
    if isinstance(dtype, pd.DatetimeTZDtype):
        return str(dtype.tz)
    if isinstance(dtype, pd.ArrowDtype):
        return getattr(dtype.pyarrow_dtype, "tz", None)
    return None


def unit_of(dtype) -> str:
    """s, ms, us or ns: what one tick of a datetime dtype is (of a date dtype: s)."""
    if isinstance(dtype, pd.DatetimeTZDtype):
        return dtype.unit
    if isinstance(dtype, pd.ArrowDtype):
        return getattr(dtype.pyarrow_dtype, "unit", "s")
    return np.datetime_data(dtype)[0]


def read_datetimes(cells: pd.Series, column: str) -> pd.Series:
    """Cells as datetime64 (with the zone they have); ISO 8601 text is read.

    Raises:
      ValueError: another dtype, a text that is no date, or only some cells have an offset.
    """
    dtype = cells.dtype
    present = ~is_missing(cells)
    if not present.any():  # Of whatever dtype an empty column has.
        return pd.Series(pd.NaT, cells.index, dtype="datetime64[s]")
    if isinstance(dtype, pd.ArrowDtype) and dtype.kind == "M":
        zone = zone_of(dtype)
        unit = unit_of(dtype)
        return cells.astype(f"datetime64[{unit}, {zone}]" if zone else f"datetime64[{unit}]")
    if dtype.kind == "M":
        return cells
    if not (is_text(dtype) or is_object(dtype)):
        raise ValueError(
            f"Column {column!r} has dtype {dtype} where dates are wanted; convert it first "
            f"with pd.to_datetime, which asks for the unit of plain numbers."
        )
    text = cells.where(present, None).astype(object)
    dated = np.array([isinstance(v, str) and bool(_ISO_DATE.fullmatch(v)) for v in text], bool)
    offset = np.array([isinstance(v, str) and bool(_OFFSET.fullmatch(v)) for v in text], bool)
    if (present & dated & offset).any() and (present & dated & ~offset).any():
        raise ValueError(
            f"Column {column!r} mixes dates with and without a UTC offset: "
            f"{first(cells, present & dated & ~offset)}; give every cell an offset, or none."
        )
    dates = pd.to_datetime(
        text.where(dated, None), format="ISO8601", errors="coerce", utc=bool(offset.any())
    )
    bad = present & dates.isna().to_numpy(bool)
    if bad.any():
        raise ValueError(
            f"Column {column!r} holds dates, but {first(cells, bad)}; write it as "
            f"2024-12-31 or 2024-12-31 23:59:59, or leave the cell empty."
        )
    return dates


def ticks(dates: pd.Series) -> np.ndarray:
    """datetime64 cells as int64 [N]: their own unit since 1970 UTC; missing: smallest int."""
    if zone_of(dates.dtype):
        dates = dates.dt.tz_convert("UTC").dt.tz_localize(None)
    return dates.to_numpy().view(np.int64)


def cast_ticks(values: np.ndarray, dtype) -> pd.Series:
    """int64 [N] ticks of `dtype`'s unit since 1970 UTC as a Series of `dtype`."""
    unit = unit_of(dtype)
    dates = pd.Series(values.astype(np.int64).view(f"datetime64[{unit}]"))
    zone = zone_of(dtype)
    if zone:
        dates = dates.dt.tz_localize("UTC").dt.tz_convert(
            dtype.tz if isinstance(dtype, pd.DatetimeTZDtype) else zone
        )
    if isinstance(dtype, pd.ArrowDtype) and pa.types.is_date(dtype.pyarrow_dtype):
        dates = dates.dt.normalize()  # A date has no hours to round to.
    return dates if dates.dtype == dtype else dates.astype(dtype)
