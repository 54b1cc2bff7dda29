"""TableSchema inside a graph: tensors of cells, one a column, <-> the model's x.

| column      | tensor  | missing             | filled cells                                |
|-------------|---------|---------------------|---------------------------------------------|
| Numeric     | float64 | NaN                 | float64                                     |
| Positive    | float64 | NaN                 | float64 above 0                             |
| Integer     | float64 | NaN                 | float64, whole (exact below 2**53)          |
| Count       | float64 | NaN                 | float64, whole, from 0                      |
| Boolean     | string  | ""                  | "true" or "false"                           |
| Categorical | string  | "" (see `Levels`)   | the level as text                           |
| Ordinal     | string  | "" (see `Levels`)   | the level as text                           |
| Datetime    | string  | ""                  | ISO 8601; where the schema has a time zone, |
|             |         |                     | in UTC and with a Z                         |

Cells that were given come back as they were given, to the last bit.
"""

import numpy as np
import tensorflow as tf

from vae_arbcond.schema import (
    Boolean,
    Categorical,
    Column,
    Count,
    Datetime,
    Integer,
    Positive,
    TableSchema,
    cells,
)
from vae_arbcond.schema.levels import show_levels
from vae_arbcond.schema.real import FARTHEST, LARGEST_COUNT, LOG_LIMITS, POSITIVE_LIMITS
from vae_arbcond.serving import dates

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_MARKERS = ("", "NA", "<NA>", "<missing>")
_HUGE = 1e300  # In the model's units: beyond the limits of every dtype.


def require(good: tf.Tensor, given: tf.Tensor, before: str, after: str) -> None:
    """Stops the graph with one sentence about the first cell that is not good.

    Quotation marks would come out with a backslash before each; sentences use backticks.

    Args:
      good: bool [...].
      given: the cells, of the same shape.
      before, after: what the sentence says around the cell.
    """
    first = tf.argmin(tf.cast(tf.reshape(good, [-1]), tf.int32))
    flat = tf.pad(tf.reshape(given, [-1]), [[0, 1]])  # An empty batch has no first cell.
    cell = flat[first]
    if cell.dtype != tf.string:
        cell = tf.strings.as_string(cell, shortest=True)
    tf.debugging.Assert(tf.reduce_all(good), [tf.strings.join([before, cell, after])])


class Real:
    """A Numeric, Integer, Positive or Count column in a graph."""

    dtype = tf.float64
    missing = np.nan
    summary = "stddev"

    def __init__(self, column):
        self.column = column
        dtype = cells.parse_dtype(column.dtype)
        self.whole = isinstance(column, Integer | Count) or dtype.kind in "iu"
        self.limits, self.rounded_to = (-np.inf, np.inf), tf.float64
        if dtype.kind in "iuf":
            self.limits = tuple(float(end) for end in _ends(column))
            if dtype.kind == "f":
                self.rounded_to = {2: tf.float16, 4: tf.float32}.get(
                    dtype.itemsize, tf.float64
                )

    def to_model(self, given):
        """Cells [B] as (x float32 [B], 0 where missing; present bool [B])."""
        name, present = self.column.name, ~tf.math.is_nan(given)
        require(
            ~tf.math.is_inf(given),
            given,
            f"Column `{name}` holds ",
            ", which is not a finite number; correct that cell, or give NaN for a missing "
            "one.",
        )
        x = tf.where(present, tf.cast(self._standardised(given), tf.float32), 0.0)
        require(
            (tf.abs(x) <= FARTHEST) | tf.math.is_inf(given),
            given,
            f"Column `{name}` holds ",
            f", which is further than {FARTHEST:.0e} standard deviations from the training "
            f"mean {self.column.mean:g}; correct that cell, or give NaN for a missing one.",
        )
        return x, present

    def _standardised(self, given):
        return (given - self.column.mean) / self.column.scale

    def _values(self, x):
        return tf.cast(x, tf.float64) * self.column.scale + self.column.mean

    def to_user(self, x):
        """x [...] as cells [...]."""
        column = self.column
        if column.constant is not None:
            return tf.fill(tf.shape(x), tf.constant(float(column.constant), tf.float64))
        values = self._values(x)
        values = tf.clip_by_value(tf.round(values) if self.whole else values, *self.limits)
        return tf.cast(tf.cast(values, self.rounded_to), tf.float64)

    def summarise(self, draws):
        """Standard deviation, float64 [B], of x's draws [B, S]; of dates in seconds."""
        scale = self.column.scale if self.column.constant is None else 0.0
        return tf.math.reduce_std(tf.cast(draws, tf.float64), axis=1) * scale


class Logarithms(Real):
    """A Positive column in a graph."""

    def _standardised(self, given):
        smallest, largest = POSITIVE_LIMITS
        require(
            ((given >= smallest) & (given <= largest)) | tf.math.is_nan(given),
            given,
            f"Column `{self.column.name}` holds ",
            f", but it is positive; give a number above 0, from {smallest:g} to {largest:g}, "
            f"or NaN for a missing one.",
        )
        return super()._standardised(tf.math.log(given))

    def _values(self, x):
        return tf.exp(tf.clip_by_value(super()._values(x), *LOG_LIMITS))

    def summarise(self, draws):
        if self.column.constant is not None:
            return tf.zeros(tf.shape(draws)[:1], tf.float64)
        return tf.math.reduce_std(self._values(draws), axis=1)


class Counts(Real):
    """A Count column in a graph."""

    def _standardised(self, given):
        whole = (given == tf.round(given)) & (given >= 0) & (given <= LARGEST_COUNT)
        require(
            whole | tf.math.is_nan(given),
            given,
            f"Column `{self.column.name}` holds ",
            f", but it is a count; give a whole number from 0 to {LARGEST_COUNT}, or NaN for "
            f"a missing one.",
        )
        return given

    def _values(self, x):
        return tf.clip_by_value(tf.cast(x, tf.float64), 0.0, float(LARGEST_COUNT))


class Dates(Real):
    """A Datetime column in a graph."""

    dtype = tf.string
    missing = ""

    def __init__(self, column):
        self.column = column
        dtype = cells.parse_dtype(column.dtype)
        self.per_second = _PER_SECOND[cells.unit_of(dtype)]
        self.date_only = str(dtype).startswith(("date32", "date64"))
        ends = cells.read_datetimes(_ends(column), column.name)
        ticks = cells.ticks(ends) // _PER_SECOND[cells.unit_of(ends.dtype)]
        self.limits = [float(seconds) for seconds in ticks]

    def to_model(self, given):
        text, zone = tf.strings.strip(given), self.column.timezone
        present = text != ""
        seconds, valid = dates.parse(text, with_offset=zone is not None)
        wanted = "2024-12-31T23:59:59+01:00" if zone else "2024-12-31T23:59:59"
        require(
            valid | ~present,
            given,
            f"Column `{self.column.name}` holds dates, but `",
            f"` is none of the kind it was fitted on; write it like {wanted}, "
            f"{'with an' if zone else 'without an'} offset from UTC, or leave the text empty "
            f"for a missing one.",
        )
        x = tf.cast((seconds - self.column.mean) / self.column.scale, tf.float32)
        return tf.where(present, x, 0.0), present

    def to_user(self, x):
        column = self.column
        if column.constant is not None:
            ticks = tf.fill(tf.shape(x), tf.constant(column.constant, tf.int64))
        else:
            seconds = tf.cast(x, tf.float64) * column.scale + column.mean
            seconds = tf.clip_by_value(seconds, *self.limits)
            if column.daily:
                seconds = tf.round(seconds / dates.DAY) * dates.DAY
            ticks = tf.cast(tf.round(seconds * self.per_second), tf.int64)
        suffix = "Z" if column.timezone else ""
        return dates.render(ticks, self.per_second, suffix, self.date_only)


class Levels:
    """A Boolean or Categorical column in a graph: text, whatever the levels are.

    Integers and floats are written as Python does ("3", "2.5"), booleans as true and false.
    The text that stands for a missing cell, `missing`, is "" unless that is a level; then it
    is the first of NA, <NA> and <missing> that is none.

    Raises:
      ValueError: two levels have the same text (1 and "1"), or all of those are levels.
    """

    dtype = tf.string
    summary = "probability"

    def __init__(self, column):
        self.column = column
        self.folds_case = isinstance(column, Boolean)
        self.levels = (False, True) if self.folds_case else column.levels
        self.texts = [_text(level) for level in self.levels]
        if len(set(self.texts)) < len(self.texts):
            raise ValueError(
                f"Column {column.name!r} has levels that are the same as text, "
                f"{show_levels(self.levels)}, and a served model takes levels as text; rename "
                f"one of them in the data and train again."
            )
        free = [marker for marker in _MARKERS if marker not in self.texts]
        if not free:
            raise ValueError(
                f"Column {column.name!r} has each of {_MARKERS} as a level, so no text is "
                f"left for a missing cell; rename one of them in the data and train again."
            )
        self.missing = free[0]

    def to_model(self, given):
        text = given
        if self.folds_case:
            text = tf.strings.lower(tf.strings.strip(given))
        present = text != self.missing
        equal = text[:, tf.newaxis] == tf.constant(self.texts)
        known = tf.reduce_any(equal, -1)
        require(
            known | ~present,
            given,
            f"Column `{self.column.name}` holds `",
            f"`, which is none of its levels {_show(self.texts)}; write one of them, or "
            f"{f'`{self.missing}`' if self.missing else 'the empty text'} for a missing cell.",
        )
        x = tf.cast(tf.argmax(tf.cast(equal, tf.int32), -1), tf.float32)
        return tf.where(present, x, 0.0), present

    def to_user(self, x):
        return tf.gather(tf.constant(self.texts), tf.cast(tf.round(x), tf.int32))

    def summarise(self, draws):
        """Share of each level, float32 [B, levels], among x's draws [B, S]."""
        shares = tf.one_hot(tf.cast(tf.round(draws), tf.int32), len(self.texts))
        return tf.reduce_mean(shares, axis=1)


def in_graph(column: Column) -> Real | Dates | Levels:
    """The column's twin that works on tensors."""
    if isinstance(column, Boolean | Categorical):
        return Levels(column)
    twins = {Datetime: Dates, Positive: Logarithms, Count: Counts}
    return twins.get(type(column), Real)(column)


class Table:
    """TableSchema in a graph.

    Args:
      schema: the columns; `tensor_names` names their tensors.

    Raises:
      ValueError: a column whose levels cannot be told apart as text, or whose name is needed
        for an output of another column.
    """

    def __init__(self, schema: TableSchema):
        self.twins = {
            schema.tensor_names[column.name]: in_graph(column) for column in schema.columns
        }
        for name, twin in self.twins.items():
            for output in (f"{name}_draws", f"{name}_{twin.summary}"):
                if output in self.twins:
                    raise ValueError(
                        f"The column served as {output!r} has the name of an output that the "
                        f"column served as {name!r} needs; rename one of them and train again."
                    )

    def specs(self) -> list[tf.TensorSpec]:
        """One tensor [B] a column."""
        return [tf.TensorSpec([None], t.dtype, name) for name, t in self.twins.items()]

    def describe(self) -> list[dict]:
        """What a client must know of each column, as JSON values.

        `name`, its `tensor`, the tensor's `dtype`, the text `missing` (null: NaN), `levels` as
        text in the order of `<tensor>_probability` (null for a real column).
        """
        return [
            {
                "name": twin.column.name,
                "tensor": name,
                "dtype": twin.dtype.name,
                "whole": getattr(twin, "whole", False),
                "missing": twin.missing if twin.dtype == tf.string else None,
                "levels": getattr(twin, "texts", None),
            }
            for name, twin in self.twins.items()
        ]

    def cells(self, x, present) -> dict[str, tf.Tensor]:
        """Cells [B] by tensor name as a client would send x [B, D] with gaps."""
        return {
            name: tf.where(present[:, d], twin.to_user(x[:, d]), twin.missing)
            for d, (name, twin) in enumerate(self.twins.items())
        }

    def to_model(self, given: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """Cells [B] by tensor name as x float32 [B, D] and present bool [B, D]."""
        pairs = [twin.to_model(given[name]) for name, twin in self.twins.items()]
        return tf.stack([x for x, _ in pairs], -1), tf.stack([p for _, p in pairs], -1)

    def to_user(self, given, present, completion, draws) -> dict[str, tf.Tensor]:
        """Completed cells, their draws and their summaries, by output name.

        Args:
          given: the cells [B] by tensor name; kept where `present`.
          present: bool [B, D].
          completion: float32 [B, D].
          draws: float32 [B, S, D].
        """
        outputs = {}
        for d, (name, twin) in enumerate(self.twins.items()):
            kept, cell = present[:, d], given[name]
            outputs[name] = tf.where(kept, cell, twin.to_user(completion[:, d]))
            outputs[f"{name}_draws"] = tf.where(
                kept[:, tf.newaxis], cell[:, tf.newaxis], twin.to_user(draws[..., d])
            )
            summary = twin.summarise(draws[..., d])
            if twin.summary == "stddev":
                summary = tf.where(kept, tf.zeros_like(summary), summary)
            outputs[f"{name}_{twin.summary}"] = summary
        return outputs


def _ends(column):
    """The smallest and the largest cell of a real column, asked of the column itself."""
    with np.errstate(over="ignore"):
        return column.to_user(np.array([-_HUGE, _HUGE]))


def _show(texts, most=12):
    shown = ", ".join(f"`{text}`" for text in texts[:most])
    return shown if len(texts) <= most else f"{shown}, ... {len(texts)} in all"


def _text(level) -> str:
    return str(level).lower() if isinstance(level, bool) else str(level)
