"""Factor analysis and mixtures of it: latent-variable models whose posteriors are exact.

    component k ~ pi,  z ~ N(0, I),  x = mu_k + W_k z + noise of variance psi_k

The latent is z, or the pair (component, z) where there are several components; features are
independent given it. Since p(latent | x_present) is known for any part of x, these models
tell how far any other conditioner is from the truth.
"""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond.distributions import Handmade, over_features
from vae_arbcond.mixtures import factors as factor_em
from vae_arbcond.mixtures import fitting, marginals, rows
from vae_arbcond.mixtures.factors import Factors
from vae_arbcond.models.base import FitStage, LatentVariableModel
from vae_arbcond.registry import register
from vae_arbcond.shapes import check_finite, check_mask, check_x

tfd = tfp.distributions


@register
class FactorAnalysis(LatentVariableModel):
    """A mixture of factor analysers over a table of numbers, fitted by EM to rows with gaps.

    With one component z is a vector [latent_size], so that any posterior head of that size
    can be matched to it. With several, z is a vector [1 + latent_size] that starts with the
    number of the component: a discrete and a continuous latent in one tensor.

    Args:
      latent_size: number of factors; fewer than columns.
      components: number of factor analysers.
      num_steps: EM steps after the start, at least 2; with several components half of them
        with a fixed prior.
      min_variance: bound on the noise of a column, in units of its own variance: above 0 and
        below 1.
    """

    def __init__(
        self,
        latent_size: int,
        components: int = 1,
        num_steps: int = 20,
        min_variance: float = 1e-3,
        name: str | None = None,
    ):
        super().__init__(name=name)
        if latent_size < 1 or components < 1:
            raise ValueError(
                f"A mixture of factor analysers has at least 1 factor and 1 component, got "
                f"latent_size={latent_size} and components={components}."
            )
        if num_steps < 2 or not 0.0 < min_variance < 1.0:
            raise ValueError(
                f"EM takes at least 2 steps, and bounds a column's noise by a part of its "
                f"variance, above 0 and below 1; got num_steps={num_steps} and "
                f"min_variance={min_variance}."
            )
        self.latent_size, self.components = latent_size, components
        self.num_steps, self.min_variance = num_steps, min_variance
        self.fitted = False

    def build_for(self, spec):
        if self.spec == spec:
            return  # Built before, and perhaps fitted, alone: its weights stay.
        size = spec.num_features
        if len(spec.x_shape) != 1 or spec.discrete is not None:
            raise ValueError(
                "FactorAnalysis is for tables of numbers alone. For categories and counts "
                "take GaussianMixtureConditioner, for images a method with a network."
            )
        if self.latent_size >= size:
            raise ValueError(
                f"latent_size is {self.latent_size}, but a table of {size} columns has room "
                f"for {size - 1} factors at most."
            )
        super().build_for(spec)
        shapes = Factors(
            (self.components,),
            (self.components, size),
            (self.components, size, self.latent_size),
            (self.components, size),
        )
        # Where nothing was fitted: equal components of independent standard normals.
        starts = Factors("zeros", "zeros", "zeros", "ones")
        weights = zip(Factors._fields, shapes, starts, strict=True)
        self.parameters = {
            name: self.add_weight(
                shape=shape, dtype="float64", initializer=start, trainable=False, name=name
            )
            for name, shape, start in weights
        }

    @property
    def factors(self) -> Factors:
        """The parameters in float64; weights of components normalised."""
        stored = Factors(*(tf.convert_to_tensor(self.parameters[n]) for n in Factors._fields))
        return stored._replace(log_weights=tf.nn.log_softmax(stored.log_weights))

    def stages(self):
        return [FitStage("EM", self.fit_rows)]

    def variables_to_train(self):
        return []

    def fit_rows(self, x, present, seed: int = 0) -> dict:
        """Fits by EM to rows with gaps, in place of what was there; deterministic.

        Args:
          x: [N, D]; anything where not present.
          present: bool [N, D]; True = the value exists.
          seed: of K-means; a whole number, 0 or more.

        Returns:
          The penalised log-likelihood of the last step, nats a row.

        Raises:
          ValueError: no row has a value, there are fewer rows than components, or a value that
            is present is not finite.
        """
        seed = fitting.check_seed(seed)
        x = check_x(x, self.spec.x_shape)
        present = check_mask(present, x, 1, "present")
        check_finite(x, present, "present")
        present = present.numpy()
        filled = present.any(1)
        if filled.sum() < self.components:
            raise ValueError(
                f"{int(filled.sum())} training rows hold a value, too few for "
                f"{self.components} components. Give more rows or fewer components."
            )
        # Shrinkage counts in standard deviations, so that EM works on standardised columns.
        maps = marginals.fit_marginals(x.numpy(), present, 0.0)
        columns = rows.Columns.of(self.spec)
        known = tf.where(present, x, 0.0)
        read = rows.read(known, present, columns, lambda v: marginals.to_g(maps, v))
        table = fitting.Table.of(read, columns)
        settings = fitting.Settings(steps=self.num_steps // 2)
        first, _ = fitting.fit_gaussian(table, settings)
        found, _, climbed = factor_em.fit_factors(
            table, self.components, self.latent_size, first, settings, seed, self.min_variance
        )
        scale = maps.slope
        middle = marginals.to_x(maps, tf.zeros_like(scale))
        self.store(
            Factors(
                found.log_weights,
                middle + scale * found.means,
                scale[:, np.newaxis] * found.loadings,
                scale**2 * found.variances,
            )
        )
        return {"objective": round(climbed[-1] / len(table), 5)}

    def store(self, factors: Factors) -> None:
        """Takes these parameters, in the units of x."""
        for name, value in factors._asdict().items():
            self.parameters[name].assign(value)
        self.fitted = True

    def check_fitted(self) -> None:
        """Refuses to answer from the parameters that a model starts with.

        Raises:
          ValueError: nothing was fitted or stored yet.
        """
        if not self.fitted:
            raise ValueError(
                f"This {type(self).__name__} has not been fitted: train it, or call "
                f"fit_rows(x, present, seed) after create_variables(spec)."
            )

    def load_own_variables(self, store):
        super().load_own_variables(store)
        # No fit leaves every column a standard normal that depends on no other.
        starts = Factors(0.0, 0.0, 0.0, 1.0)._asdict()
        parts = self.parameters.items()
        self.fitted = any((part.numpy() != starts[name]).any() for name, part in parts)

    def prior(self):
        if self.components == 1:
            return tfd.MultivariateNormalDiag(tf.zeros([self.latent_size]))
        size = self.latent_size
        return ComponentAndVector(
            tf.cast(self.factors.log_weights, tf.float32),
            tf.zeros([self.components, size]),
            tf.eye(size, batch_shape=[self.components]),
        )

    def solve(self, x, present):
        """log p(component, x_present) [K, B] and p(z | x_present, component), float64."""
        known = tf.where(present, tf.cast(x, tf.float64), 0.0)
        factors = self.factors
        solved = factor_em.latent(factors, known, present)
        return factors.log_weights[:, tf.newaxis] + solved.log_density, solved

    def posterior(self, x, present):
        """p(latent | x_present), exactly, whatever is present: batch_shape [B]."""
        joint, solved = self.solve(x, present)
        roots = tf.cast(tf.linalg.cholesky(solved.covariances), tf.float32)
        means = tf.cast(solved.means, tf.float32)
        if self.components == 1:
            return tfd.MultivariateNormalTriL(means[0], roots[0])
        return ComponentAndVector(
            tf.cast(tf.transpose(tf.nn.log_softmax(joint, axis=0)), tf.float32),
            tf.transpose(means, [1, 0, 2]),
            tf.transpose(roots, [1, 0, 2, 3]),
        )

    def likelihood(self, z):
        factors = Factors(*(tf.cast(part, tf.float32) for part in self.factors))
        if self.components == 1:
            loc = factors.means[0] + tf.linalg.matvec(factors.loadings[0], z)
            return tfd.Normal(loc, tf.sqrt(factors.variances[0]))
        k, vector = tf.cast(z[..., 0], tf.int32), z[..., 1:]
        loc = tf.gather(factors.means, k)
        loc += tf.linalg.matvec(tf.gather(factors.loadings, k), vector)
        return tfd.Normal(loc, tf.sqrt(tf.gather(factors.variances, k)))

    def elbo(self, x, present, seed, beta=1.0, posterior=None):
        """log p(x_present), exactly, with the model's own posterior and beta 1: [B], nats.

        With another posterior or beta, one sample of z as for any model.
        """
        if posterior is None and isinstance(beta, float) and beta == 1.0:
            joint, _ = self.solve(x, present)
            return tf.cast(tf.reduce_logsumexp(joint, 0), tf.float32)
        q = self.posterior(x, present) if posterior is None else posterior
        z = q.sample(seed=seed)
        log_px = over_features(self.likelihood(z), present).log_prob(x)
        return log_px - beta * (q.log_prob(z) - self.prior().log_prob(z))


class ComponentAndVector(Handmade):
    """A component and, given it, a Gaussian vector, as one vector [1 + q], component first.

    Args:
      log_weights: [..., K], log-probabilities.
      means: [..., K, q].
      scale_trils: [..., K, q, q], Cholesky factors of the covariances.
    """

    def __init__(self, log_weights, means, scale_trils, name="ComponentAndVector"):
        made_of = dict(locals())
        self.log_weights, self.means, self.scale_trils = log_weights, means, scale_trils
        super().__init__(made_of, name)

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        properties = tfp.util.ParameterProperties
        return {
            "log_weights": properties(event_ndims=1),
            "means": properties(event_ndims=2),
            "scale_trils": properties(event_ndims=3),
        }

    def _event_shape(self):
        return tf.TensorShape([1 + self.means.shape[-1]])

    def _event_shape_tensor(self):
        return tf.constant([1 + self.means.shape[-1]])

    def _component(self, z):
        """log-probability, mean and factor of the component that z names."""
        one_hot = tf.one_hot(tf.cast(z[..., 0], tf.int32), self.log_weights.shape[-1])
        log_weight = tf.reduce_sum(one_hot * self.log_weights, -1)
        mean = tf.reduce_sum(one_hot[..., tf.newaxis] * self.means, -2)
        factor = one_hot[..., tf.newaxis, tf.newaxis] * self.scale_trils
        return log_weight, mean, tf.reduce_sum(factor, -3)

    def _log_prob(self, z):
        log_weight, mean, factor = self._component(z)
        vector = tfd.MultivariateNormalTriL(mean, factor)
        return log_weight + vector.log_prob(z[..., 1:])

    def _sample_n(self, n, seed=None):
        component_seed, vector_seed = tfp.random.split_seed(seed, n=2)
        drawn = tfd.Categorical(self.log_weights, dtype=tf.float32)
        component = drawn.sample(n, seed=component_seed)[..., tf.newaxis]
        _, mean, factor = self._component(component)
        noise = tf.random.stateless_normal(tf.shape(mean), vector_seed)
        return tf.concat([component, mean + tf.linalg.matvec(factor, noise)], -1)
