"""Several methods, the same stored questions: which one answers best, and at what cost?

`evaluate` scores one trained method on all test rows. Here methods are asked the same few
questions, which a file keeps, so that another day's method can be asked them, too. Slow
methods (a chain or an optimisation a question) can take part, and their cost is scored, too.
"""

import dataclasses
import math
import pathlib
import time
from collections.abc import Mapping
from typing import NamedTuple

import gin
import numpy as np
import tensorflow as tf

from vae_arbcond import evaluation, metrics, scoring
from vae_arbcond.baselines import Baseline
from vae_arbcond.conditioners import ArbitraryConditioner, DensityConditioner
from vae_arbcond.conditioners.likelihoods import DefaultLikelihood
from vae_arbcond.conditioners.query_adaptive import Searching
from vae_arbcond.data.pipeline import Dataset, Splits
from vae_arbcond.files import write_atomically
from vae_arbcond.registry import PACKAGE
from vae_arbcond.scoring import MIN_DISTINCT, ROWS_AT_ONCE

# What a comparison prints, in this order, where a method has it: metric -> (head, better).
COLUMNS = {
    "log_likelihood_per_feature": ("log p / cell", "higher"),
    "log_likelihood_stderr": ("stderr", "lower"),
    "pareto_k_above_0.7": ("k > 0.7", "0"),
    "nrmse_mean": ("NRMSE", "lower"),
    "nrmse_min": ("NRMSE, oracle", "lower"),
    "pfc": ("PFC", "lower"),
    "rmse": ("RMSE", "lower"),
    "psnr_sample": ("PSNR", "higher"),
    "crps": ("CRPS", "lower"),
    "coverage_90": ("coverage 90", "0.90"),
    "diversity": ("diversity", "> 0"),
    "converged": ("converged", "1"),
    "diverged": ("diverged", "0"),
    "steps_a_query": ("steps", "lower"),
    "seconds_a_query": ("s / query", "lower"),
    "seconds_to_compile": ("s to compile", "lower"),
}


class Queries(NamedTuple):
    """Questions of one data set.

    Attributes:
      rows: int64 [N], numbers of the test rows.
      x: [N, *F, *E], in the model's units; anything where not present.
      present, observed: bool [N, *F].
    """

    rows: np.ndarray
    x: np.ndarray
    present: np.ndarray
    observed: np.ndarray

    @property
    def scored(self) -> np.ndarray:
        """What is asked: bool [N, *F]."""
        return self.present & ~self.observed

    def save(self, path) -> None:
        """Writes an .npz file."""

        def write(temporary):
            with open(temporary, "wb") as file:  # A name would get another ending.
                np.savez_compressed(file, **self._asdict())

        write_atomically(pathlib.Path(path), write)

    @classmethod
    def load(cls, path, test: Dataset) -> "Queries":
        """Reads questions that `save` wrote.

        Raises:
          ValueError: the file holds something else, or questions of other data than `test`.
        """
        with np.load(path, allow_pickle=False) as file:
            if set(file.files) != set(cls._fields):
                raise ValueError(
                    f"{path} does not hold queries: it has {', '.join(sorted(file.files))} "
                    f"instead of {', '.join(cls._fields)}. Name a file that an earlier "
                    f"comparison wrote, or a new one."
                )
            found = cls(**{name: file[name] for name in cls._fields})
        inside = len(found.rows) and found.rows.max() < len(test)
        if not inside or not np.array_equal(
            found.x[found.present], test.x[found.rows][found.present]
        ):
            raise ValueError(
                f"The queries in {path} are of other data: their values are not those of the "
                f"test rows of this run. Name a new file to draw queries for this run."
            )
        return found


def draw_queries(test: Dataset, mask, num_queries: int, seed: int = 0) -> Queries:
    """The first of the test rows that have something to ask, each with a mask.

    Args:
      test: test rows.
      mask: draws what is observed.
      num_queries: at most so many.
      seed: of the masks.

    Raises:
      ValueError: no row has anything to ask.
    """
    present = test.present
    drawn = mask(tf.constant(test.x), tf.constant(present), tf.constant([seed, 0], tf.int32))
    observed = drawn.numpy() & present
    asked = (present & ~observed).reshape(len(present), -1).any(1)
    rows = np.flatnonzero(asked)[:num_queries]
    if not len(rows):
        raise ValueError(
            f"There is nothing to ask: the mask {mask} hides no present value of the "
            f"{len(test)} test rows."
        )
    return Queries(rows, test.x[rows], present[rows], observed[rows])


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
      scores: method -> metric -> value, in the order of the methods.
      conditions: how the numbers were made.
      estimators: method -> what its log-likelihoods are, where it has them.
    """

    scores: dict[str, dict[str, float]]
    conditions: dict
    estimators: dict[str, str]

    def to_dict(self) -> dict:
        """For a JSON file, which knows neither NaN nor infinity: these are None."""
        told = dataclasses.asdict(self)
        for own in told["scores"].values():
            own |= {k: None for k, v in own.items() if not math.isfinite(v)}
        return told

    def __str__(self) -> str:
        shown = [m for m in COLUMNS if any(m in own for own in self.scores.values())]
        cells = [["", *(COLUMNS[m][0] for m in shown)], ["", *(COLUMNS[m][1] for m in shown)]]
        for name, own in self.scores.items():
            values = [own.get(m, math.nan) for m in shown]
            cells.append([name, *("-" if math.isnan(v) else f"{v:.4g}" for v in values)])
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        lines = [
            "  ".join(
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in cells
        ]
        made = ", ".join(f"{k} {v}" for k, v in self.conditions.items())
        return "\n".join([*lines, f"({made})", *self._notes(shown)])

    def _notes(self, shown) -> list[str]:
        """What the columns mean, and which numbers are not to be trusted."""
        notes = [
            "log p is in nats; NRMSE, RMSE, CRPS and diversity (how far draws are apart) are "
            "in standard deviations of a column, of images in the range from 0 to 1; PFC is a "
            "share of wrong levels; s are seconds on the clock."
        ]
        if "nrmse_min" in shown:
            notes.append(
                "NRMSE, oracle: of the best draw of each row, which only the truth can "
                "choose; it falls with the number of draws."
            )
        if "nrmse_mean" in shown and "coverage_90" not in shown:
            notes.append(
                f"No coverage: no column has {MIN_DISTINCT} distinct values in the queries."
            )
        if self.estimators:
            told = "; ".join(f"{name}: {how}" for name, how in self.estimators.items())
            notes.append(f"log p / cell is estimated by: {told}.")
        k, scores = "pareto_k_above_0.7", self.scores
        far = [name for name, own in scores.items() if own.get(k, 0.0) > 0.05]
        if far:
            notes.append(
                f"k > 0.7, the share of queries whose log p may be far off and its stderr not "
                f"to be trusted, is large for {', '.join(far)}: compare their log p with "
                f"care, or take more samples (compare.num_samples)."
            )
        if any(math.isnan(own.get(k, 0.0)) for own in scores.values()):
            notes.append("k > 0.7 could not be told from so few samples; take 25 or more.")
        lost = [name for name, own in scores.items() if own.get("diverged", 0.0) > 0.0]
        if lost:
            notes.append(
                f"Searches of {', '.join(lost)} diverged: of that share the best before is "
                f"used. Lower the minimizer's learning_rate."
            )
        early = [
            name
            for name, own in scores.items()
            if 1.0 - own.get("converged", 1.0) - own.get("diverged", 0.0) > 0.1
        ]
        if early:
            notes.append(
                f"Searches of {', '.join(early)} ran out of steps: they are what neither "
                f"converged nor diverged. More steps (num_steps of the minimizer) may answer "
                f"better."
            )
        return notes

    def picture(self, path) -> None:
        """Writes a PNG: a panel a metric, a bar a method, the error of log p as a line."""
        # Not at the top: a process that only prints needs no drawing.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        wanted = ("log_likelihood_per_feature", "nrmse_mean", "pfc", "rmse", "coverage_90")
        shown = [m for m in wanted if any(m in own for own in self.scores.values())]
        shown.append("seconds_a_query")
        names = list(self.scores)
        figure = Figure(figsize=(2.6 * len(shown) + 1.6, 0.32 * len(names) + 1.3), dpi=110)
        for i, metric in enumerate(shown):
            axis = figure.add_subplot(1, len(shown), i + 1)
            values = [self.scores[name].get(metric, np.nan) for name in names]
            error = None
            if metric == "log_likelihood_per_feature":
                error = [self.scores[n].get("log_likelihood_stderr", np.nan) for n in names]
            places = np.arange(len(names))[::-1]
            axis.errorbar(values, places, xerr=error, fmt="o", markersize=5, capsize=3)
            axis.set_yticks(places, names if i == 0 else [])
            axis.set_ylim(-0.6, len(names) - 0.4)
            head, better = COLUMNS[metric]
            unit = {"log_likelihood_per_feature": ", nats"}.get(metric, "")
            axis.set_xlabel(f"{head}{unit} ({better})")
            if metric == "coverage_90":
                axis.axvline(0.9, color="0.6", linewidth=1)
            if metric == "seconds_a_query":
                axis.set_xscale("log")
            else:
                axis.locator_params(axis="x", nbins=4)
            axis.grid(axis="x", alpha=0.3)
        figure.suptitle(f"{self.conditions['queries']} queries", fontsize=10)
        figure.tight_layout()
        write_atomically(
            pathlib.Path(path), lambda file: FigureCanvasAgg(figure).print_png(str(file))
        )


@gin.configurable(module=PACKAGE)
def compare(
    methods: Mapping[str, ArbitraryConditioner | Baseline],
    data: Splits,
    queries: Queries,
    num_samples: int = 100,
    seed: int = 0,
    likelihood=None,
) -> Comparison:
    """Asks every method the same questions.

    Times are those of the `num_samples` draws that are scored. The same is asked once before,
    which has to compile: what that takes more is reported apart.

    Args:
      methods: name -> method.
      data: of the run; the guess beside the methods comes from its training rows.
      queries: what is asked.
      num_samples: draws of each; 20 or more.
      seed: of the draws, the same for every method.
      likelihood: how log-likelihoods are estimated; None takes each method's own.

    Raises:
      ValueError: too few samples for intervals.
    """
    if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 20:
        raise ValueError(
            f"compare.num_samples must be a whole number, 20 or more for 90 % intervals; got "
            f"{num_samples!r}."
        )
    asked = dataclasses.replace(data.test, x=queries.x, present=queries.present)
    guess = evaluation.baseline_completion(data.train)
    scores = {
        name: _score(method, asked, queries, guess, num_samples, seed, likelihood)
        for name, method in methods.items()
    }
    conditions = {"queries": len(queries.rows), "samples": num_samples, "seed": seed}
    estimators = {
        name: method.estimator if likelihood is None else str(likelihood)
        for name, method in methods.items()
        if isinstance(method, DensityConditioner)
    }
    return Comparison(scores, conditions, estimators)


def _score(method, asked, queries, guess, num_samples, seed, likelihood):
    observed, scored = queries.observed, queries.scored
    first = _time(method, asked.x[:ROWS_AT_ONCE], observed[:ROWS_AT_ONCE], num_samples, seed)
    draws, means, completion, estimates, seconds = scoring.answers(
        method,
        asked.x,
        observed,
        scored,
        num_samples,
        likelihood or DefaultLikelihood(),
        seed,
    )
    around = observed.reshape(*observed.shape, *(1,) * (asked.x.ndim - observed.ndim))
    guess = np.where(around, asked.x, guess)
    if scored.ndim == 3:
        found, _ = scoring.of_images(asked, scored, draws, means, completion, guess)
        found.setdefault("diversity", float(draws.std(0)[scored].mean()))
    else:
        found, _ = scoring.of_tables(asked, scored, draws, completion, guess)
        real = np.asarray(asked.spec.levels or (0,) * asked.x.shape[1]) == 0
        cells = scored & real
        if cells.any():
            # As the user sees them, in standard deviations, as `nrmse_mean` is.
            truth, seen = asked.schema.linear(asked.x), asked.schema.linear(draws)
            scale = scoring.scales(truth, asked.present)
            cells &= scale > 0
            unit = np.where(scale > 0, scale, 1.0)
            found["diversity"] = float((seen.std(0) / unit)[cells].mean())
            found["nrmse_min"] = metrics.nrmse_min(truth, seen, cells, unit)
    if estimates is not None:
        found |= scoring.of_likelihoods(asked, scored, estimates)
    if isinstance(method, Searching):
        found |= _searches(method, asked.x, observed)
    found["seconds_a_query"] = seconds / len(scored)
    again = seconds * min(len(scored), ROWS_AT_ONCE) / len(scored)
    found["seconds_to_compile"] = max(first - again, 0.0)
    return found


def _searches(method, x, observed):
    """How searches went, of the queries that have anything to search by."""
    parts = []
    for start in range(0, len(x), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        told = method.search(x[rows], observed[rows])
        parts.append([told.converged.numpy(), told.diverged.numpy(), told.steps.numpy()])
    some = observed.reshape(len(observed), -1).any(1)
    if not some.any():
        return {}
    converged, diverged, steps = (np.concatenate(p)[some] for p in zip(*parts, strict=True))
    return {
        "converged": float(converged.mean()),
        "diverged": float(diverged.mean()),
        "steps_a_query": float(steps.mean()),
    }


def _time(method, x, observed, num_samples, seed) -> float:
    started = time.perf_counter()
    if isinstance(method, Baseline):
        method.impute_and_complete(x, observed, num_samples, [seed, 7])
    else:
        method.impute(x, observed, num_samples, [seed, 7]).numpy()
    return time.perf_counter() - started
