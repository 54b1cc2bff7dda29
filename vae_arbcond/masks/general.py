"""Masks for tables and images, and masks made of other masks."""

import dataclasses
import math
from collections.abc import Sequence

import tensorflow as tf

from vae_arbcond.masks.base import (
    ROUNDING,
    MaskGenerator,
    check_call,
    check_numbers,
    check_sequence,
    choose,
    split,
    uniform,
    uniform_index,
)
from vae_arbcond.registry import register


@register
@dataclasses.dataclass(frozen=True)
class BernoulliMask:
    """Each feature is observed independently of the others (missing completely at random).

    Args:
      observed_prob: probability that a feature IS observed, in [0, 1]. VAEAC's and ACFlow's
        MCAR(p) hides with probability p: that is `BernoulliMask(1 - p)`.
    """

    observed_prob: float = 0.5

    def __post_init__(self):
        check_numbers("BernoulliMask", observed_prob=self.observed_prob)
        if not 0.0 <= self.observed_prob <= 1.0:
            raise ValueError(
                f"BernoulliMask: observed_prob is the probability that a feature IS observed "
                f"and must lie in [0, 1]; got {self.observed_prob}."
            )

    def __call__(self, x, present, seed):
        """See `MaskGenerator`."""
        present, seed = check_call(x, present, seed)
        observed = uniform(tf.shape(present), seed) < self.observed_prob
        return tf.ensure_shape(observed, present.shape)


@register
@dataclasses.dataclass(frozen=True)
class UniformCountMask:
    """Draws how many of a row's present features are observed, uniformly, and then which.

    With d present features in a row, the count is uniform on the whole numbers from
    floor(low * d) to floor(high * d) - 1; where that range is empty (few features, or
    low = high) it is floor(low * d). The defaults give 0..d-1: never all of them, as in
    Posterior Matching and ACE. `all_observed=True` gives 0..d.

    The published code of Posterior Matching draws floor(l * d) + U{0..floor(h * d) - 1} for
    its bounds (l, h). For l = 0 the bounds mean the same here: (0, 0.2) and d = 256 give
    0..50. For l > 0 that code ends l * d higher than its h says; its (l, h) is
    `UniformCountMask(l, l + h)` here where l * d is a whole number (elsewhere the last count
    may be one higher here), and has no equivalent where l + h > 1.

    Absent features are never observed.

    Args:
      low: least fraction of the present features, in [0, 1].
      high: greatest fraction, exclusive, in [low, 1].
      all_observed: whether a mask that hides nothing may occur; it needs high = 1.
    """

    low: float = 0.0
    high: float = 1.0
    all_observed: bool = False

    def __post_init__(self):
        check_numbers("UniformCountMask", low=self.low, high=self.high)
        if not 0.0 <= self.low <= self.high <= 1.0:
            raise ValueError(
                f"UniformCountMask: low and high are fractions of the features with "
                f"0 <= low <= high <= 1; got low={self.low}, high={self.high}."
            )
        if self.all_observed and self.high < 1.0:
            raise ValueError(
                f"UniformCountMask: all_observed=True lets the count reach all features, but "
                f"high={self.high} ends it before. Set high=1.0, or all_observed=False."
            )
        if self.low == 1.0 and not self.all_observed:
            raise ValueError(
                "UniformCountMask: low=1.0 asks for all features, which all_observed=False "
                "rules out. Lower low, or set all_observed=True."
            )

    def __call__(self, x, present, seed):
        """See `MaskGenerator`."""
        present, seed = check_call(x, present, seed)
        shape = tf.shape(present)
        # Both sizes spelt out: a -1 cannot be inferred for an empty batch.
        flat = tf.reshape(present, [shape[0], tf.reduce_prod(shape[1:])])
        size = tf.reduce_sum(tf.cast(flat, tf.int32), axis=1)  # [B]
        count_seed, order_seed = split(seed, 2)

        first = _floor_fraction(self.low, size)
        last = size if self.all_observed else _floor_fraction(self.high, size) - 1
        count = first + uniform_index(tf.maximum(last - first + 1, 1), count_seed)
        # Scores of present features lie in [0, 1), so absent ones, at 2, come last.
        scores = tf.where(flat, uniform(tf.shape(flat), order_seed), 2.0)
        rank = tf.argsort(tf.argsort(scores, stable=True), stable=True)
        observed = tf.reshape(rank < count[:, tf.newaxis], shape)
        return tf.ensure_shape(observed & present, present.shape)


@register
@dataclasses.dataclass(frozen=True)
class MixtureMask:
    """Each row uses one of `generators`, chosen with probability proportional to `weights`.

    Args:
      generators: mask generators; all of them are run for the whole batch.
      weights: one number >= 0 for each generator, not all 0; they need not sum to 1.
    """

    generators: Sequence[MaskGenerator]
    weights: Sequence[float]

    def __post_init__(self):
        object.__setattr__(self, "generators", _check_generators(self))
        check_sequence("MixtureMask", "weights", self.weights, "(0.5, 0.5)")
        object.__setattr__(self, "weights", tuple(self.weights))
        if len(self.weights) != len(self.generators):
            raise ValueError(
                f"MixtureMask needs one weight for each generator; got {len(self.weights)} "
                f"weights for {len(self.generators)} generators."
            )
        usable = all(math.isfinite(weight) and weight >= 0 for weight in self.weights)
        if not usable or sum(self.weights) <= 0:
            raise ValueError(
                f"MixtureMask: weights must be finite, at least 0 and not all 0; got "
                f"{self.weights}."
            )

    def __call__(self, x, present, seed):
        """See `MaskGenerator`."""
        present, seed = check_call(x, present, seed)
        choice_seed, *seeds = split(seed, 1 + len(self.generators))
        pairs = zip(self.generators, seeds, strict=True)
        drawn = tf.stack([generator(x, present, seed) for generator, seed in pairs], axis=1)
        choice = choose(self.weights, tf.shape(present)[0], choice_seed)
        observed = tf.gather(drawn, choice, axis=1, batch_dims=1)  # [B, G, *F] -> [B, *F]
        return tf.ensure_shape(observed, present.shape)


@register
@dataclasses.dataclass(frozen=True)
class IntersectionMask:
    """A feature is observed where every one of `generators`, drawn independently, says so.

    Two reasons to hide a feature at once: half of an image and single pixels of the rest, say.

    Args:
      generators: mask generators. The same one twice counts as two independent draws.
    """

    generators: Sequence[MaskGenerator]

    def __post_init__(self):
        object.__setattr__(self, "generators", _check_generators(self))

    def __call__(self, x, present, seed):
        """See `MaskGenerator`."""
        present, seed = check_call(x, present, seed)
        pairs = zip(self.generators, split(seed, len(self.generators)), strict=True)
        drawn = [generator(x, present, seed) for generator, seed in pairs]
        return tf.reduce_all(tf.stack(drawn), axis=0)


def _check_generators(mask):
    name, generators = type(mask).__name__, mask.generators
    if not isinstance(generators, Sequence) or isinstance(generators, str) or not generators:
        raise ValueError(
            f"{name}: generators must be a list of one or more mask generators; got "
            f"{generators!r}."
        )
    for generator in generators:
        if isinstance(generator, type):
            raise TypeError(
                f"{name}: generators must be made, not only named; got the class "
                f"{generator.__name__}. Write {generator.__name__}(), in a gin file "
                f"@{generator.__name__}()."
            )
        if not callable(generator):
            raise TypeError(
                f"{name}: each generator is called as generator(x, present, seed); got "
                f"{generator!r}, which cannot be called."
            )
    return tuple(generators)


def _floor_fraction(fraction, size):
    """floor(fraction * size), int32, past the rounding of float64."""
    product = fraction * tf.cast(size, tf.float64)
    return tf.cast(tf.floor(product + ROUNDING), tf.int32)
