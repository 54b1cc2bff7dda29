"""TableSchema: the columns of a table in order, and the map between it and the model's x."""

import dataclasses
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from vae_arbcond.schema import serialisation
from vae_arbcond.schema.columns import KINDS, Column
from vae_arbcond.schema.inference import check_some_value, infer_column
from vae_arbcond.schema.levels import Ordinal
from vae_arbcond.schema.real import Count, Positive

# Inputs that every serving signature has besides the columns.
RESERVED_TENSOR_NAMES = ("seed", "num_samples")


@dataclasses.dataclass(frozen=True)
class TableSchema:
    """Columns in order: column i is x[:, i].

    Args:
      columns: of the classes above, names all different.
    """

    columns: tuple[Column, ...]

    def __post_init__(self):
        object.__setattr__(self, "columns", tuple(self.columns))
        if not self.columns:
            raise ValueError("A TableSchema needs at least one column, got none.")
        _refuse_duplicates(list(self.names), "The schema")

    @classmethod
    def infer(
        cls,
        frame: pd.DataFrame,
        overrides: Mapping[str, str | Sequence | Column] | None = None,
        max_levels: int = 100,
        rows: np.ndarray | None = None,
    ) -> "TableSchema":
        """A schema for the columns of `frame`; the rules are in the package's docstring.

        Args:
          frame: the user's table; missing cells are None, NaN, NaT or NA.
          overrides: by column name: 'numeric', 'integer', 'positive', 'count', 'boolean',
            'categorical', 'ordinal' or 'datetime'; the levels of an ordinal column, lowest
            first; or a finished column object.
          max_levels: a categorical column with more distinct values is an error.
          rows: bool [N]: which rows give means and scales (the training rows); kinds, dtypes
            and levels come from all rows. Default: all.

        Raises:
          TypeError: `frame` is no DataFrame.
          ValueError: see the package's docstring; the message names the column.
        """
        overrides = dict(overrides or {})
        _check_frame(frame)
        for name, override in overrides.items():
            if name not in frame.columns:
                raise ValueError(
                    f"The override for {name!r} names no column; the table has "
                    f"{list(frame.columns)}."
                )
            if isinstance(override, str) and override not in KINDS:
                raise ValueError(
                    f"Column {name!r}: the override {override!r} is no kind of column; use "
                    f"one of {list(KINDS)}, or drop the column from the table."
                )
            if not isinstance(override, str | list | tuple | Column):
                raise ValueError(
                    f"Column {name!r}: an override is a kind ({', '.join(KINDS)}), the list "
                    f"of an ordinal column's levels or a column object, got {override!r}."
                )
            if isinstance(override, Column) and override.name != name:
                raise ValueError(
                    f"Column {name!r}: its override is a column named {override.name!r}; use "
                    f"the same name."
                )
        rows = np.ones(len(frame), bool) if rows is None else np.asarray(rows)
        if rows.dtype != bool or rows.shape != (len(frame),):
            raise ValueError(
                f"rows must be bool [{len(frame)}] (True = use the row's values), got "
                f"{rows.dtype} {list(rows.shape)}."
            )
        inferred = [n for n in frame.columns if not isinstance(overrides.get(n), Column)]
        check_some_value(frame[inferred], rows)
        columns = []
        for name in frame.columns:
            kind = overrides.get(name)
            if not isinstance(kind, Column):
                kind = infer_column(frame[name], name, kind, rows, max_levels)
            columns.append(kind)
        return cls(tuple(columns))

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in order."""
        return tuple(column.name for column in self.columns)

    @property
    def levels(self) -> tuple[int, ...]:
        """Levels of each column: 0 = real, 2 = boolean."""
        return tuple(column.num_levels for column in self.columns)

    @property
    def ordered(self) -> tuple[bool, ...] | None:
        """Which columns have levels with an order; None when none has."""
        ordered = tuple(isinstance(column, Ordinal) for column in self.columns)
        return ordered if any(ordered) else None

    @property
    def counts(self) -> tuple[float, ...] | None:
        """A typical value, above 0, of each column that is a count; 0 for any other.

        None when there is no count.
        """
        counts = tuple(max(c.mean, 0.1) if isinstance(c, Count) else 0.0 for c in self.columns)
        return counts if any(counts) else None

    @property
    def num_features(self) -> int:
        return len(self.columns)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row of x."""
        return (len(self.columns),)

    @property
    def tensor_names(self) -> dict[str, str]:
        """Column name -> tensor name: letters, digits and _ only, all different in any case.

        Accents go, other characters become _, a first character that is no letter gets the
        prefix column_, and so do the names every signature needs for itself. Of two columns
        that would share a name, one that had it to begin with keeps it; the rest are
        numbered from 2 in column order.
        """
        natural = {name: _tensor_name(name) for name in self.names}
        result: dict[str, str] = {}
        taken: set[str] = set()
        for name in self.names:
            if natural[name] == name and name.lower() not in taken:
                result[name] = name
                taken.add(name.lower())
        for name in self.names:
            if name not in result:
                candidate, number = natural[name], 2
                while candidate.lower() in taken:
                    candidate, number = f"{natural[name]}_{number}", number + 1
                result[name] = candidate
                taken.add(candidate.lower())
        return {name: result[name] for name in self.names}

    def to_model(
        self, frame: pd.DataFrame, unknown: str = "error", extra: str = "error"
    ) -> tuple[np.ndarray, np.ndarray]:
        """The user's table in the model's units.

        Args:
          frame: [N rows]; columns in any order.
          unknown: a category that is no level: 'error', or 'missing' to count it as missing.
          extra: a column that is not in the schema: 'error' or 'ignore'.

        Returns:
          x float32 [N, D]: (value - mean) / scale, or the level's index; 0.0 where missing.
          present bool [N, D]: True = the cell has a value.

        Raises:
          ValueError: see the package's docstring; the message names column, row and value.
        """
        _check_choice("unknown", unknown, ("error", "missing"))
        _check_choice("extra", extra, ("error", "ignore"))
        self._check_columns(frame)
        others = [name for name in frame.columns if name not in self.names]
        if others and extra == "error":
            raise ValueError(
                f"The table has column(s) {others} that the schema does not list; drop them, "
                f"or pass extra='ignore'."
            )
        pairs = [column.to_model(frame[column.name], unknown) for column in self.columns]
        return np.stack([x for x, _ in pairs], -1), np.stack([p for _, p in pairs], -1)

    def to_user(
        self,
        x: np.ndarray,
        raw: pd.DataFrame | None = None,
        observed: np.ndarray | None = None,
        unknown: str = "error",
    ) -> pd.DataFrame:
        """Model values as the user's table; the cells of `raw` come back bit for bit.

        Args:
          x: [N, D]; anything, NaN included, at the cells that come from `raw`.
          raw: the table x was made from. Its index, its order of columns and its further
            columns are kept.
          observed: bool [N, D]: which of raw's present cells to copy. Default: all.
          unknown: as in `to_model`: with 'missing', a cell with an unknown category is
            replaced by the model's.

        Returns:
          A DataFrame [N rows] with the schema's dtypes, complete in the schema's columns.

        Raises:
          ValueError: shapes do not fit, x is not finite, or a categorical entry of x is not
            a level's index.
        """
        x = np.asarray(x)
        if x.ndim != 2 or x.shape[1] != self.num_features:
            raise ValueError(
                f"x has shape {list(x.shape)}, but this schema needs "
                f"[N, {self.num_features}]; give draws [S, N, D] one at a time."
            )
        if raw is None:
            if observed is not None:
                raise ValueError("observed says which cells of raw to copy; give raw too.")
            return pd.DataFrame(
                {c.name: c.to_user(x[:, i]) for i, c in enumerate(self.columns)}
            )
        if len(raw) != len(x):
            raise ValueError(f"x has {len(x)} rows but raw has {len(raw)}; they must agree.")
        self._check_columns(raw)
        keep = self.to_model(raw, unknown, extra="ignore")[1]
        if observed is not None:
            observed = np.asarray(observed)
            if observed.dtype != bool or observed.shape != x.shape:
                raise ValueError(
                    f"observed must be bool {list(x.shape)} (True = copy raw's cell), got "
                    f"{observed.dtype} {list(observed.shape)}."
                )
            keep = keep & observed
        completed = {
            c.name: _complete(c, x[:, i], raw[c.name], keep[:, i], unknown)
            for i, c in enumerate(self.columns)
        }
        series = [completed.get(name, raw[name]) for name in raw.columns]
        frame = pd.DataFrame(dict(enumerate(series)), index=raw.index)
        frame.columns = raw.columns
        return frame

    def log_jacobian(self, x: np.ndarray, features: np.ndarray) -> np.ndarray:
        """log |dx / d(user's unit)| over a set of features, in nats.

        log p in the user's units = log p in the model's + this. Numbers count in their own
        unit, dates in seconds; levels and counts have probabilities, no unit, and add 0.

        Args:
          x: [..., D]; a positive column's depends on it. Anything outside `features`.
          features: bool [..., D]; True = the feature is in the set.

        Returns:
          float64 [...].
        """
        features = np.asarray(features)
        if features.dtype != bool or features.shape[-1:] != (self.num_features,):
            raise ValueError(
                f"features must be bool [..., {self.num_features}] (True = in the set), got "
                f"{features.dtype} {list(features.shape)}."
            )
        x = np.asarray(x)
        if x.shape[-1:] != (self.num_features,):
            raise ValueError(f"x must be [..., {self.num_features}], got {list(x.shape)}.")
        each = np.stack(
            [column.log_jacobian(x[..., i]) for i, column in enumerate(self.columns)], -1
        )
        return np.where(features, each, 0.0).sum(-1)

    def linear(self, x: np.ndarray) -> np.ndarray:
        """x with every number on a scale that is linear in the user's unit.

        Only positive columns change: from standardised logarithms to values.

        Args:
          x: [..., D].

        Returns:
          [..., D]: float64; x itself where nothing changes.
        """
        if not any(isinstance(column, Positive) for column in self.columns):
            return x
        return np.stack(
            [column.linear(x[..., i]) for i, column in enumerate(self.columns)], -1
        )

    def to_json(self) -> str:
        """Versioned JSON text; `from_json` gives an equal schema."""
        kind_of = {cls: kind for kind, cls in KINDS.items()}
        columns = [
            {"kind": kind_of[type(c)], **serialisation.fields_to_json(c)} for c in self.columns
        ]
        return serialisation.dump("table", {"columns": columns})

    @classmethod
    def from_json(cls, text: str) -> "TableSchema":
        """The schema written by `to_json`.

        Raises:
          ValueError: not JSON, unknown version or key, or a value of the wrong type.
        """
        return cls.from_document(serialisation.parse(text))

    @classmethod
    def from_document(cls, document: dict) -> "TableSchema":
        """As `from_json`, from the parsed document without its version."""
        check = serialisation.check_keys
        check(document, {"kind", "columns"}, {"kind", "columns"}, "the schema")
        if document["kind"] != "table" or not isinstance(document["columns"], list):
            raise ValueError(
                f"Schema JSON: a table schema with a list of columns was wanted, got kind "
                f"{document['kind']!r}; load_schema reads every kind."
            )
        columns = []
        for i, values in enumerate(document["columns"]):
            where = f"column {i}"
            kind = values.get("kind") if isinstance(values, dict) else None
            if not isinstance(kind, str) or kind not in KINDS:
                raise ValueError(
                    f"Schema JSON: {where} must be an object whose 'kind' is one of "
                    f"{list(KINDS)}, got {kind!r}."
                )
            rest = {key: value for key, value in values.items() if key != "kind"}
            columns.append(serialisation.fields_from_json(KINDS[kind], rest, where))
        return cls(tuple(columns))

    def save(self, path: str | os.PathLike) -> None:
        """Writes `to_json` to `path`: whole or not at all."""
        serialisation.save_text(self.to_json(), path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "TableSchema":
        """The schema in file `path`."""
        return cls.from_json(serialisation.read_text(path))

    def _check_columns(self, frame):
        _check_frame(frame)
        lacking = [name for name in self.names if name not in frame.columns]
        if lacking:
            raise ValueError(
                f"The table lacks column(s) {lacking}; it has {list(frame.columns)}. Add the "
                f"column with empty cells if its values are all unknown."
            )


def _complete(column: Column, x, raw, keep, unknown) -> pd.Series:
    if column.num_levels:
        return column.to_user(x, raw, keep, unknown)
    return column.to_user(x, raw, keep)


def _check_frame(frame) -> None:
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(
            f"A table is a pandas DataFrame, got {type(frame).__name__}; wrap it: "
            f"pd.DataFrame(values, columns=names)."
        )
    for name in frame.columns:
        if not isinstance(name, str) or not name:
            raise ValueError(
                f"Column name {name!r} is not a text of at least one character; rename it, "
                f"with frame.columns = frame.columns.map(str), say."
            )
    _refuse_duplicates(list(frame.columns), "The table")
    if frame.shape[0] == 0 or frame.shape[1] == 0:
        raise ValueError(
            f"The table is empty: {frame.shape[0]} rows and {frame.shape[1]} columns; give at "
            f"least one of each."
        )


def _refuse_duplicates(names: list, what: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"{what} has the column name(s) {twice} more than once; rename or drop one "
            f"of each."
        )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {list(choices)}, got {value!r}.")


def _tensor_name(name: str) -> str:
    letters = unicodedata.normalize("NFKD", name)
    letters = "".join(c for c in letters if not unicodedata.combining(c))
    result = re.sub(r"[^A-Za-z0-9_]", "_", letters)
    if not result[:1].isalpha() or result.lower() in RESERVED_TENSOR_NAMES:
        result = f"column_{result}"
    return result
