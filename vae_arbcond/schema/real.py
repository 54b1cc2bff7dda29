"""Columns of numbers and dates: most have a mean and a scale."""

import dataclasses
import math

import numpy as np
import pandas as pd

from vae_arbcond.schema import cells as _cells

DAY = 86_400  # seconds; the limits below are whole days
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
# What imputed dates are clipped to: 0001-01-02 .. 9999-12-30, which every tool can print; and
# a day inside what 64 bits of nanoseconds hold. The day leaves room for any time zone.
_DATE_LIMITS = (-62135510400, 253402214400)
LARGEST_COUNT = 2**24  # float32 has every whole number up to here.
POSITIVE_LIMITS = (1e-100, 1e100)  # of positive columns: their squares exist
LOG_LIMITS = (-230.0, 230.0)  # Just inside them, so that what is drawn can be read again.
FARTHEST = 1e16  # standard deviations; networks have no answer to more
_NANOSECOND_LIMITS = (-9223286400, 9223286400)


class ColumnBase:
    """What all columns share."""

    num_levels = 0  # 0 = a real column

    def log_jacobian(self, x: np.ndarray) -> np.ndarray:
        """log |dx / d(user's unit)| at x, of x's shape; 0 where a value has no unit."""
        return np.zeros(np.shape(x))

    def linear(self, x: np.ndarray) -> np.ndarray:
        """x on a scale that is linear in the user's unit, float64 of x's shape."""
        return np.asarray(x, np.float64)

    def _check_name(self):
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(
                f"A column needs a name of at least one character, got {self.name!r}."
            )

    def _check_dtype(self, allowed: bool, wanted: str):
        if not allowed:
            raise ValueError(
                f"Column {self.name!r} ({type(self).__name__}) cannot have dtype "
                f"{self.dtype!r}; use {wanted}."
            )

    def _finite(self, x: np.ndarray, keep: np.ndarray | None) -> np.ndarray:
        """x as float64, 0 where the user's own cell is kept; refuses NaN elsewhere."""
        x = np.asarray(x, np.float64)
        x = x if keep is None else np.where(keep, 0.0, x)
        if not np.isfinite(x).all():
            row = int(np.argmin(np.isfinite(x)))
            raise ValueError(
                f"Column {self.name!r}: entry {row} of x is {x[row]} and no observed cell "
                f"covers it; only finite model values can be turned into the user's units."
            )
        return x


class _Real(ColumnBase):
    """A column with a mean and a scale: x = (value - mean) / scale."""

    def _check_scale(self):
        self._check_name()
        if not math.isfinite(self.mean):
            raise ValueError(f"Column {self.name!r}: mean must be finite, got {self.mean}.")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(
                f"Column {self.name!r}: scale must be finite and above 0, got {self.scale}. A "
                f"column with one value has scale 1 and that value as `constant`."
            )

    def _standardise(self, values: np.ndarray, cells: pd.Series):
        present = ~np.isnan(values)
        with np.errstate(over="ignore"):
            x = np.where(present, (values - self.mean) / self.scale, 0.0).astype(np.float32)
        far = ~(np.abs(x) <= FARTHEST)
        if far.any():
            raise ValueError(
                f"Column {self.name!r}: {_cells.first(cells, far)}, which is further than "
                f"{FARTHEST:.0e} standard deviations ({self.scale:g}) from the training mean "
                f"{self.mean:g}; correct that cell or leave it empty."
            )
        return x, present

    def to_model(self, cells: pd.Series, unknown: str = "error"):
        """(x float32 [N], 0.0 where missing; present bool [N]). `unknown` plays no part."""
        del unknown
        return self._standardise(_cells.numbers_as_floats(cells, self.name), cells)

    def to_user(self, x, raw: pd.Series | None = None, keep=None) -> pd.Series:
        """Model values in the user's unit, with the cells of `raw` where `keep`.

        Args:
          x: [N]; anything where `keep`.
          raw: the user's column [N], or None.
          keep: bool [N], given with `raw`: which of its cells to copy unchanged.

        Returns:
          A Series of this column's dtype; of `raw`'s own where that alone can hold the kept
          cells unchanged (a fraction in an integer column, say).
        """
        x = self._finite(x, keep)
        dtype = _cells.parse_dtype(self.dtype)
        if keep is None or not keep.any():
            return self._cast(x, dtype)
        kept = self._read(raw)[keep]
        exact = _cells.cast_exactly(kept, dtype)
        if exact is None:
            dtype, exact = kept.dtype, kept
        column = self._cast(x, dtype).set_axis(raw.index)
        column.iloc[np.flatnonzero(keep)] = exact.array
        return column

    def _read(self, cells: pd.Series) -> pd.Series:
        return _cells.read_numbers(cells, self.name)

    def _cast(self, x: np.ndarray, dtype) -> pd.Series:
        return _cells.cast_numbers(self._values(x), dtype, whole=False)

    def _values(self, x: np.ndarray) -> np.ndarray:
        return x * self.scale + self.mean

    def stddev(self, draws: np.ndarray) -> np.ndarray:
        """Standard deviation in the user's unit (dates: seconds) of x's draws [S, N]: [N]."""
        if self.constant is not None:
            return np.zeros(draws.shape[1:])
        return draws.astype(np.float64).std(0) * self.scale

    def log_jacobian(self, x):
        return np.full(np.shape(x), -np.log(self.scale))


@dataclasses.dataclass(frozen=True)
class Numeric(_Real):
    """A real number.

    Args:
      name: the column's name.
      mean: over the present training cells, in the user's unit.
      scale: their standard deviation, in the user's unit; > 0.
      dtype: what the user's column is made of and comes back as.
      unit: for people and axis labels; no arithmetic depends on it.
      constant: the only training value; imputed cells always get it, and scale is 1.
    """

    name: str
    mean: float
    scale: float
    dtype: str = "float64"
    unit: str = ""
    constant: float | None = None

    def __post_init__(self):
        self._check_scale()
        self._check_dtype(_cells.real_dtype(self.dtype), "'float64', say")

    def _values(self, x):
        return super()._values(x) if self.constant is None else np.full(x.shape, self.constant)


@dataclasses.dataclass(frozen=True)
class Integer(_Real):
    """A whole number: real to the model, rounded on the way back. Fields as for Numeric."""

    name: str
    mean: float
    scale: float
    dtype: str = "int64"
    unit: str = ""
    constant: int | None = None

    def __post_init__(self):
        self._check_scale()
        dtype = _cells.parse_dtype(self.dtype)
        self._check_dtype(dtype.kind in "iu" or _cells.is_object(dtype), "'int64' or 'Int64'")

    def _cast(self, x, dtype):
        if self.constant is None:
            return _cells.cast_numbers(self._values(x), dtype, whole=True)
        # Not by way of float64, which would round a constant above 2**53.
        return pd.Series(np.full(x.shape, self.constant, object)).astype(dtype)


@dataclasses.dataclass(frozen=True)
class Positive(Numeric):
    """A real number above 0: x is its standardised logarithm.

    A Normal x is a log-normal value. A completion, the mean of x, is the value's median.

    Args:
      name: the column's name.
      mean: of the logarithms of the present training cells.
      scale: their standard deviation; > 0.
      dtype, unit, constant: as for Numeric.
    """

    def to_model(self, cells: pd.Series, unknown: str = "error"):
        del unknown
        return self._standardise(positive_logs(cells, self.name), cells)

    def _values(self, x):
        if self.constant is not None:
            return np.full(x.shape, self.constant)
        # Within the logarithms of float64's numbers: never 0, never infinite.
        return np.exp(np.clip(x * self.scale + self.mean, *LOG_LIMITS))

    def _cast(self, x, dtype):
        values = self._values(x)
        numpy_dtype = getattr(dtype, "numpy_dtype", dtype)
        if dtype.kind == "f":  # A small float has its own smallest number above 0.
            values = np.maximum(values, float(np.finfo(numpy_dtype).tiny))
        elif dtype.kind in "iu":
            values = np.maximum(values, 1.0)
        return _cells.cast_numbers(values, dtype, whole=False)

    def stddev(self, draws):
        return self.linear(draws).std(0)

    def linear(self, x):
        return self._values(np.asarray(x, np.float64))

    def log_jacobian(self, x):
        # dx / dv = 1 / (scale v).
        return -np.log(self.scale) - (np.asarray(x, np.float64) * self.scale + self.mean)


def positive_logs(cells: pd.Series, column: str) -> np.ndarray:
    """Logarithms of cells, float64 [N], NaN where missing.

    Raises:
      ValueError: a cell is no number above 0.
    """
    values = _cells.numbers_as_floats(cells, column)
    bad = values <= 0
    if bad.any():
        raise ValueError(
            f"Column {column!r} is positive, but {_cells.first(cells, bad)}; correct that "
            f"cell, leave it empty, or override the column as 'numeric' (as 'count' if it "
            f"holds whole numbers from 0)."
        )
    bad = (values < POSITIVE_LIMITS[0]) | (values > POSITIVE_LIMITS[1])
    if bad.any():
        raise ValueError(
            f"Column {column!r}: {_cells.first(cells, bad)}; a positive column holds numbers "
            f"from {POSITIVE_LIMITS[0]:g} to {POSITIVE_LIMITS[1]:g}. Correct that cell or "
            f"leave it empty."
        )
    return np.log(values)


@dataclasses.dataclass(frozen=True)
class Count(_Real):
    """A whole number from 0, of which the model gives the probability: x is the number.

    Args:
      name: the column's name.
      mean: over the present training cells; the model's networks use it as the scale.
      dtype, unit, constant: as for Integer.
    """

    name: str
    mean: float
    dtype: str = "int64"
    unit: str = ""
    constant: int | None = None

    scale = 1.0

    def __post_init__(self):
        self._check_scale()
        if self.mean < 0:
            raise ValueError(f"Column {self.name!r}: a count's mean is not {self.mean}.")
        dtype = _cells.parse_dtype(self.dtype)
        self._check_dtype(dtype.kind in "iu" or _cells.is_object(dtype), "'int64' or 'Int64'")

    def to_model(self, cells: pd.Series, unknown: str = "error"):
        del unknown
        values = _cells.numbers_as_floats(cells, self.name)
        present = ~np.isnan(values)
        bad = present & ((values < 0) | (values != np.rint(values)) | (values > LARGEST_COUNT))
        if bad.any():
            raise ValueError(
                f"Column {self.name!r} holds counts, whole numbers from 0 to "
                f"{LARGEST_COUNT:,}, but {_cells.first(cells, bad)}; correct that cell, leave "
                f"it empty, or override the column as 'integer' or 'numeric'."
            )
        return np.where(present, values, 0.0).astype(np.float32), present

    def _cast(self, x, dtype):
        return _cells.cast_numbers(self._values(x), dtype, whole=True)

    def _values(self, x):
        if self.constant is not None:
            return np.full(x.shape, float(self.constant))
        return np.clip(x, 0.0, LARGEST_COUNT)

    def log_jacobian(self, x):
        return np.zeros(np.shape(x))  # A probability has no unit.


@dataclasses.dataclass(frozen=True)
class Datetime(_Real):
    """A point in time; x is standardised seconds.

    Args:
      name: the column's name.
      mean: over the present training cells, in seconds since 1970-01-01 UTC.
      scale: their standard deviation in seconds; > 0.
      dtype: with its resolution and time zone: 'datetime64[us, Europe/Berlin]', say.
      constant: the only training value, in ticks of the dtype since 1970-01-01 UTC.
      daily: whether these are days: imputed dates are then rounded to midnight.
    """

    name: str
    mean: float
    scale: float
    dtype: str = "datetime64[us]"
    constant: int | None = None
    daily: bool = False

    def __post_init__(self):
        self._check_scale()
        self._check_dtype(
            _cells.parse_dtype(self.dtype).kind == "M", "'datetime64[us]' or with a zone"
        )
        if self.daily and self.timezone:
            raise ValueError(
                f"Column {self.name!r}: days have no time zone, so daily=True cannot go with "
                f"{self.dtype!r}; take daily=False."
            )

    @property
    def timezone(self) -> str | None:
        return _cells.zone_of(_cells.parse_dtype(self.dtype))

    def to_model(self, cells: pd.Series, unknown: str = "error"):
        del unknown
        return self._standardise(seconds(self._read(cells)), cells)

    def _read(self, cells):
        dates = _cells.read_datetimes(cells, self.name)
        if dates.notna().any() and bool(_cells.zone_of(dates.dtype)) != bool(self.timezone):
            has, had = ("has", "none") if self.timezone is None else ("lacks", self.timezone)
            raise ValueError(
                f"Column {self.name!r} {has} a time zone, but the schema was fitted with "
                f"{had}; convert it first with .dt.tz_localize(...)."
            )
        return dates

    def _cast(self, x, dtype):
        unit = _cells.unit_of(dtype)
        if self.constant is not None:
            own = _cells.unit_of(_cells.parse_dtype(self.dtype))
            # Exact unless `dtype` is coarser than the constant, which cast_exactly excludes.
            ticks = np.full(
                x.shape, self.constant * _PER_SECOND[unit] // _PER_SECOND[own], np.int64
            )
        else:
            limits = _NANOSECOND_LIMITS if unit == "ns" else _DATE_LIMITS
            seconds = np.clip(self._values(x), *limits)
            if self.daily:
                seconds = np.rint(seconds / DAY) * DAY
            ticks = np.rint(seconds * _PER_SECOND[unit])
        return _cells.cast_ticks(ticks, dtype)


def seconds(dates: pd.Series) -> np.ndarray:
    """datetime64 cells as seconds since 1970-01-01 UTC: float64 [N], NaN where missing."""
    values = _cells.ticks(dates) / _PER_SECOND[_cells.unit_of(dates.dtype)]
    return np.where(dates.isna().to_numpy(bool), np.nan, values)
