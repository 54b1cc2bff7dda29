"""Schedules of beta, the weight of the KL term in the ELBO, as functions of the step.

Posterior Matching, appendix D.1: holding beta at 0 first avoids a degenerate start.
"""

import dataclasses

import tensorflow as tf

from vae_arbcond.registry import register


@register
@dataclasses.dataclass(frozen=True)
class ConstantBeta:
    """The same beta at every step; 1 is the ELBO."""

    value: float = 1.0

    def __call__(self, step) -> tf.Tensor:
        """step: integer scalar -> float32 scalar."""
        del step
        return tf.constant(self.value, tf.float32)


@register
@dataclasses.dataclass(frozen=True)
class CyclicalBeta:
    """0 for `delay` steps; then, in each period, up from 0 to 1 in its first half, 1 after.

    Posterior Matching: period 50,000 and delay 1,000 (MINIBOONE 5,000 and 2,000).
    """

    period: int = 50_000
    delay: int = 1_000

    def __post_init__(self):
        if self.period < 1 or self.delay < 0:
            raise ValueError(
                f"CyclicalBeta needs period >= 1 and delay >= 0 steps; got period "
                f"{self.period}, delay {self.delay}."
            )

    def __call__(self, step) -> tf.Tensor:
        since = tf.cast(step, tf.int64) - self.delay
        phase = tf.cast(tf.math.floormod(since, self.period), tf.float32) / self.period
        return tf.where(since < 0, 0.0, tf.minimum(2.0 * phase, 1.0))


@register
@dataclasses.dataclass(frozen=True)
class MonotoneBeta:
    """0 until step `start`, then linearly up to 1 at step `end`, 1 after it.

    Posterior Matching, BSDS: start 30,000 and end = the last training step.
    """

    start: int
    end: int

    def __post_init__(self):
        if not 0 <= self.start < self.end:
            raise ValueError(
                f"MonotoneBeta needs 0 <= start < end; got start {self.start}, end {self.end}."
            )

    def __call__(self, step) -> tf.Tensor:
        done = tf.cast(tf.cast(step, tf.int64) - self.start, tf.float32)
        return tf.clip_by_value(done / (self.end - self.start), 0.0, 1.0)
