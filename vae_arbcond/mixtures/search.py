"""How many components, by out-of-fold score; and the bag of the fits that the search made."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from vae_arbcond.mixtures import em, fitting
from vae_arbcond.mixtures.em import Mixture
from vae_arbcond.mixtures.fitting import Settings, Table
from vae_arbcond.mixtures.rows import Rows

HIDDEN = 0.5  # share of the cells of a row left out that are scored given the others
WORST = -10.0  # nats a hidden cell: one absurd row must not decide for all others
MIN_ROWS = 4  # rows a fold needs; with fewer in all than two folds' worth nothing is searched

# (table, components, single Gaussian of the table, settings, seed) -> (mixture, climb)
Fit = Callable[[Table, int, Mixture, Settings, int], tuple[Mixture, list[float]]]


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
      mixture: of the chosen number of components; with bagging the equal mixture of the fits
        of all folds and of all rows, which is a mixture, too.
      components: the chosen number in each fit.
      scores: number of components -> out-of-fold log score, nats of g a hidden cell.
      error: out-of-fold mean square of the chosen number's completions of hidden real cells,
        in g; NaN where nothing was searched or no column is real.
    """

    mixture: Mixture
    components: int
    scores: dict[int, float]
    error: float = float("nan")


def search(
    table: Table,
    candidates: Sequence[int],
    folds: int,
    bag: bool,
    settings: Settings,
    seed: int,
    fit: Fit = fitting.fit_mixture,
) -> Found:
    """Tries numbers of components in order; stops at twice the best, where scores fall.

    Args:
      table: rows with gaps.
      candidates: numbers of components, rising. With one there is nothing to search.
      folds: number of parts of the rows; each is scored by the fit of the others.
      bag: whether the fits of the folds join the one of all rows.
      settings: of every fit.
      seed: of folds, hidden cells and K-means.
      fit: what fits a mixture.

    Raises:
      ValueError: a score is NaN, so that nothing can be chosen by it.
    """
    folds = min(folds, len(table) // MIN_ROWS)
    whole, _ = fitting.fit_gaussian(table, settings)
    if folds < 2 or (len(candidates) == 1 and not bag):
        components = min(candidates)
        return Found(fit(table, components, whole, settings, seed)[0], components, {})
    rng = np.random.default_rng([seed, 1])
    fold_of = rng.permutation(len(table)) % folds
    parts = [_Fold(table, fold_of == f, settings, [seed, 2, f]) for f in range(folds)]
    scores: dict[int, float] = {}
    fits: dict[int, list[Mixture]] = {}
    best = 0
    for components in candidates:
        if max(scores, default=0) > best and components > 2 * best:
            break
        if scores and components * MIN_ROWS > len(table):
            break
        fits[components] = [
            fit(part.train, components, part.gaussian, settings, seed)[0] for part in parts
        ]
        scored = [p.score(m) for p, m in zip(parts, fits[components], strict=True)]
        total, cells = np.sum(scored, 0)
        scores[components] = float(total / max(cells, 1))
        if np.isnan(scores[components]):
            raise ValueError(
                f"The out-of-fold score of {components} components is not a number: a fit "
                f"went astray. Look for cells of an absurd size in the training rows, and "
                f"take larger pseudo-counts (shrink_covariance, shrink_levels)."
            )
        best = max(scores, key=scores.get)
    full, _ = fit(table, best, whole, settings, seed)
    chosen = join([*fits[best], full]) if bag else full
    errors = np.sum([p.error(m) for p, m in zip(parts, fits[best], strict=True)], 0)
    error = float(errors[0] / errors[1]) if errors[1] else float("nan")
    return Found(chosen, best, scores, error)


class _Fold:
    """A fold: the other rows, their single Gaussian, and what the fold's rows are asked."""

    def __init__(self, table: Table, held: np.ndarray, settings: Settings, seed):
        self.train = table.take(~held)
        self.gaussian, _ = fitting.fit_gaussian(self.train, settings)
        self.rows = table.rows.take(held)
        rng = np.random.default_rng(seed)
        self.seen, self.cells = hide(self.rows, table, rng)  # cells: int [rows]

    def score(self, mixture: Mixture) -> tuple[float, int]:
        """Sum of log p(hidden | seen) over the fold's rows, and the number of hidden cells."""
        values = em.log_density(mixture, self.rows) - em.log_density(mixture, self.seen)
        return float(np.maximum(values, WORST * self.cells).sum()), int(self.cells.sum())

    def error(self, mixture: Mixture) -> tuple[float, int]:
        """Sum of (E[g | seen] - g)^2 over the fold's hidden real cells, and their number."""
        hidden = self.rows.observed & ~self.seen.observed
        apart = em.conditional_means(mixture, self.seen) - self.rows.g
        return float(np.sum(apart[hidden] ** 2)), int(hidden.sum())


def hide(rows: Rows, table: Table, rng) -> tuple[Rows, np.ndarray]:
    """`rows` with a share `HIDDEN` of their cells hidden at random; how many of each row."""
    observed = rows.observed & (rng.random(rows.observed.shape) >= HIDDEN)
    owner = np.repeat(np.arange(len(table.columns.sizes)), table.columns.sizes)
    shown = rng.random([len(rows.g), len(table.columns.sizes)]) >= HIDDEN
    levels = rows.levels * shown[:, owner]
    counted = rows.counted * (rng.random(rows.counted.shape) >= HIDDEN)
    seen = Rows(
        np.where(observed, rows.g, 0.0), observed, levels, rows.counts * counted, counted
    )
    number = sum(
        a.sum(1) - b.sum(1)
        for a, b in (
            (rows.observed, observed),
            (rows.levels, levels),
            (rows.counted, counted),
        )
    )
    return seen, number


def join(mixtures: Sequence[Mixture]) -> Mixture:
    """The equal mixture of mixtures."""
    parts = [np.concatenate(part) for part in zip(*mixtures, strict=True)]
    return Mixture(parts[0] - np.log(len(mixtures)), *parts[1:])
