"""From a column of the user's table to its entry in the schema."""

import datetime
import decimal
from collections.abc import Sequence

import numpy as np
import pandas as pd

from vae_arbcond.schema import cells as _cells
from vae_arbcond.schema.columns import KINDS, Column
from vae_arbcond.schema.levels import (
    Boolean,
    Categorical,
    Ordinal,
    codes_of,
    level_key,
    show_levels,
    truth,
)
from vae_arbcond.schema.real import (
    DAY,
    Count,
    Datetime,
    Integer,
    Numeric,
    Positive,
    positive_logs,
    seconds,
)


def check_some_value(frame: pd.DataFrame, rows: np.ndarray) -> None:
    """Refuses columns of which no value is present in `rows`, bool [N]: all of them at once.

    Raises:
      ValueError: names them.
    """
    empty = [
        name for name in frame.columns if not (~_cells.is_missing(frame[name]) & rows).any()
    ]
    if not empty:
        return
    where = "in the training rows" if not rows.all() else "in this table"
    if len(empty) == frame.shape[1] > 1:
        raise ValueError(
            f"No column has any value {where}: it is a table of nothing but gaps. See whether "
            f"what stands for a gap (table_file.missing) and the separator are right."
        )
    who, it = f"Columns {empty} have", "them"
    if len(empty) == 1:
        who, it = f"Column {empty[0]!r} has", "it"
    raise ValueError(
        f"{who} no value at all {where}, so nothing can be learnt about {it}; drop {it}: "
        f"table_file.drop = {empty}, or frame.drop(columns={empty})."
    )


def infer_column(
    cells: pd.Series,
    name: str,
    kind: str | Sequence | None,
    rows: np.ndarray,
    max_levels: int,
) -> Column:
    """The schema's entry for one column.

    Args:
      cells: the user's column [N].
      name: its name.
      kind: a key of KINDS, the levels of an ordinal column, or None to look at dtype and
        cells.
      rows: bool [N]; only these give mean, scale and constant. Levels come from all.
      max_levels: more distinct levels are an error.

    Raises:
      ValueError: the cells do not fit the kind.
    """
    if isinstance(kind, list | tuple):
        return _given_levels(cells, name, kind)
    kind = kind or infer_kind(cells, name)
    if kind in ("numeric", "integer", "positive", "count"):
        return _infer_number(cells, name, kind, rows)
    if kind == "datetime":
        return _infer_datetime(cells, name, rows)
    if kind == "boolean":
        if _cells.is_text(cells.dtype):
            column = Boolean(name)  # Words come back as False and True.
        else:
            column = Boolean(name, _cells.dtype_name(cells.dtype, name))
        column.to_model(cells)  # Refuses anything but two values.
        return column
    if kind == "ordinal":
        _refuse_unordered(cells, name)
    return _infer_levels(cells, name, max_levels, KINDS[kind])


def infer_kind(cells: pd.Series, name: str) -> str:
    """The kind of a column by its dtype; by its cells where the dtype says nothing.

    Raises:
      ValueError: an object column that mixes types, text most or all of which is numbers, or
        most of which is dates (which of the two is meant?), or a dtype no kind fits.
    """
    dtype = cells.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return "ordinal" if dtype.ordered else "categorical"
    if not isinstance(dtype, pd.SparseDtype):
        if dtype.kind == "f":
            return "integer" if _is_integer_with_gaps(cells) else "numeric"
        if dtype.kind in "biuM":
            return {"b": "boolean", "M": "datetime"}.get(dtype.kind, "integer")
    if not (_cells.is_text(dtype) or _cells.is_object(dtype)):
        raise ValueError(
            f"Column {name!r} has dtype {dtype}, which a schema cannot hold; convert it "
            f"first, with .astype('float64') or .astype('str'), say, or drop it."
        )
    present = cells[~_cells.is_missing(cells)]
    types = {_family(v): i for i, v in reversed(list(enumerate(present)))}
    if set(types) == {"integer", "number"}:
        return "numeric"
    if len(types) > 1:
        order = sorted(types, key=types.get)
        odd = np.arange(len(present)) == types[order[1]]
        raise ValueError(
            f"Column {name!r} mixes {' and '.join(order)}: {_cells.first(present, odd)} after "
            f"cells of type {order[0]}; convert it to one type, or override it as "
            f"'categorical'."
        )
    family = next(iter(types))
    if family == "text":
        _refuse_doubtful_text(present, name)
        return "categorical"
    if family not in ("integer", "number", "boolean"):
        raise ValueError(
            f"Column {name!r} holds objects of type {family}; convert it first (dates: "
            f"pd.to_datetime; decimals: .astype('float64')), or drop it."
        )
    return {"number": "numeric"}.get(family, family)


def _refuse_doubtful_text(present: pd.Series, name: str) -> None:
    """Refuses text that is meant as numbers, dates or booleans but for a few odd cells.

    Taking such a column for categories would be an answer to a question nobody asked.
    """
    for what, fits in (
        ("numbers", np.array([_cells.number_of_text(v) is not None for v in present], bool)),
        ("dates", _cells.are_dates(present)),
        ("true or false", np.array([truth(v) is not None for v in present], bool)),
    ):
        if fits.all():
            if what == "numbers":
                raise ValueError(
                    f"Column {name!r} is text, yet every cell is a number "
                    f"({_cells.first(present, fits)}); override it as 'numeric' to read "
                    f"the numbers, or as 'categorical' to keep the text as levels: "
                    f"table_file.overrides = {{{name!r}: 'numeric'}}, or overrides="
                    f"{{{name!r}: 'numeric'}} from Python."
                )
        elif fits.mean() > 0.5:
            raise ValueError(
                f"Column {name!r} is text, although {fits.sum()} of its {len(fits)} cells "
                f"are {what}: {_cells.first(present, ~fits)}. Correct or empty such cells, "
                f"or take the text as levels: table_file.overrides = {{{name!r}: "
                f"'categorical'}}, or overrides={{{name!r}: 'categorical'}} from Python."
            )


def _family(value) -> str:
    value = _cells.plain(value)
    for family, types in (
        ("boolean", bool),
        ("integer", int),
        ("number", float),
        ("text", str),
        ("date", datetime.date),
        ("decimal", decimal.Decimal),
    ):
        if isinstance(value, types):
            return family
    return type(value).__name__


def _is_integer_with_gaps(cells: pd.Series) -> bool:
    """Integers that pandas had to store as float64 because some are missing.

    Only NumPy's float64 qualifies, only with gaps, and only below 2**53: any other float
    column was somebody's choice.
    """
    if cells.dtype != np.dtype(np.float64):
        return False
    values = cells.to_numpy()
    here = values[~np.isnan(values)]
    return len(here) < len(values) and bool(
        (np.isfinite(here) & (np.abs(here) < 2.0**53) & (np.rint(here) == here)).all()
    )


def _infer_number(cells, name, kind, rows) -> Numeric | Integer | Positive | Count:
    if kind in ("positive", "count") and cells.dtype.kind == "b":
        raise ValueError(
            f"Column {name!r} is of true and false, which are no numbers; leave out its "
            f"override {kind!r}."
        )
    values = _cells.numbers_as_floats(cells, name)
    dtype = cells.dtype
    objects = _cells.is_object(dtype) and not any(isinstance(v, str) for v in cells)
    whole = kind in ("integer", "count")
    if whole:
        fraction = ~np.isnan(values) & (np.rint(values) != values)
        if fraction.any():
            raise ValueError(
                f"Column {name!r} cannot be of kind {kind!r}: {_cells.first(cells, fraction)}"
                f"; override it as 'numeric', or round it first."
            )
        keep = dtype.kind in "iu" or objects
    else:
        keep = dtype.kind == "f" or objects
    # Otherwise the column comes back as what it was read as: plain int64 or float64.
    plain = "int64" if whole else "float64"
    dtype = _cells.dtype_name(dtype, name) if keep else plain
    if kind == "positive":
        values = positive_logs(cells, name)
    mean, scale = _moments(values[rows & ~np.isnan(values)], name)
    _refuse_drowned(cells, values, rows, name)
    constant = None
    if scale is None:
        numbers = _cells.read_numbers(cells, name)[rows & ~np.isnan(values)]
        constant = _cells.plain(numbers.to_numpy(object)[0])
        constant = int(constant) if whole else float(constant)
    if kind == "count":
        column = Count(name, mean, dtype=dtype, constant=constant)
        column.to_model(cells)  # Refuses what is negative or too large.
        return column
    return KINDS[kind](name, mean, scale or 1.0, dtype=dtype, constant=constant)


def _refuse_drowned(cells, values, rows, name):
    """Refuses one value so far out that the others would be one number in float32."""
    known = rows & ~np.isnan(values)
    here = values[known]
    with np.errstate(over="ignore"):
        distance = np.abs(here - np.median(here))
    farthest = int(np.argmax(distance))
    rest = np.delete(here, farthest)
    if not len(rest) or rest.min() == rest.max():
        return
    if rest.max() - rest.min() < 2.0**-23 * distance[farthest]:  # The resolution of float32.
        at = np.zeros(len(values), bool)
        at[np.flatnonzero(known)[farthest]] = True
        raise ValueError(
            f"Column {name!r}: {_cells.first(cells, at)}, beside which all other values "
            f"({rest.min():g} to {rest.max():g}) would count as the same; correct that cell "
            f"or leave it empty."
        )


def _infer_datetime(cells, name, rows) -> Datetime:
    dates = _cells.read_datetimes(cells, name)
    values = seconds(dates)
    here = rows & ~np.isnan(values)
    mean, scale = _moments(values[here], name)
    constant = int(_cells.ticks(dates)[here][0]) if scale is None else None
    kept = cells.dtype if cells.dtype.kind == "M" else dates.dtype
    dtype = _cells.dtype_name(kept, name)
    # A fact of the whole column, as its dtype is.
    midnights = (values[~np.isnan(values)] % DAY == 0).all()
    daily = bool(midnights) and not _cells.zone_of(kept)
    return Datetime(name, mean, scale or 1.0, dtype=dtype, constant=constant, daily=daily)


def _moments(values: np.ndarray, name: str) -> tuple[float, float | None]:
    """Mean and standard deviation; the latter None where all values are the same."""
    if (values == values[0]).all():
        return float(values[0]), None
    with np.errstate(over="ignore"):
        mean = np.mean(values)
        distance = np.abs(values - mean)
        largest = distance.max()
    if not np.isfinite(largest):
        raise ValueError(
            f"Column {name!r} holds values too large for float64 arithmetic; divide the "
            f"column by a power of ten first."
        )
    # Scaled before squaring: 1e-200 squared would be 0.
    return float(mean), float(largest * np.sqrt(np.mean((distance / largest) ** 2)))


def _given_levels(cells, name, levels) -> Ordinal:
    """An ordinal column with the user's levels in the user's order."""
    dtype = _cells.dtype_name(cells.dtype, name)
    level_dtype, ordered = "", False
    if isinstance(cells.dtype, pd.CategoricalDtype):
        own = [_cells.plain(v) for v in cells.cat.categories]
        if {level_key(v) for v in own} != {level_key(v) for v in levels}:
            raise ValueError(
                f"Column {name!r} has the categories {show_levels(own)}, but its override "
                f"lists {show_levels(levels)}; list exactly the categories."
            )
        level_dtype = _cells.dtype_name(cells.cat.categories.dtype, name)
        ordered = bool(cells.cat.ordered)
    column = Ordinal(name, tuple(levels), dtype, level_dtype, ordered)
    column.to_model(cells)  # Refuses a cell that is none of them.
    return column


def _refuse_unordered(cells, name) -> None:
    """Refuses text as an ordinal column: the alphabet is not the order that is meant."""
    if isinstance(cells.dtype, pd.CategoricalDtype):
        return  # The categories stand in an order of the user's.
    found = codes_of(cells)[1]
    if any(isinstance(v, str) for v in found):
        raise ValueError(
            f"Column {name!r} is text, so the order of its levels "
            f"{show_levels(sorted(found, key=str))} is not known; list them, lowest first, in "
            f"place of 'ordinal': table_file.overrides = "
            f"{{{name!r}: {tuple(sorted(found, key=str))[:12]}}}, in the order you mean."
        )


def _infer_levels(cells, name, max_levels, kind) -> Categorical | Ordinal:
    level_dtype, ordered = "", False
    if isinstance(cells.dtype, pd.CategoricalDtype):
        levels = [_cells.plain(v) for v in cells.cat.categories]  # In their order.
        level_dtype = _cells.dtype_name(cells.cat.categories.dtype, name)
        ordered = bool(cells.cat.ordered)
    else:
        levels = codes_of(cells)[1]
        levels.sort(key=lambda v: (str(level_key(v)[0]), v))
    if len(levels) > max_levels:
        raise ValueError(
            f"Column {name!r} has {len(levels)} distinct values ({levels[0]!r}, "
            f"{levels[1]!r}, ...), more than max_levels={max_levels}. Free text and keys "
            f"cannot be imputed: drop it (table_file.drop = [{name!r}], or "
            f"frame.drop(columns=[{name!r}])); override it as 'numeric', 'integer' or "
            f"'datetime' if it is one; or raise max_levels."
        )
    dtype = _cells.dtype_name(cells.dtype, name)
    return kind(name, tuple(levels), dtype, level_dtype, ordered)
