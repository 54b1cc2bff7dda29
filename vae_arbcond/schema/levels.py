"""Columns with levels: booleans and categories."""

import dataclasses
import math

import numpy as np
import pandas as pd

from vae_arbcond.schema import cells as _cells
from vae_arbcond.schema.real import ColumnBase


class _Levels(ColumnBase):
    """A column whose x is the index of a level."""

    def _indices(self, x, keep, own):
        """int [N]: the model's index, or the user's own where `keep`."""
        x = self._finite(x, keep)
        index = np.rint(x).astype(np.int64)
        bad = (np.abs(x - index) > 1e-3) | (index < 0) | (index >= self.num_levels)
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"Column {self.name!r}: entry {row} of x is {x[row]}, but a column with "
                f"{self.num_levels} levels takes a whole number from 0 to "
                f"{self.num_levels - 1}; an average of draws is no level: use their mode."
            )
        return index if keep is None else np.where(keep, own, index)

    def to_user(self, x, raw: pd.Series | None = None, keep=None, unknown: str = "error"):
        """Level values, with the user's own where `keep`. Arguments as for a real column."""
        own = None if raw is None else self.to_model(raw, unknown)[0].astype(np.int64)
        column = self._cast(self._indices(x, keep, own))
        return column if raw is None else column.set_axis(raw.index)


@dataclasses.dataclass(frozen=True)
class Boolean(_Levels):
    """False or True; x is 0 or 1.

    Args:
      name: the column's name.
      dtype: 'bool', 'boolean', 'bool[pyarrow]', 'object', or a number dtype holding 0 and 1.
    """

    name: str
    dtype: str = "bool"

    num_levels = 2

    def __post_init__(self):
        self._check_name()
        dtype = _cells.parse_dtype(self.dtype)
        self._check_dtype(
            dtype.kind in "biuf" or _cells.is_object(dtype), "'bool' or 'boolean'"
        )

    def to_model(self, cells: pd.Series, unknown: str = "error"):
        """(x float32 [N], 0.0 where missing; present bool [N])."""
        del unknown
        missing = _cells.is_missing(cells)
        if cells.dtype.kind in "biuf":
            x = _cells.as_floats(cells)
            bad = ~missing & ~np.isin(x, (0.0, 1.0))
        else:
            values = [truth(v) for v in cells.to_numpy(object)]
            bad = ~missing & np.array([v is None for v in values], bool)
            x = np.array([v or 0 for v in values], np.float64)
        if bad.any():
            raise ValueError(
                f"Column {self.name!r} is boolean, but {_cells.first(cells, bad)}; write True "
                f"or False, or leave the cell empty."
            )
        return np.where(missing, 0.0, x).astype(np.float32), ~missing

    def _cast(self, index):
        dtype = _cells.parse_dtype(self.dtype)
        return pd.Series(index.astype(bool)).astype(dtype)


def truth(value) -> int | None:
    """0 or 1 for False, True, 0, 1 and the words; None for anything else."""
    value = _cells.plain(value)
    if isinstance(value, str):
        return {"true": 1, "false": 0}.get(value.strip().lower())
    return int(value) if isinstance(value, bool | int | float) and value in (0, 1) else None


@dataclasses.dataclass(frozen=True)
class Categorical(_Levels):
    """One of a fixed set of values; x is the value's index in `levels`.

    Args:
      name: the column's name.
      levels: text, integers, floats or bools, each kept with its exact type.
      dtype: the column's dtype: 'category', 'str', 'object', 'int64', ...
      level_dtype: dtype of the categories of a pandas categorical ('' for any other column).
      ordered: whether that categorical is ordered.
    """

    name: str
    levels: tuple[str | int | float | bool, ...]
    dtype: str = "object"
    level_dtype: str = ""
    ordered: bool = False

    def __post_init__(self):
        self._check_name()
        object.__setattr__(self, "levels", tuple(self.levels))
        for level in self.levels:
            fine = isinstance(level, str | int) or (
                isinstance(level, float) and math.isfinite(level)
            )
            if not fine:
                raise ValueError(
                    f"Column {self.name!r}: level {level!r} is a {type(level).__name__}; "
                    f"levels are text, integers, finite floats or bools. Convert the column "
                    f"with .astype('str') first."
                )
        if not self.levels or len({level_key(v) for v in self.levels}) < len(self.levels):
            raise ValueError(
                f"Column {self.name!r} needs at least one level and no level twice, got "
                f"{show_levels(self.levels)}."
            )
        _cells.parse_dtype(self.dtype)

    @property
    def num_levels(self) -> int:
        return len(self.levels)

    def to_model(self, cells: pd.Series, unknown: str = "error"):
        """(x float32 [N], 0.0 where missing; present bool [N]).

        Args:
          cells: the user's column.
          unknown: 'error', or 'missing': a value that is no level counts as missing.
        """
        index_of = {level_key(level): i for i, level in enumerate(self.levels)}
        codes, values = codes_of(cells)
        table = np.array([index_of.get(level_key(v), -2) for v in values] + [-1], np.int64)
        index = table[codes]  # -1 missing, -2 unknown
        if unknown == "error" and (index == -2).any():
            raise ValueError(
                f"Column {self.name!r}: {_cells.first(cells, index == -2)}, which is none of "
                f"the levels {show_levels(self.levels)}; correct that cell, count such cells "
                f"as missing (--unknown=missing, or unknown='missing' from Python), or fit "
                f"again on a table that has it."
            )
        return np.maximum(index, 0).astype(np.float32), index >= 0

    def _cast(self, index):
        if self.dtype == "category":
            categories = pd.Index(
                list(self.levels), dtype=_cells.parse_dtype(self.level_dtype)
            )
            return pd.Series(pd.Categorical.from_codes(index, categories, self.ordered))
        values = np.full(len(self.levels), None, object)
        values[:] = self.levels
        return pd.Series(values[index], dtype=object).astype(_cells.parse_dtype(self.dtype))


@dataclasses.dataclass(frozen=True)
class Ordinal(Categorical):
    """One of a fixed set of values with an order; fields as for Categorical.

    The levels stand in that order, the lowest first. (`ordered` speaks of a pandas categorical
    alone.)
    """


def level_key(value):
    """Equal for two values that are the same level: 1 and 1.0 are, 1, True and '1' are not."""
    value = _cells.plain(value)
    if isinstance(value, bool):
        return "bool", value
    return ("number", value) if isinstance(value, int | float) else (type(value), value)


def codes_of(cells: pd.Series) -> tuple[np.ndarray, list]:
    """(int [N]: position in the list of distinct values, -1 = missing; the list)."""
    if isinstance(cells.dtype, pd.CategoricalDtype):
        return cells.cat.codes.to_numpy(np.int64), [
            _cells.plain(v) for v in cells.cat.categories
        ]
    missing = _cells.is_missing(cells)
    if not _cells.is_object(cells.dtype):
        codes, values = pd.factorize(cells[~missing])
        values = [_cells.plain(v) for v in values]
    else:  # factorize would take True for 1.
        positions: dict = {}
        codes = []
        for value in cells[~missing]:
            try:
                codes.append(positions.setdefault(level_key(value), len(positions)))
            except TypeError:
                raise ValueError(
                    f"Column {cells.name!r} holds a {type(value).__name__} ({value!r}); a "
                    f"cell holds one number or text. Drop the column or split it first."
                ) from None
        values = [value for _, value in positions]
    every = np.full(len(cells), -1, np.int64)
    every[~missing] = codes
    return every, values


def show_levels(levels, most: int = 12) -> str:
    """The levels for a message, cut short when there are many."""
    shown = ", ".join(repr(v) for v in levels[:most])
    return f"[{shown}]" if len(levels) <= most else f"[{shown}, ... {len(levels)} in all]"
