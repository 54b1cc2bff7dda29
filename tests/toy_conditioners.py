"""Four small methods, deliberately different, that try the interface before it is built upon.

`ClosedFormGaussian` has a density and no model, `ExactConditioner` knows the posterior,
`QueryOptimiser` fits a posterior to every query while it is asked, and `HotDeck` draws without
any density. Nothing here is meant for use outside the tests.
"""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond.conditioners import (
    ArbitraryConditioner,
    DensityConditioner,
    Inference,
    LatentConditioner,
)
from vae_arbcond.distributions import over_features
from vae_arbcond.estimators import Estimate
from vae_arbcond.registry import register

tfd = tfp.distributions
_fold_in = tf.random.experimental.stateless_fold_in


class NothingToTrain:
    """Mixin of methods that are complete once constructed."""

    def loss_terms(self, x, present, observed, seed, step, training):
        del x, present, observed, seed, step, training
        return {}

    def stages(self):
        return []

    def dry_run(self, x, seen):
        del x, seen  # No weights to create.


@register
class ClosedFormGaussian(NothingToTrain, DensityConditioner):
    """Rows are N(mean, covariance): draws and densities by conditioning the joint.

    Args:
      mean: D numbers.
      covariance: D rows of D numbers.
    """

    def __init__(self, mean, covariance, name: str | None = None):
        super().__init__(name=name)
        self.mean = tf.constant(np.asarray(mean), tf.float64)
        self.covariance = tf.constant(np.asarray(covariance), tf.float64)

    def _conditional(self, x, observed):
        """Mean [B, D] and covariance [B, D, D], of hidden features; float64."""
        o = tf.cast(observed, tf.float64)
        u = 1.0 - o
        # Identity rows stand in for the hidden features: no batch of ragged matrices.
        c_oo = self.covariance * _outer(o, o) + tf.linalg.diag(u)
        c_ou = self.covariance * _outer(o, u)
        gain = tf.linalg.solve(c_oo, c_ou)  # [B, observed, hidden]
        residual = (tf.cast(x, tf.float64) - self.mean) * o
        mean = self.mean + tf.linalg.matvec(gain, residual, transpose_a=True)
        covariance = self.covariance * _outer(u, u)
        return mean, covariance - tf.matmul(c_ou, gain, transpose_a=True)

    def _impute(self, x, observed, num_samples, seed):
        mean, covariance = self._conditional(x, observed)
        padded = covariance + tf.linalg.diag(tf.cast(observed, tf.float64))
        shape = tf.concat([[num_samples], tf.shape(x)], 0)
        noise = tf.random.stateless_normal(shape, seed, dtype=tf.float64)
        draws = mean + tf.linalg.matvec(tf.linalg.cholesky(padded), noise)
        return tf.cast(draws, tf.float32)

    def _complete(self, x, observed, num_samples, seed):
        return tf.cast(self._conditional(x, observed)[0], tf.float32)

    def _log_likelihood(self, x, observed, target, num_samples, seed):
        mean, covariance = self._conditional(x, observed)
        t = tf.cast(target, tf.float64)
        c_tt = covariance * _outer(t, t) + tf.linalg.diag(1.0 - t)
        residual = ((tf.cast(x, tf.float64) - mean) * t)[..., tf.newaxis]
        cholesky = tf.linalg.cholesky(c_tt)
        white = tf.linalg.triangular_solve(cholesky, residual)[..., 0]
        log_det = 2.0 * tf.reduce_sum(tf.math.log(tf.linalg.diag_part(cholesky)), -1)
        count = tf.reduce_sum(t, -1)
        value = -0.5 * (tf.reduce_sum(white**2, -1) + log_det + count * np.log(2 * np.pi))
        value = tf.cast(value, tf.float32)
        exact = tf.zeros_like(value)  # No samples: no error, and no weights to have a tail.
        samples = exact + tf.cast(num_samples, tf.float32)
        return Estimate(value, exact, samples, exact, exact)


@register
class ExactConditioner(NothingToTrain, LatentConditioner):
    """q(z | x_o) = p(z | x_o), from a model whose posterior is exact whatever is present."""

    def __init__(self, model, correct_draws: bool = True, name: str | None = None):
        super().__init__(model, correct_draws, name=name)

    def infer(self, x, observed, seed):
        del seed
        return Inference(self.model.posterior(x, observed))


@register
class QueryOptimiser(NothingToTrain, LatentConditioner):
    """Fits a diagonal Gaussian to p(z | x_o) for every query, by Adam on its own ELBO.

    Args:
      model: a LatentVariableModel whose z is a vector.
      latent_size: its length.
      num_steps: gradient steps for every question.
      num_noise: samples of z in each step.
      learning_rate: of Adam.
    """

    def __init__(
        self,
        model,
        latent_size: int,
        num_steps: int = 25,
        num_noise: int = 8,
        learning_rate: float = 0.2,
        name: str | None = None,
    ):
        super().__init__(model, name=name)
        self.latent_size, self.num_steps = latent_size, num_steps
        self.num_noise, self.learning_rate = num_noise, learning_rate

    def infer(self, x, observed, seed):
        start = tf.zeros([tf.shape(x)[0], 2 * self.latent_size])
        start = tf.ensure_shape(start, [x.shape[0], 2 * self.latent_size])

        def objective(parameters, step):
            q = self._posterior(parameters)
            z = q.sample(self.num_noise, seed=_fold_in(seed, step))
            log_joint = over_features(self.model.likelihood(z), observed).log_prob(x)
            elbo = tf.reduce_mean(log_joint, 0) - tfd.kl_divergence(q, self.model.prior())
            return -elbo  # [B]: rows share no parameter, so the sum's gradient is each row's.

        def body(step, parameters, first, second):
            with tf.GradientTape() as tape:
                tape.watch(parameters)
                loss = objective(parameters, step)
            gradient = tape.gradient(loss, parameters)
            first = 0.9 * first + 0.1 * gradient
            second = 0.99 * second + 0.01 * gradient**2
            count = tf.cast(step, tf.float32) + 1.0
            scale = tf.sqrt(second / (1.0 - 0.99**count)) + 1e-8
            move = self.learning_rate * first / (1.0 - 0.9**count) / scale
            return step + 1, parameters - move, first, second

        steps, parameters, _, _ = tf.while_loop(
            lambda step, *_: step < self.num_steps,
            body,
            (tf.constant(0), start, tf.zeros_like(start), tf.zeros_like(start)),
        )
        return Inference(self._posterior(parameters), context={"steps": steps})

    def _posterior(self, parameters):
        loc, raw_scale = tf.split(parameters, 2, axis=-1)
        return tfd.MultivariateNormalDiag(loc, 1e-3 + tf.nn.softplus(raw_scale))


@register
class HotDeck(NothingToTrain, ArbitraryConditioner):
    """Fills a row from rows of a stored table, the nearer the likelier. It has no density.

    Args:
      num_rows: size of the stored table, which `remember` fills and `.keras` files keep.
      bandwidth: squared distance over which a row becomes e times less likely.
    """

    def __init__(self, num_rows: int, bandwidth: float = 0.5, name: str | None = None):
        super().__init__(name=name)
        self.num_rows, self.bandwidth = num_rows, bandwidth

    def build_for(self, spec):
        super().build_for(spec)
        self.table = self.add_weight(
            shape=(self.num_rows, spec.num_features), trainable=False, name="table"
        )

    def remember(self, rows):
        """Stores rows [num_rows, D]; returns self."""
        self.table.assign(rows)
        return self

    def _impute(self, x, observed, num_samples, seed):
        table = tf.convert_to_tensor(self.table)
        apart = x[:, tf.newaxis] - table  # [B, N, D]
        apart = tf.where(observed[:, tf.newaxis], apart**2, 0.0)
        logits = -tf.reduce_sum(apart, -1) / self.bandwidth
        donors = tf.random.stateless_categorical(logits, num_samples, seed)  # [B, S]
        return tf.transpose(tf.gather(table, donors), [1, 0, 2])


def _outer(a, b):
    return a[..., :, tf.newaxis] * b[..., tf.newaxis, :]
