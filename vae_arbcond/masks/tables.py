"""Masks for tables whose holes depend on the values: missing at random, and not at random.

Both hide with a logistic probability, the usual mechanisms of imputation papers (Muzellec et
al., 2020, https://arxiv.org/abs/2002.03860): P(hidden) = sigmoid(intercept + strength * s),
where s is a score of mean 0 and standard deviation 1. The intercept makes the mean
probability what was asked for when s is standard normal. Columns are read in the model's
units, where a schema gives numbers that mean and deviation; a category is read as the number
of its level. A value that is absent counts as the mean, 0, and is never read.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from vae_arbcond.masks.base import (
    ROUNDING,
    check_call,
    check_sequence,
    check_whole,
    split,
    uniform,
)
from vae_arbcond.registry import register


@register
@dataclasses.dataclass(frozen=True)
class MissingAtRandomMask:
    """Tables only. Some columns are never hidden; their values decide which others are.

    Each other column is hidden with the logistic probability of a score of its own: a sum of
    the never hidden columns with normal weights, scaled to length 1. Columns hide
    independently given their scores. Weights, and the choice of columns where
    `always_observed` is a share, are drawn once from `mechanism_seed`: they are the same for
    all rows and calls.

    Args:
      observed_prob: probability that one of the other columns is observed, in (0, 1).
      always_observed: the columns that are never hidden, by number from 0, or their share in
        (0, 1): ceil(share * D) columns at random, at most D - 1.
      strength: of the dependence; 0 makes it completely at random.
      mechanism_seed: a whole number >= 0.
    """

    observed_prob: float = 0.5
    always_observed: Sequence[int] | float = 0.3
    strength: float = 2.0
    mechanism_seed: int = 0

    def __post_init__(self):
        _check_logistic(self)
        check_whole("MissingAtRandomMask", "mechanism_seed", self.mechanism_seed, least=0)
        always = self.always_observed
        if isinstance(always, int | float):
            if not 0.0 < always < 1.0:
                raise ValueError(
                    f"MissingAtRandomMask: always_observed is a share of the columns between "
                    f"0 and 1, or a list of their numbers; got {always}. For one column "
                    f"write ({always},)."
                )
            return
        check_sequence("MissingAtRandomMask", "always_observed", always, "(0, 2)")
        object.__setattr__(self, "always_observed", tuple(always))
        _check_columns("MissingAtRandomMask", "always_observed", self.always_observed)

    def __call__(self, x, present, seed):
        """See `MaskGenerator`; `x` and `present` are [B, D] with a known D of at least 2."""
        present, seed = check_call(x, present, seed)
        x = _check_table(x, present, "MissingAtRandomMask")
        num_columns = present.shape[1]
        drivers, weights = self._mechanism(num_columns)
        score = tf.matmul(tf.where(present & drivers, x, 0.0), weights)
        hidden = uniform(tf.shape(present), seed) < _hiding_probability(self, score)
        return tf.ensure_shape(drivers | ~hidden, present.shape)

    def _mechanism(self, num_columns):
        """bool [D], the columns that are never hidden; float64 [D, D], column j's weights."""
        if num_columns < 2:
            raise ValueError(
                "MissingAtRandomMask: one column is always observed and another hidden, so a "
                f"table needs two; got {num_columns}."
            )
        choice_seed, weight_seed = split(tf.constant([0, self.mechanism_seed]), 2)
        if isinstance(self.always_observed, tuple):
            drivers = _columns("MissingAtRandomMask", self.always_observed, num_columns)
            if drivers.all():
                raise ValueError(
                    f"MissingAtRandomMask: always_observed={self.always_observed} leaves none "
                    f"of {num_columns} columns to hide. Leave one out."
                )
            drivers = tf.constant(drivers)
        else:
            count = math.ceil(self.always_observed * num_columns - ROUNDING)
            scores = uniform([num_columns], choice_seed)
            rank = tf.argsort(tf.argsort(scores, stable=True), stable=True)
            drivers = rank < min(count, num_columns - 1)
        draws = uniform([num_columns, num_columns], weight_seed) + 2.0**-33
        weights = tf.where(drivers[:, tf.newaxis], tf.math.ndtri(draws), 0.0)
        return drivers, weights / tf.norm(weights, axis=0)


@register
@dataclasses.dataclass(frozen=True)
class SelfMaskingMask:
    """Tables only. A value's own size decides whether it is hidden (missing not at random).

    The score of a value is the value itself, so large ones are hidden more often than small
    ones, or less often where `strength` is negative. Self-masking as in Mohan et al., 2018,
    and not-MIWAE (Ipsen et al., 2021, https://arxiv.org/abs/2006.12871), who hide
    what lies above the mean: a great `strength` with observed_prob = 0.5.

    Args:
      observed_prob: probability that a value is observed, in (0, 1).
      strength: log-odds of being hidden that a standard deviation adds.
      columns: those that may be hidden, by number from 0; None: all. Others are observed.
    """

    observed_prob: float = 0.5
    strength: float = 2.0
    columns: Sequence[int] | None = None

    def __post_init__(self):
        _check_logistic(self)
        if self.columns is not None:
            check_sequence("SelfMaskingMask", "columns", self.columns, "(0, 2)")
            object.__setattr__(self, "columns", tuple(self.columns))
            _check_columns("SelfMaskingMask", "columns", self.columns)

    def __call__(self, x, present, seed):
        """See `MaskGenerator`; `x` and `present` are [B, D] with a known D."""
        present, seed = check_call(x, present, seed)
        x = _check_table(x, present, "SelfMaskingMask")
        score = tf.where(present, x, 0.0)
        hidden = uniform(tf.shape(present), seed) < _hiding_probability(self, score)
        if self.columns is not None:
            hidden &= _columns("SelfMaskingMask", self.columns, present.shape[1])
        return tf.ensure_shape(~hidden, present.shape)


def logistic_intercept(prob, strength):
    """The a for which E[sigmoid(a + strength * s)] = prob, s standard normal.

    Args:
      prob: in (0, 1).
      strength: any finite number.

    Returns:
      A float, to 1e-9 or better.
    """
    # The trapezoidal rule is all but exact for what is analytic: steps of 0.0045 are a seventh
    # of pi / 100, how near the sigmoid's poles come at a strength of 100.
    points = np.linspace(-9.0, 9.0, 4001)
    weights = np.exp(-0.5 * points**2)
    weights /= weights.sum()
    # At these ends sigmoid(a + strength * s) is 0 or 1 for all but 1e-15 of the draws.
    low, high = -40.0 - 9.0 * abs(strength), 40.0 + 9.0 * abs(strength)
    for _ in range(60):
        middle = 0.5 * (low + high)
        mean = weights @ (0.5 + 0.5 * np.tanh(0.5 * (middle + strength * points)))
        low, high = (middle, high) if mean < prob else (low, middle)
    return 0.5 * (low + high)


def _hiding_probability(mask, score):
    intercept = logistic_intercept(1.0 - mask.observed_prob, mask.strength)
    return tf.sigmoid(intercept + mask.strength * score)


def _check_logistic(mask):
    name = type(mask).__name__
    if not 0.0 < mask.observed_prob < 1.0:
        raise ValueError(
            f"{name}: observed_prob is the probability that a value IS observed and must lie "
            f"between 0 and 1; got {mask.observed_prob}."
        )
    if not abs(mask.strength) <= 100.0:
        raise ValueError(
            f"{name}: strength is the log-odds of being hidden that a standard deviation "
            f"adds, from -100 to 100; got {mask.strength}."
        )


def _check_columns(name, argument, columns):
    for column in columns:
        check_whole(name, f"each entry of {argument}", column, least=0)
    if not columns or len(set(columns)) < len(columns):
        raise ValueError(
            f"{name}: {argument} lists one or more columns by number, once each; got "
            f"{columns}."
        )


def _columns(name, columns, num_columns):
    """bool [D] of some column numbers."""
    if max(columns) >= num_columns:
        raise ValueError(
            f"{name}: there is no column {max(columns)} in a table of {num_columns} columns, "
            f"which are numbered from 0."
        )
    return np.isin(np.arange(num_columns), columns)


def _check_table(x, present, name):
    """x as float64 [B, D]."""
    x = tf.convert_to_tensor(x)
    if x.shape.rank != 2 or x.shape[1] is None:
        raise ValueError(
            f"{name} reads the values of a table, so x must be [B, D] with a known number of "
            f"columns; got shape {x.shape}. For images use BernoulliMask, say."
        )
    return tf.cast(x, tf.float64)
