"""What Monte Carlo methods share: draws of z ~ p(z | x_o), and answers made of them."""

from typing import NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond import estimators
from vae_arbcond.conditioners import sampling
from vae_arbcond.conditioners.base import Inference
from vae_arbcond.conditioners.model_only import (
    ModelOnly,
    check_vector_latent,
    nothing_observed,
)
from vae_arbcond.distributions import expected_features, over_features
from vae_arbcond.shapes import check_seed, check_sizes, expand_features

tfd = tfp.distributions

MIN_POOL = 20  # draws of z, over all chains, to which a proposal is fitted
PROPOSAL = (0.75, 0.15, 0.1)  # of the draws' Gaussian, one twice as wide, and the prior


class Chains(NamedTuple):
    """Draws of z and how they were come by: what `sample_posterior` returns.

    Attributes:
      z: [T, C, B, Z]: T draws of each of C chains.
      acceptance: [C, B], share of the proposals behind z that were accepted.
      step_size: [B], the leapfrog's, once adapted; 0 for methods that have none.
    """

    z: tf.Tensor
    acceptance: tf.Tensor
    step_size: tf.Tensor

    @property
    def r_hat(self) -> tf.Tensor:
        """Potential scale reduction, the largest of z's coordinates: [B] (Gelman and Rubin).

        Near 1 where the chains agree; above 1.1 they have not mixed. NaN for one chain.
        """
        if self.z.shape[1] == 1:
            return tf.fill(tf.shape(self.z)[2:3], float("nan"))
        return tf.reduce_max(tfp.mcmc.potential_scale_reduction(self.z, 1), -1)


class MonteCarlo(ModelOnly):
    """Answers from draws of z ~ p(z | x_o). Implement `_chains`.

    All queries and chains of a call move together. Imputations and completions take the
    chains' draws of z, in random order and each once before any twice. Log-likelihoods use
    them to make a proposal (a Gaussian with their mean and covariance, mixed with a wider one
    and the prior) and are then importance-corrected: consistent for a chain that has not
    mixed, too, with an error bar and a Pareto shape that tell. `correct_likelihood=False`
    averages p(x_t | z) over the draws themselves, as papers do: as biased as the chain is, and
    with an error bar that takes draws of a chain for independent. (`PredictiveLikelihood`
    would average over the proposal, which is neither.)

    Rows with seeds of their own, those of `complete` among them, are answered one by one: a
    step's noise is drawn for all rows from one seed. Many rows go faster through `impute` or
    `impute_means` with one seed. A row without anything observed gets draws of the prior.

    Args:
      model: a LatentVariableModel whose z is one real vector.
      num_chains: C.
      num_draws: T, draws kept of each chain.
      correct_likelihood: False averages plainly, see above.
      train_model: False leaves the model as it is.
    """

    def __init__(
        self,
        model,
        num_chains: int,
        num_draws: int,
        correct_likelihood: bool = True,
        train_model: bool = True,
        name: str | None = None,
    ):
        # Draws are those of the chain: no candidates to choose from.
        super().__init__(model, train_model, correct_draws=False, name=name)
        check_sizes(self, num_chains=num_chains, num_draws=num_draws)
        if num_chains * num_draws < MIN_POOL:
            raise ValueError(
                f"{type(self).__name__} keeps {num_chains} x {num_draws} draws of z (chains x "
                f"draws), too few to answer from: {MIN_POOL} at least, and better hundreds."
            )
        self.num_chains, self.num_draws = num_chains, num_draws
        self.correct_likelihood = correct_likelihood
        self.estimator = (
            "importance-corrected predictive, proposal fitted to Monte Carlo draws"
            if correct_likelihood
            else "predictive, mean over Monte Carlo draws"
        )

    def sample_posterior(self, x, observed, seed) -> Chains:
        """Draws of z ~ p(z | x_o) with their diagnostics.

        Args:
          x, observed: as for `impute`.
          seed: int32 [2].
        """
        x, observed, _, seed = self._check(x, observed, 1, check_seed(seed, False))
        hidden = tf.where(expand_features(observed, x), x, 0.0)
        return self._run_call(hidden, observed, seed)

    def infer(self, x, observed, seed):
        chains = self._run_call(x, observed, seed)
        nothing = nothing_observed(observed)
        return Inference(fitted_proposal(chains.z, self.model.prior(), nothing), chains)

    # Of its own, so that whatever is asked shares one graph: chains take seconds to trace.
    @tf.function(reduce_retracing=True, autograph=False)
    def _run_call(self, x, observed, seed):
        start_seed, chain_seed, prior_seed = split_seed(seed, 3)
        shape = [self.num_chains, tf.shape(x)[0]]
        prior = self.model.prior()
        start = tf.ensure_shape(
            prior.sample(shape, seed=start_seed), [self.num_chains, x.shape[0], None]
        )
        chains = self._chains(x, observed, start, chain_seed)
        nothing = nothing_observed(observed)
        # Of what nothing is known of, the prior is known exactly.
        shape = tf.shape(chains.z)[:-1]
        free = tf.ensure_shape(prior.sample(shape, seed=prior_seed), chains.z.shape)
        return chains._replace(z=tf.where(nothing[:, tf.newaxis], free, chains.z))

    def _chains(self, x, observed, start, seed) -> Chains:
        """Runs the chains.

        Args:
          x: float32 [B, *F, *E], zero where hidden.
          observed: bool [B, *F].
          start: draws of the prior, [C, B, Z].
          seed: int32 [2].
        """
        raise NotImplementedError

    # What the chains' own draws answer, instead of draws from the proposal.

    def _candidates(self, function, x, observed, num_samples, seed, signature):
        infer_seed, draw_seed = sampling.split(seed)
        posterior, chains = self.infer(x, observed, infer_seed)
        del posterior
        pool = tf.reshape(chains.z, tf.concat([[-1], tf.shape(chains.z)[2:]], 0))
        pool = tf.ensure_shape(pool, [None, *chains.z.shape[2:]])
        count = tf.shape(pool)[0]
        order = tf.random.experimental.stateless_shuffle(tf.range(count), draw_seed)
        size = tf.minimum(num_samples, sampling.CHUNK)

        def chunk(many, i):
            places = tf.gather(order, (i * size + tf.range(many)) % count)
            likelihood = self.likelihood(tf.gather(pool, places), None)
            return function(likelihood, sampling.chunk_seeds(draw_seed, i).x, None, likelihood)

        return sampling.in_chunks(chunk, num_samples, signature)

    def _complete(self, x, observed, num_samples, seed):
        def expected(likelihood, seed, log_weights, candidates):
            del seed, log_weights, candidates
            return expected_features(likelihood)

        parts = self._candidates(expected, x, observed, num_samples, seed, tf.float32)
        return self._point(tf.reduce_mean(parts[:num_samples], 0))

    def _log_likelihood(self, x, observed, target, num_samples, seed):
        if self.correct_likelihood:
            return super()._log_likelihood(x, observed, target, num_samples, seed)

        def score(likelihood, seed, log_weights, candidates):
            del seed, log_weights, candidates
            return over_features(likelihood, target).log_prob(x)

        seen = tf.where(expand_features(observed, x), x, 0.0)
        log_p = self._candidates(score, seen, observed, num_samples, seed, tf.float32)
        estimate = estimators.predictive(log_p[:num_samples])
        return estimators.certain_where(nothing_observed(target), estimate)

    def build_for(self, spec):
        super().build_for(spec)
        check_vector_latent(self, self.model)


def fitted_proposal(z, prior, nothing) -> tfd.Distribution:
    """A density that covers draws of z: batch_shape [B].

    The draws' Gaussian, its covariance drawn to its diagonal as far as draws are few; the same
    with twice the standard deviations; and the prior's Gaussian, which alone is left for rows
    in `nothing`.

    Args:
      z: [T, C, B, Z].
      prior: p(z).
      nothing: bool [B].
    """
    pool = tf.reshape(z, tf.concat([[-1], tf.shape(z)[2:]], 0))
    count = tf.cast(tf.shape(pool)[0], tf.float32)
    size = z.shape[-1]
    mean = tf.reduce_mean(pool, 0)
    apart = pool - mean
    covariance = tf.einsum("nbi,nbj->bij", apart, apart) / count
    diagonal = tf.linalg.diag(tf.linalg.diag_part(covariance))
    share = size / (count + size)
    wide = tf.linalg.diag(tf.ones([size]) * prior.variance())
    # Chains that never moved have no spread: a thousandth of the prior's is the least.
    covariance = (1.0 - share) * covariance + share * diagonal + 1e-6 * wide
    root = tf.linalg.cholesky(covariance)
    at_prior = tf.ones_like(mean) * prior.mean()
    wide_root = tf.ones_like(root) * tf.linalg.cholesky(prior.covariance())
    means = tf.stack([mean, mean, at_prior], 1)
    roots = tf.stack([root, 2.0 * root, wide_root], 1)
    weights = tf.where(nothing[:, tf.newaxis], [0.0, 0.0, 1.0], PROPOSAL)
    return tfd.MixtureSameFamily(
        tfd.Categorical(probs=weights), tfd.MultivariateNormalTriL(means, roots)
    )


def split_seed(seed, count: int):
    """`count` seeds [2] of one."""
    return tf.unstack(tfp.random.split_seed(seed, n=count), count)
