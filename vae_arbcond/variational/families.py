"""q(z) for many queries at once: Gaussians and mixtures, with gradients that are unbiased.

Agarwal, Hope, Younis and Sudderth, 2023 (QAVI), 3.2; Wu, Domke and Sanner, 2018,
https://arxiv.org/abs/1805.07785 (conditional prior networks), Eq. 7.

All queries of a batch share their standard normal noise: each query's estimate is as unbiased
as with noise of its own, and its answer depends on nothing but the query.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond.registry import register
from vae_arbcond.shapes import check_positive, check_sizes
from vae_arbcond.variational.starts import known_moments, moments, root_of, shared_draws

tfd = tfp.distributions
tfb = tfp.bijectors


class Draws(NamedTuple):
    """z of S draws for B queries, so that E_q[f] is estimated by sum_s share_s f(z_s).

    Attributes:
      z: [S, B, Z], with gradients to the parameters.
      log_q: log q(z_s): [S, B].
      share: [S, B], sums to 1 over S in expectation. Where q involves a choice, its gradient
        is that of the choice's probability, and f must be multiplied by it; None is 1 / S.
      independent: whether the draws are independent, so that the others' mean is a baseline.
    """

    z: tf.Tensor
    log_q: tf.Tensor
    share: tf.Tensor | None = None
    independent: bool = True


class Family:
    """What every family is. Parameters are a nest of float32 tensors [B, ...].

    Attributes:
      fits_fixed_noise: `draw(exact=True)` gives an estimate's own gradient, as it must be to
        maximise an estimate on fixed noise.
      has_density: `distribution` has a log_prob, without which no answer can be weighted.
    """

    fits_fixed_noise = True
    has_density = True

    def start(self, start: tfd.Distribution, seed):
        """Parameters whose q(z) is near `start`, batch_shape [B]; `seed` int32 [2]."""
        raise NotImplementedError

    def draw(self, parameters, num_samples: int, seed, exact: bool = False) -> Draws:
        """S or some more draws; the same noise for every query.

        Args:
          parameters: nest of [B, ...].
          num_samples: S.
          seed: int32 [2].
          exact: True gives log q its whole gradient, so that that of an estimate is the
            estimate's own, as quasi-Newton methods on fixed noise need it. False leaves out
            the part that has expectation 0 (the score), where it can be told apart: at the
            exact posterior nothing then is noise (Roeder et al., 2017).
        """
        raise NotImplementedError

    def distribution(self, parameters) -> tfd.Distribution:
        """q(z): batch_shape [B], event_shape [Z]. Can be indexed along the batch."""
        raise NotImplementedError

    def refresh(self, parameters, fresh, step):
        """Parameters with hopeless parts begun anew, and bool [B]: whose search starts again.

        Args:
          parameters: as they are.
          fresh: parameters from another `start`.
          step: optimiser steps done.
        """
        del fresh, step
        return parameters, tf.zeros(tf.shape(tf.nest.flatten(parameters)[0])[:1], tf.bool)


def bound_of_draws(draws: Draws, values) -> tuple[tf.Tensor, tf.Tensor]:
    """(E_q[f], what to differentiate for its gradient): each [B].

    Where q involves a choice, share_s f_s is differentiated; among independent draws with the
    mean of the others' f as a baseline, whose factor, the score, has expectation 0.

    Args:
      draws: of q.
      values: f(z_s): [S, B].
    """
    if draws.share is None:
        mean = _mean(values, draws.z.shape[0])
        return mean, mean
    share = tf.stop_gradient(draws.share)
    fixed = tf.stop_gradient(values)
    estimate = tf.reduce_sum(share * fixed, 0)
    baseline = 0.0
    if draws.independent:
        count = tf.cast(tf.shape(values)[0], tf.float32)
        baseline = (tf.reduce_sum(fixed, 0) - fixed) / tf.maximum(count - 1.0, 1.0)
    through_choice = tf.reduce_sum(draws.share * (fixed - baseline), 0)
    through_z = tf.reduce_sum(share * values, 0)
    return estimate, through_z + through_choice


def _mean(values, count: int):
    """tf.reduce_mean(values, 0), whose gradient would ask for the shape of the values.

    These are then computed in every step of a loop that wants nothing but the gradient.

    Args:
      values: [S, B].
      count: S.
    """

    @tf.custom_gradient
    def mean(values):
        def gradient(upstream):
            shape = tf.concat([[count], tf.shape(upstream)], 0)
            return tf.broadcast_to(upstream / count, shape)

        return tf.reduce_mean(values, 0), gradient

    return mean(values)


def paired_noise(shape, seed) -> tf.Tensor:
    """Standard normal [S, ...], its second half the first with another sign.

    Unbiased like any other noise; what is odd in it cancels. An odd S is rounded up.
    """
    half = tf.random.stateless_normal([(shape[0] + 1) // 2, *shape[1:]], seed)
    return tf.concat([half, -half], 0)


class GaussianParameters(NamedTuple):
    """loc [B, Z]; raw [B, Z] or [B, Z (Z + 1) / 2], to be made a scale."""

    loc: tf.Tensor
    raw: tf.Tensor


@register
class GaussianFamily(Family):
    """One Gaussian a query: diagonal, or full with a triangular scale (GVI).

    Starts where KL(q || start) is least, as if the start were a Gaussian of its moments.

    W of conditional prior networks' Eq. 7 is lower triangular with a positive diagonal: every
    covariance has one such W, and its determinant is a product that cannot be 0 or negative.

    Args:
      full_covariance: True gives W all entries below the diagonal, too.
      min_scale: lower bound on W's diagonal.
    """

    def __init__(self, full_covariance: bool = False, min_scale: float = 1e-4):
        check_positive(self, min_scale=min_scale)
        self.full_covariance, self.min_scale = full_covariance, min_scale

    def _triangle(self):
        return tfb.FillScaleTriL(diag_shift=self.min_scale)

    def start(self, start, seed):
        mean, covariance = moments(start, seed)
        factor = root_of(covariance, self.min_scale)
        if not self.full_covariance:
            # Least KL(q || start): a coordinate is as wide as it is given all others.
            eye = tf.eye(tf.shape(mean)[-1]) + tf.zeros_like(factor)
            inverse = tf.linalg.triangular_solve(factor, eye)
            scale = tf.math.rsqrt(tf.reduce_sum(inverse**2, -2))
            return GaussianParameters(mean, inverse_softplus(scale - self.min_scale))
        diagonal = tf.maximum(tf.linalg.diag_part(factor), 1.001 * self.min_scale)
        factor = tf.linalg.set_diag(factor, diagonal)
        return GaussianParameters(mean, self._triangle().inverse(factor))

    def distribution(self, parameters):
        loc, raw = parameters
        if self.full_covariance:
            return tfd.MultivariateNormalTriL(loc, self._triangle().forward(raw))
        return tfd.MultivariateNormalDiag(loc, self.min_scale + tf.nn.softplus(raw))

    def draw(self, parameters, num_samples, seed, exact=False):
        loc, raw = parameters
        noise = paired_noise([num_samples, loc.shape[-1]], seed)
        if self.full_covariance:
            scale = self._triangle().forward(raw)
            z = loc + tf.einsum("bij,sj->sbi", scale, noise)
            diagonal = tf.linalg.diag_part(scale)
        else:
            diagonal = scale = self.min_scale + tf.nn.softplus(raw)
            z = loc + scale * tf.expand_dims(noise, 1)
        # From the noise: solving for it again could lose every digit of a narrow Gaussian.
        log_q = tf.expand_dims(log_normal(noise), 1) - tf.reduce_sum(tf.math.log(diagonal), -1)
        if exact:
            return Draws(z, log_q)
        return Draws(z, tf.stop_gradient(log_q) - self._through_z(noise, loc, scale))

    def _through_z(self, noise, loc, scale):
        """What is 0 with the gradient of -log q(z) by way of z alone: [S, B].

        d log q / dz = -W^-T noise and z = loc + W noise, so that a change of the parameters
        changes log q by -noise^T (W^-1 dloc) - noise^T (W^-1 dW) noise: products with the
        noise, which is the same for all queries.
        """
        fixed = tf.stop_gradient(scale)
        moved, wider = loc - tf.stop_gradient(loc), scale - fixed
        if not self.full_covariance:
            by_loc = tf.matmul(noise, moved / fixed, transpose_b=True)
            return by_loc + tf.matmul(noise**2, wider / fixed, transpose_b=True)
        size = loc.shape[-1]
        both = tf.linalg.triangular_solve(
            fixed, tf.concat([moved[..., tf.newaxis], wider], -1)
        )
        pairs = tf.reshape(noise[:, :, tf.newaxis] * noise[:, tf.newaxis], [-1, size**2])
        by_loc = tf.matmul(noise, both[..., 0], transpose_b=True)
        return by_loc + tf.matmul(
            pairs, tf.reshape(both[..., 1:], [-1, size**2]), transpose_b=True
        )


def _reparameterised(z, logits, loc, scale) -> tf.Tensor:
    """Draws of a mixture with implicit gradients to means and scales (Figurnov et al., 2018).

    Coordinate by coordinate, dz_i = -dF(z_i | z_<i) / p(z_i | z_<i), earlier coordinates
    moving as well.

    Args:
      z: draws, [S, B, Z].
      logits: [B, T].
      loc, scale: [B, T, Z], with gradients.
    """
    normal = tfd.Normal(0.0, 1.0)
    moved = []
    log_share = tf.nn.log_softmax(logits) + tf.zeros([tf.shape(z)[0], 1, 1])  # [S, B, T]
    for i in range(z.shape[-1]):
        share = tf.nn.softmax(log_share)

        def unit(value, i=i):
            return (value[..., tf.newaxis] - loc[..., i]) / scale[..., i]

        here = unit(z[..., i])
        cdf = tf.reduce_sum(share * normal.cdf(here), -1)
        density = tf.reduce_sum(share * normal.prob(here) / scale[..., i], -1)
        density = tf.maximum(tf.stop_gradient(density), 1e-30)
        moved.append(z[..., i] - (cdf - tf.stop_gradient(cdf)) / density)
        log_share += normal.log_prob(unit(moved[-1])) - tf.math.log(scale[..., i])
    return tf.stack(moved, -1)


def log_normal(noise) -> tf.Tensor:
    """log N(noise | 0, I), [..., Z] -> [...]."""
    return -0.5 * tf.reduce_sum(noise**2 + float(np.log(2.0 * np.pi)), -1)


def inverse_softplus(value) -> tf.Tensor:
    """softplus^-1, of what is at least 1e-6."""
    value = tf.maximum(value, 1e-6)
    return value + tf.math.log(-tf.math.expm1(-value))


class MixtureParameters(NamedTuple):
    """logits [B, T], loc [B, T, Z], raw [B, T, Z] (softplus^-1 of scales)."""

    logits: tf.Tensor
    loc: tf.Tensor
    raw: tf.Tensor


@register
class MixtureFamily(Family):
    """A mixture of diagonal Gaussians a query (QAVI 3.2), with unbiased gradients.

    Two estimators. *stratified*: S / T draws of each component, weighted by its probability:
    exact in the weights, and every component keeps hearing of its mode. *importance*: draws
    of the mixture; a draw's integrand is multiplied by exp(log q - sg log q) for the gradient
    of the weights, and means and scales get implicit reparameterisation gradients (Figurnov et
    al., 2018), earlier coordinates included. The published code multiplies z instead of the
    integrand and leaves earlier coordinates out; both give wrong gradients. Either way queries
    share their noise: by a shared level in [0, 1] each chooses among its own components. On
    fixed noise those choices jump, so `LBFGS` and `FirstOrder(fixed_noise=True)` want
    *stratified*.

    Args:
      components: T.
      estimator: "stratified" or "importance".
      min_scale: lower bound on standard deviations.
      spread: how far components start from one another, in standard deviations of the start.
      threshold: components whose weight is below it when the search is refreshed are begun
        anew. 0 leaves them.
      refresh_until: optimiser steps after which nothing is begun anew.
    """

    def __init__(
        self,
        components: int = 10,
        estimator: str = "stratified",
        min_scale: float = 1e-4,
        spread: float = 1.0,
        threshold: float = 0.01,
        refresh_until: int = 100,
    ):
        check_sizes(self, components=components)
        check_positive(self, min_scale=min_scale, spread=spread)
        if estimator not in ("stratified", "importance"):
            raise ValueError(
                f"MixtureFamily.estimator is 'stratified' or 'importance', got {estimator!r}."
            )
        if not 0.0 <= threshold < 1.0 / components:
            raise ValueError(
                f"MixtureFamily.threshold must be at least 0 and below 1 / components = "
                f"{1.0 / components:.3g}, or every component would be begun anew; got "
                f"{threshold}."
            )
        self.components, self.estimator = components, estimator
        self.fits_fixed_noise = estimator == "stratified"
        self.min_scale, self.spread = min_scale, spread
        self.threshold, self.refresh_until = threshold, refresh_until

    def start(self, start, seed):
        """Components at draws of the start, drawn apart by `spread`, and as wide as it is.

        A start of known moments is drawn from as if it were their Gaussian, by noise that all
        queries share.
        """
        seeds = tfp.random.split_seed(seed, n=2)
        mean, covariance = moments(start, seeds[0])
        if known_moments(start) is None:
            z = shared_draws(start, self.components, seeds[1])
        else:
            noise = tf.random.stateless_normal([self.components, mean.shape[-1]], seeds[1])
            root = root_of(covariance, self.min_scale)
            z = mean + tf.einsum("bij,tj->tbi", root, noise)
        z = tf.transpose(z, [1, 0, 2])
        center = mean[:, tf.newaxis]
        scale = tf.sqrt(tf.linalg.diag_part(covariance))[:, tf.newaxis]
        loc = center + self.spread * (z - center)
        scale = tf.broadcast_to(scale, tf.shape(loc))
        return MixtureParameters(
            tf.zeros(tf.shape(loc)[:2]), loc, inverse_softplus(scale - self.min_scale)
        )

    def distribution(self, parameters):
        logits, loc, raw = parameters
        return tfd.MixtureSameFamily(
            tfd.Categorical(logits),
            tfd.MultivariateNormalDiag(loc, self.min_scale + tf.nn.softplus(raw)),
        )

    def draw(self, parameters, num_samples, seed, exact=False):
        if self.estimator == "importance":
            return self._draw_by_importance(parameters, num_samples, seed)
        logits, loc, raw = parameters
        each = max(1, -(-num_samples // self.components))
        size = loc.shape[-1]
        noise = paired_noise([each, 1, self.components, size], seed)
        scale = self.min_scale + tf.nn.softplus(raw)
        z = loc + scale * noise  # [n, B, T, Z]
        count = noise.shape[0]
        z = tf.reshape(tf.transpose(z, [0, 2, 1, 3]), [count * self.components, -1, size])
        weights = tf.transpose(tf.nn.softmax(logits)) / count  # [T, B]
        scored = parameters if exact else tf.nest.map_structure(tf.stop_gradient, parameters)
        shares = tf.tile(weights, [count, 1])
        return Draws(z, self.log_density(z, scored), shares, independent=False)

    def log_density(self, z, parameters):
        """log q(z): [S, B, Z] -> [S, B]."""
        logits, loc, raw = parameters
        scale = self.min_scale + tf.nn.softplus(raw)
        apart = (z[:, :, tf.newaxis] - loc) / scale  # [S, B, T, Z]
        each = -0.5 * tf.reduce_sum(apart**2, -1) - tf.reduce_sum(tf.math.log(scale), -1)
        each += tf.nn.log_softmax(logits) - 0.5 * np.log(2.0 * np.pi) * z.shape[-1]
        return tf.reduce_logsumexp(each, -1)

    def _draw_by_importance(self, parameters, num_samples, seed):
        logits, loc, raw = parameters
        fixed = MixtureParameters(*map(tf.stop_gradient, parameters))
        z = _reparameterised(
            self._choose(fixed, num_samples, seed),
            fixed.logits,
            loc,
            self.min_scale + tf.nn.softplus(raw),
        )
        fixed_z = tf.stop_gradient(z)
        of_weights = MixtureParameters(logits, tf.stop_gradient(loc), tf.stop_gradient(raw))
        log_q = self.log_density(fixed_z, of_weights)
        ratio = tf.exp(log_q - tf.stop_gradient(log_q))  # 1, with the weights' score
        return Draws(z, self.log_density(z, fixed), ratio / num_samples)

    def _choose(self, parameters, num_samples, seed):
        """Draws of the mixture, [S, B, Z], queries sharing what they choose and draw by."""
        logits, loc, raw = parameters
        choice_seed, noise_seed = tf.unstack(tfp.random.split_seed(seed, n=2), 2)
        below = tf.cumsum(tf.nn.softmax(logits), axis=-1)  # [B, T]
        level = tf.random.stateless_uniform([num_samples, 1, 1], choice_seed)
        chosen = tf.reduce_sum(tf.cast(level >= below, tf.int32), -1)  # [S, B]
        # Rounding may leave the last sum below 1.
        one = tf.one_hot(tf.minimum(chosen, self.components - 1), self.components)
        noise = tf.random.stateless_normal([num_samples, 1, loc.shape[-1]], noise_seed)
        scale = self.min_scale + tf.nn.softplus(raw)
        return tf.einsum("sbt,btz->sbz", one, loc) + noise * tf.einsum(
            "sbt,btz->sbz", one, scale
        )

    def refresh(self, parameters, fresh, step):
        logits, loc, raw = parameters
        dead = tf.nn.softmax(logits) < self.threshold  # [B, T]
        again = tf.reduce_any(dead, -1) & (step <= self.refresh_until)
        dead &= again[:, tf.newaxis]
        logits = tf.where(again[:, tf.newaxis], 0.0, logits)
        loc = tf.where(dead[..., tf.newaxis], fresh.loc, loc)
        raw = tf.where(dead[..., tf.newaxis], fresh.raw, raw)
        return MixtureParameters(logits, loc, raw), again
