"""Tables, splits and scores of VAEAC's experiments with missing features (appendix A.2).

Ivanov, Figurnov and Vetrov, 2019, https://arxiv.org/abs/1806.02382. Splits and removed cells
are those of ../shared/tools/tabular_protocol.py; the target is kept in training rows, as the
paper drops features and treats the target as one more that is never seen in a test.
"""

import dataclasses
import pathlib
import sys

import numpy as np
from sklearn import linear_model
from sklearn.metrics import r2_score

from vae_arbcond import baselines, metrics
from vae_arbcond.data.pipeline import Dataset, Splits
from vae_arbcond.schema import Categorical, Numeric, TableSchema
from vae_arbcond.shapes import DataSpec

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"
CATEGORICAL = ("mushroom", "zoo", "phishing_1353")
CLASSES = ("yeast", "breast_wdbc", "breast_original", "digits", "iris", "wall_robot")
TABLES = (
    *("white_wine", "yeast", *CATEGORICAL, "boston", "breast_wdbc", "breast_original"),
    *("concrete", "diabetes", "digits", "iris", "wall_robot"),
)
FITTED_CELLS = 3_000_000  # of the regression's design; beyond, fewer copies are fitted


def tools():
    """The module that everybody's splits and masks come from."""
    sys.path.insert(0, str(SHARED / "tools"))
    import tabular_protocol

    return tabular_protocol


@dataclasses.dataclass(frozen=True)
class Table:
    """A table, its target last.

    Args:
      name: as in `TABLES`.
      full: float64 [N, D]: numbers, and levels' indices; NaN where the source has a gap.
      levels: number of levels of each column; 0 for a number.
    """

    name: str
    full: np.ndarray
    levels: tuple[int, ...]

    @property
    def categorical(self) -> bool:
        """Whether features are scored by PFC."""
        return any(self.levels[:-1])


def load(name: str) -> Table:
    """Reads a table of ../shared/data.

    Raises:
      FileNotFoundError: it is not there.
    """
    if name in CATEGORICAL:
        return Table(name, *_levels_of(_cells(name)))
    if name == "breast_original":
        rows = [row[1:] for row in _cells(name)]  # Numbers of samples come first.
        full = np.array([[np.nan if c == "?" else float(c) for c in row] for row in rows])
        full[:, -1] = np.unique(full[:, -1], return_inverse=True)[1]
    else:
        full = np.column_stack(tools().load(str(SHARED / "data"), name))
    target = int(full[:, -1].max()) + 1 if name in CLASSES else 0
    return Table(name, full, (*(0,) * (full.shape[1] - 1), target))


def _cells(name):
    """The words of a file of comma-separated values, its target moved to the end."""
    file = next(path for path in sorted((SHARED / "data" / name).iterdir()))
    lines = [line.strip() for line in file.read_text().splitlines()]
    rows = [line.split(",") for line in lines if line and not line.startswith(("@", "%"))]
    if name == "mushroom":  # The target comes first; the veil's type is constant.
        return [[*row[1:16], *row[17:], row[0]] for row in rows]
    return [row[1:] for row in rows] if name == "zoo" else rows  # Animals' names come first.


def _levels_of(rows):
    cells = np.array(rows)
    full, levels = np.full(cells.shape, np.nan), []
    for d, column in enumerate(cells.T):
        there = column != "?"
        names, full[there, d] = np.unique(column[there], return_inverse=True)
        levels.append(len(names))
    return full, tuple(levels)


@dataclasses.dataclass(frozen=True)
class Split:
    """One of the five splits, in the model's units.

    Args:
      table: what was split.
      x: float32 [N, D]: every row, nothing removed; 0 where the source has a gap.
      seen: bool [N, D]: what is left. The target is seen in training rows only.
      scored: bool [N, D]: removed cells of features whose value is known.
      train, test: numbers of rows.
      schema: means and scales of what is seen of the training rows.
    """

    table: Table
    x: np.ndarray
    seen: np.ndarray
    scored: np.ndarray
    train: np.ndarray
    test: np.ndarray
    schema: TableSchema

    @property
    def spec(self):
        return self.data(0).train.spec

    def data(self, seed: int, valid_fraction: float = 0.25) -> Splits:
        """The training rows, a quarter of them for validation; no test rows."""
        order = np.random.default_rng(seed).permutation(self.train)
        cut = round(valid_fraction * len(order))
        parts = (order[cut:], order[:cut], order[:0])
        return Splits(*[self._dataset(rows) for rows in parts])

    def _dataset(self, rows):
        x = np.where(self.seen[rows], self.x[rows], 0.0).astype(np.float32)
        return Dataset(x, self.seen[rows], x, self.schema)


def split(table: Table, seed: int) -> Split:
    """3:1, half of the features' values removed in all rows."""
    full, train_rows, *_ = tools().split(table.full[:, :-1], table.full[:, -1], seed)
    # The same draws once more: the module gives rows, not their numbers.
    rng = np.random.RandomState(seed)
    order = rng.permutation(len(full))
    removed = rng.rand(*full.shape) < 0.5
    train, test = order[: len(train_rows)], order[len(train_rows) :]
    removed[train, -1], removed[test, -1] = False, True
    known = ~np.isnan(full)
    scored = removed & known
    scored[:, -1] = False
    seen = known & ~removed
    columns, x = [], np.where(known, full, 0.0)
    for d, size in enumerate(table.levels):
        name = f"column_{d}"
        if size:
            columns.append(Categorical(name, tuple(range(size)), dtype="int64"))
            continue
        values = full[train, d][seen[train, d]]
        mean, scale = (values.mean(), values.std()) if len(values) else (0.0, 1.0)
        columns.append(Numeric(name, float(mean), float(scale) or 1.0))
        x[:, d] = np.where(known[:, d], (x[:, d] - mean) / (scale or 1.0), 0.0)
    shaped = TableSchema(tuple(columns))
    return Split(table, x.astype(np.float32), seen, scored, train, test, shaped)


def point(draws: np.ndarray, levels) -> np.ndarray:
    """[S, N, D] -> [N, D]: the mean of numbers, the most frequent level, the first of ties."""
    return baselines.completion(draws, DataSpec((len(levels),), levels=tuple(levels)))


def imputation_error(part: Split, filled: np.ndarray, rows: np.ndarray) -> float:
    """NRMSE or PFC of the removed cells of `rows`: the mean over features.

    Args:
      part: the split.
      filled: [N, D], every row, imputed.
      rows: numbers of the rows that are scored.
    """
    spread = np.nanstd(part.table.full[:, :-1], 0)
    varies = np.flatnonzero(spread)  # Of a constant column there is nothing to get wrong.
    cells = np.ix_(rows, varies)
    question = part.x[cells], filled[cells], part.scored[cells]
    if part.table.categorical:
        return metrics.pfc(*question)
    scale = np.array([part.schema.columns[d].scale for d in varies])
    return metrics.nrmse_mean(*question, spread[varies] / scale)


def regression_score(part: Split, draws: np.ndarray) -> float:
    """R2 of linear or accuracy of logistic regression on imputed features (Tables 2 and 11).

    Fitted to the imputed training rows, every draw a copy; predictions for the draws of a test
    row are averaged or put to the vote. The target's own imputation is not used.

    Args:
      part: the split.
      draws: [S, N, D], every row, imputed.
    """
    levels = part.table.levels
    train = [_design(rows, levels) for rows in draws[:, part.train]]
    most = max(1, FITTED_CELLS // train[0].size)
    train = train[:most]
    y_train = np.tile(part.x[part.train, -1], len(train))
    y_test = part.x[part.test, -1]
    if levels[-1]:
        model = linear_model.LogisticRegression(max_iter=300)
    else:
        model = linear_model.LinearRegression()
    model.fit(np.concatenate(train), y_train)
    said = np.stack([model.predict(_design(rows, levels)) for rows in draws[:, part.test]])
    if not levels[-1]:
        return float(r2_score(y_test, said.mean(0)))
    voted = point(said[..., np.newaxis], (levels[-1],))[:, 0]
    return float(np.mean(voted == y_test))


def _design(rows, levels):
    """[N, I]: numbers as they are, levels as indicators, without the target."""
    parts = [
        np.eye(size)[rows[:, d].astype(int)] if size else rows[:, [d]]
        for d, size in enumerate(levels[:-1])
    ]
    return np.concatenate(parts, 1)
