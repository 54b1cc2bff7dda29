"""Classical imputers from libraries, to be beaten or not: MICE, MissForest, marginals.

On numbers they are scikit-learn's `IterativeImputer` with Bayesian ridge regression or with
random forests. It knows no levels, so tables with categorical or ordinal columns go to
miceforest (the extra `benchmarks`), whose learner is LightGBM's random forest in both cases.
All are fitted to the training rows and then asked about others, as every method here is.
"""

import functools
import importlib.util
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer
from sklearn.linear_model import BayesianRidge

from vae_arbcond.data.pipeline import Dataset
from vae_arbcond.shapes import DataSpec

NAMES = ("mice", "missforest", "marginals")
ROUNDS = 10  # of MICE over the columns; scikit-learn's default
FOREST_ROUNDS = 5  # the same for forests, which are slow and settle sooner
CANDIDATES = 5  # similar rows of which one lends its number, in tables with levels
TREES = 100  # a forest; that of MissForest's R package


NEEDS_EXTRA = (
    "This table has columns with levels, for which MICE and MissForest need miceforest: "
    "pip install '.[benchmarks]' in a checkout. Without it leave them out, or ask for "
    "marginals alone."
)


def check_available(names: Sequence[str], spec: DataSpec) -> None:
    """Says at once what fitting these baselines would say in the end.

    Raises:
      ValueError: an unknown name, or levels without the extra that knows them.
    """
    for name in names:
        _check_name(name)
    levels = any(spec.levels or ()) and set(names) - {"marginals"}
    if levels and importlib.util.find_spec("miceforest") is None:
        raise ValueError(NEEDS_EXTRA)


def impute(
    name: str,
    train_x: np.ndarray,
    train_present: np.ndarray,
    x: np.ndarray,
    observed: np.ndarray,
    spec: DataSpec,
    num_samples: int,
    seed: int,
) -> np.ndarray:
    """Draws of what is hidden in the rows `x`: float32 [S, N, D], levels as indices.

    Args:
      name: one of NAMES. 'mice' draws from the regressions' posterior; 'missforest' has one
        answer, repeated S times; 'marginals' draws each column by itself.
      train_x: [M, D] in the model's units; anything where not present.
      train_present: bool [M, D].
      x: [N, D]; anything where not observed.
      observed: bool [N, D].
      spec: of the table.
      num_samples: S.
      seed: a number.

    Raises:
      ValueError: an unknown name, images, or no training row with a value.
      ImportError: levels without the extra that knows them.
    """
    draw = fit(name, train_x, train_present, spec, seed)
    return draw(x, observed, num_samples, seed)


def fit(name, train_x, train_present, spec, seed) -> Callable:
    """(x, observed, num_samples, seed) -> draws; the arguments are those of `impute`."""
    _check_name(name)
    if len(spec.x_shape) != 1:
        raise ValueError(
            f"The baseline {name} completes tables, rows of shape (D,); these rows have shape "
            f"{spec.x_shape}."
        )
    if not np.any(train_present):
        raise ValueError(f"No training row has a value, so {name} has nothing to learn from.")
    table = np.where(train_present, train_x, np.nan)
    draw = _FITS[name](table[train_present.any(1)], spec, seed)

    def answer(x, observed, num_samples, seed):
        shape = (num_samples, *np.shape(x))
        if not len(x):
            return np.zeros(shape, np.float32)
        draws = draw(np.where(observed, x, np.nan), num_samples, seed)
        return np.where(observed, x, np.broadcast_to(draws, shape)).astype(np.float32)

    return answer


def named(names: Sequence[str]) -> dict[str, Callable[[Dataset], "Baseline"]]:
    """What `evaluate.beside` takes, of these baselines.

    Raises:
      ValueError: an unknown name.
    """
    for name in names:
        _check_name(name)
    return {name: functools.partial(Baseline, name) for name in names}


def _check_name(name):
    if name not in _FITS:
        raise ValueError(f"There is no baseline {name!r}. There are {', '.join(NAMES)}.")


class Baseline:
    """A baseline fitted to training rows, in the place of a conditioner.

    Args:
      name: one of NAMES.
      train: training rows of a table.
      seed: of its fit.
    """

    def __init__(self, name: str, train: Dataset, seed: int = 0):
        self.spec, self.feature_ndims = train.spec, 1
        self.draws_are_calibrated = name != "missforest"  # It has one answer.
        self.draw = fit(name, train.x, train.present, train.spec, seed)

    def impute_and_complete(self, x, observed, num_samples, seed):
        """Draws [S, N, D], and their mean or most frequent level [N, D]; NumPy."""
        seed = int(np.random.SeedSequence(np.asarray(seed).tolist()).generate_state(1)[0])
        draws = self.draw(np.asarray(x), np.asarray(observed), num_samples, seed)
        return draws, completion(draws, self.spec)


def completion(draws: np.ndarray, spec: DataSpec) -> np.ndarray:
    """Mean of each number and most frequent level of draws [S, N, D]: [N, D]."""
    best = draws.mean(0)
    for d, size in enumerate(spec.levels or ()):
        if size:
            votes = (draws[:, :, d, np.newaxis] == np.arange(size)).sum(0)
            best[:, d] = votes.argmax(-1)
    return best


def naive_bayes_log_likelihood(train_x, train_present, x, target) -> np.ndarray:
    """log p(x_target) of features in {0, 1} that know nothing of each other: [N], nats.

    VAEAC's Table 9. Shares are those of the training rows with one more 0 and one more 1, so
    that nothing is impossible.

    Args:
      train_x, x: [M, *F] and [N, *F], 0 and 1.
      train_present, target: bool, of the same shapes.
    """
    ones = np.where(train_present, train_x, 0.0).sum(0) + 1.0
    share = ones / (np.sum(train_present, 0) + 2.0)
    log_p = np.where(np.asarray(x) > 0.5, np.log(share), np.log1p(-share))
    return np.where(target, log_p, 0.0).sum(tuple(range(1, np.ndim(x))))


def _mice(table, spec, seed):
    if any(spec.levels or ()):
        return _miceforest(table, spec, CANDIDATES, seed)
    return _chained(table, spec, seed, BayesianRidge(), ROUNDS, sample_posterior=True)


def _missforest(table, spec, seed):
    if any(spec.levels or ()):
        return _miceforest(table, spec, 0, seed)
    forest = RandomForestRegressor(TREES, max_features="sqrt", random_state=seed)
    return _chained(table, spec, seed, forest, FOREST_ROUNDS)


def _chained(table, spec, seed, learner, rounds, sample_posterior=False):
    """Regressions of each column on the others, over and over. Draws differ by their noise."""
    imputer = IterativeImputer(
        learner,
        sample_posterior=sample_posterior,
        max_iter=rounds,
        random_state=seed,
        keep_empty_features=True,
    )
    with warnings.catch_warnings():
        # The number of rounds is fixed on purpose; whether it settles is not asked.
        warnings.simplefilter("ignore", ConvergenceWarning)
        imputer.fit(table)
    counts = np.array(spec.counts or (0.0,) * spec.num_features) > 0

    def draw(rows, num_samples, seed):
        imputer.random_state_ = np.random.RandomState(seed % 2**32)
        draws = np.stack(
            [imputer.transform(rows) for _ in range(num_samples if sample_posterior else 1)]
        )
        # A count is a whole number from 0, whatever a regression says.
        whole = np.maximum(np.rint(draws), 0.0) if sample_posterior else np.maximum(draws, 0.0)
        return np.where(counts, whole, draws)

    return draw


def _miceforest(table, spec, candidates, seed):
    """Chained LightGBM forests.

    With `candidates` a level is drawn by its probability and a number is that of a similar row
    (predictive mean matching; for levels it fails where a forest is certain of one). Without,
    both are what the forest predicts, and there is one answer, as MissForest has.
    """
    if importlib.util.find_spec("miceforest") is None:
        raise ImportError(NEEDS_EXTRA)
    import miceforest

    levels = spec.levels or (0,) * spec.num_features
    counts = np.array(spec.counts or (0.0,) * spec.num_features) > 0
    # A column of a single value needs no learner, and LightGBM has none for it.
    known = [d for d in range(table.shape[1]) if len(np.unique(_present(table[:, d]))) > 1]
    only = np.array(
        [_present(column)[0] if len(_present(column)) else 0 for column in table.T]
    )
    with warnings.catch_warnings():
        # Of rare levels, and of how it fills its own data frames: nothing to be done here.
        warnings.filterwarnings("ignore", module="miceforest")
        kernel = miceforest.ImputationKernel(
            _frame(table[:, known], known, spec),
            variable_schema=[str(d) for d in known],  # Those without gaps get a learner, too.
            mean_match_candidates=candidates,
            mean_match_strategy={str(d): "fast" if levels[d] else "normal" for d in known},
            random_state=seed % 2**32,
        )
        kernel.mice(FOREST_ROUNDS, num_threads=1, **_SMALL)

    def draw(rows, num_samples, seed):
        new = _frame(rows[:, known], known, spec)
        count = num_samples if candidates else 1
        draws = np.broadcast_to(only, (count, *rows.shape)).copy()
        # Where values start is drawn from one, which rows are matched from the other.
        random = kernel._random_state = np.random.RandomState(seed % 2**32)
        for i in range(count):
            done = kernel.impute_new_data(new, random_state=random)
            # Without `iteration` version 6.0.5 fails on rows some of whose columns are whole.
            whole = done.complete_data(0, iteration=FOREST_ROUNDS)
            draws[i][:, known] = whole.to_numpy(float)
        return np.where(counts, np.maximum(np.rint(draws), 0.0), draws)

    return draw


# LightGBM's defaults hardly split levels that fewer than 100 rows share.
_SMALL = {"min_data_per_group": 1, "cat_smooth": 1.0, "cat_l2": 1.0}


def _frame(rows, columns, spec):
    """A data frame whose columns with levels are categories, every level named."""
    levels = spec.levels or (0,) * spec.num_features
    frame = pd.DataFrame(rows, columns=[str(d) for d in columns])
    for d in columns:
        if levels[d]:
            kind = pd.CategoricalDtype(np.arange(float(levels[d])))
            frame[str(d)] = frame[str(d)].astype(kind)
    return frame


def _marginals(table, spec, seed):
    """Each hidden cell is a training value of its column, drawn by itself."""
    del spec, seed
    columns = [_present(column) for column in table.T]

    def draw(rows, num_samples, seed):
        rng = np.random.default_rng(seed)
        shape = num_samples, len(rows)
        drawn = [rng.choice(c, shape) if len(c) else np.zeros(shape) for c in columns]
        return np.stack(drawn, -1)

    return draw


def _present(column):
    return column[~np.isnan(column)]


_FITS = {"mice": _mice, "missforest": _missforest, "marginals": _marginals}
