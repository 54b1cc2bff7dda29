"""Completes a user's table in the user's units: values, error bars and several completions."""

import dataclasses

import numpy as np
import pandas as pd
import tensorflow as tf

from vae_arbcond.conditioners.base import ArbitraryConditioner
from vae_arbcond.conditioners.sampling import spread
from vae_arbcond.metrics import interval
from vae_arbcond.schema import Categorical, TableSchema

ROWS_AT_ONCE = 256  # rows whose draws are held at once
SUMMARY_DRAWS = 200  # draws behind standard deviations, intervals and probabilities


@dataclasses.dataclass(frozen=True, eq=False)
class CompletedTable:
    """A table without gaps, and how far to trust what was filled in.

    Attributes:
      table: the best single completion; the values of observed cells as they were. A filled
        number is a mean (of a positive column the median), a filled level the likeliest one.
        It is estimated from other samples than `cells`: where two levels are nearly as likely
        the two may name different ones.
      completions: `num_samples` draws of the whole table, one below the other; the first
        level of the index, "completion", counts them from 0.
      cells: a row for every cell that was missing: its `row` label and `column`, the `value`
        in `table`, `stddev`, `lower` and `upper` end of the interval (real columns) and
        `probabilities` of the levels, likeliest first (categorical columns). All four are
        empty for methods whose draws say nothing of them (`draws_are_calibrated`).
      filled: bool [N, D], columns in the schema's order; True = the cell was filled in.
    """

    table: pd.DataFrame
    completions: pd.DataFrame
    cells: pd.DataFrame
    filled: np.ndarray


def complete_table(
    conditioner: ArbitraryConditioner,
    schema: TableSchema,
    frame: pd.DataFrame,
    num_samples: int = 5,
    intervals: float = 0.9,
    seed: int = 0,
    unknown: str = "error",
) -> CompletedTable:
    """Fills the missing cells of a table.

    Args:
      conditioner: a trained method.
      schema: of the table it was trained on.
      frame: has the schema's columns; further ones pass through unchanged.
      num_samples: number of completions to draw.
      intervals: probability that the interval of a cell should cover; 0.9 gives its 5 % and
        95 % quantiles.
      seed: same seed, same answer.
      unknown: what to do with a category that training did not know: "error", or "missing" to
        treat the cell as missing, which replaces the category by a completion.

    Raises:
      ValueError: a missing column, an unknown category, an infinite value, an empty table.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}.")
    if not 0.0 < intervals < 1.0:
        raise ValueError(f"intervals is a probability between 0 and 1, got {intervals}.")
    x, present = schema.to_model(frame, unknown=unknown, extra="ignore")
    missing = ~present
    calibrated = conditioner.draws_are_calibrated
    count = max(num_samples, SUMMARY_DRAWS) if calibrated else num_samples
    tables = [[] for _ in range(num_samples)]
    points, summaries = [], []
    for start in range(0, len(x), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        part = [tf.constant(x[rows]), tf.constant(present[rows])]
        points.append(conditioner.complete(*part, SUMMARY_DRAWS, [seed, 1]).numpy())
        draws_seed = [seed, 2 + start // ROWS_AT_ONCE]
        draws = conditioner.impute(*part, count, draws_seed).numpy()
        for table, draw in zip(tables, draws[spread(len(draws), num_samples)], strict=True):
            table.append(draw)
        summaries.append(
            _summarise(
                schema,
                draws if calibrated else None,
                missing[rows],
                intervals,
                frame.index[rows],
            )
        )
    back = {"raw": frame, "unknown": unknown}
    table = schema.to_user(np.concatenate(points), **back)
    completions = pd.concat(
        [schema.to_user(np.concatenate(draw), **back) for draw in tables],
        keys=range(num_samples),
        names=["completion"],
    )
    cells = pd.concat(summaries, ignore_index=True)
    values = [table[c].iloc[i] for i, c in zip(*_places(missing, schema), strict=True)]
    cells.insert(2, "value", pd.Series(values, dtype=object))
    return CompletedTable(table, completions, cells, missing)


def _places(missing, schema):
    """Row positions and column names of the missing cells, row by row."""
    rows, columns = np.nonzero(missing)
    return rows, [schema.names[j] for j in columns]


def _summarise(schema, draws, missing, level, index) -> pd.DataFrame:
    """A row for every missing cell, from draws [S, N, D] in the model's units, or None."""
    rows, columns = np.nonzero(missing)
    records = {
        "row": np.asarray(index, dtype=object)[rows],
        "column": [schema.names[j] for j in columns],
        "stddev": np.full(len(rows), np.nan),
        "lower": np.full(len(rows), None, object),
        "upper": np.full(len(rows), None, object),
        "probabilities": np.full(len(rows), None, object),
    }
    if draws is None:
        return pd.DataFrame(records)
    cells = draws[:, rows, columns]  # [S, cells]
    for j, column in enumerate(schema.columns):
        here = np.flatnonzero(columns == j)
        if not len(here):
            continue
        if schema.levels[j]:
            records["probabilities"][here] = _probabilities(column, cells[:, here])
            continue
        records["stddev"][here] = column.stddev(cells[:, here])
        ends = interval(cells[:, here], level)
        for name, end in zip(("lower", "upper"), ends, strict=True):
            records[name][here] = list(column.to_user(end.astype(np.float32)))
    return pd.DataFrame(records)


def _probabilities(column, cells) -> list[str]:
    """Shares of each level among draws [S, cells], as "a=0.91; b=0.09"."""
    names = column.levels if isinstance(column, Categorical) else (False, True)
    texts = []
    for cell in cells.T:
        shares = np.bincount(cell.astype(int), minlength=len(names)) / len(cell)
        order = np.argsort(-shares, kind="stable")
        texts.append("; ".join(f"{names[i]}={shares[i]:.3g}" for i in order if shares[i] > 0))
    return texts
