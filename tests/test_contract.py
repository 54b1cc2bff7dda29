"""The contract, run on the toys, on Posterior Matching and on the exact conditioner.

The toys prove the interface: a closed form without a model, a method that optimises for every
query, a sampler without a density.
"""

from typing import ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf
from contract import (
    SEED,
    ArbitraryConditionerContract,
    DensityConditionerContract,
    GaussianOracleContract,
    LatentConditionerContract,
    TrainableContract,
)
from oracles import LinearGaussian
from toy_conditioners import ClosedFormGaussian, ExactConditioner, HotDeck, QueryOptimiser

from vae_arbcond import networks, skip_networks
from vae_arbcond.conditioners import VAEAC, PosteriorMatching, UniversalMarginalizer
from vae_arbcond.distributions import (
    Bernoulli,
    CholeskyGaussian,
    DiagonalGaussian,
    FeatureScaleNormal,
    MadeMixture,
    MixedColumns,
)
from vae_arbcond.models import VAE
from vae_arbcond.shapes import DataSpec


def linear_gaussian() -> LinearGaussian:
    return LinearGaussian.random(num_features=4, rank=2, seed=0)


class ClosedFormGaussianTest(
    DensityConditionerContract, GaussianOracleContract, tf.test.TestCase
):
    max_gap = 1e-4  # float32 output of a float64 computation

    @classmethod
    def oracle(cls):
        return linear_gaussian()

    @classmethod
    def make(cls):
        exact = cls.oracle().exact
        made = ClosedFormGaussian(exact["mean"].tolist(), exact["covariance"].tolist())
        return made.create_variables(cls.oracle().data_spec)

    def test_its_error_bar_is_0(self):
        x, observed = self.inputs()
        estimate = self.log_likelihood(x, observed, ~observed)
        self.assertAllEqual(estimate.stderr, np.zeros(len(x)))


class ExactConditionerTest(
    LatentConditionerContract, GaussianOracleContract, tf.test.TestCase
):
    @classmethod
    def oracle(cls):
        return linear_gaussian()

    @classmethod
    def make(cls):
        return ExactConditioner(cls.oracle()).create_variables(cls.oracle().data_spec)

    def test_with_the_exact_posterior_every_weight_is_the_same(self):
        x, observed = self.questions(rows=20)
        # With nothing to score, the weights of x_observed are the only ones.
        estimate = self.log_likelihood(x, observed, np.zeros_like(observed), 100)
        # Float32 log-densities of about 10 nats: weights equal to 1e-5.
        self.assertAllClose(estimate.ess, np.full(len(x), 100.0), rtol=1e-4)


class ExactConditionerWithPlainDrawsTest(GaussianOracleContract, tf.test.TestCase):
    @classmethod
    def oracle(cls):
        return linear_gaussian()

    @classmethod
    def make(cls):
        made = ExactConditioner(cls.oracle(), correct_draws=False)
        return made.create_variables(cls.oracle().data_spec)


class QueryOptimiserTest(LatentConditionerContract, GaussianOracleContract, tf.test.TestCase):
    @classmethod
    def oracle(cls):
        # Much noise leaves little correlation in the posterior: a diagonal Gaussian suits it.
        return LinearGaussian.random(num_features=4, rank=2, seed=0, noise_scale=1.5)

    @classmethod
    def make(cls):
        made = QueryOptimiser(cls.oracle(), latent_size=2)
        return made.create_variables(cls.oracle().data_spec)

    def infer(self, seed):
        x, observed = self.inputs()
        hidden = np.where(observed, x, 0.0).astype(np.float32)
        infer = tf.function(self.conditioner().infer)
        return infer(tf.constant(hidden), tf.constant(observed), seed)

    def test_its_seed_matters_while_it_optimises(self):
        once = self.infer(SEED).posterior.mean()
        self.assertAllEqual(self.infer(SEED).posterior.mean(), once)
        self.assertNotAllEqual(self.infer((0, 9)).posterior.mean(), once)

    def test_it_ends_near_the_exact_posterior(self):
        x, observed = self.inputs()
        posterior, context = self.infer(SEED)
        self.assertEqual(context["steps"], 25)
        exact = self.oracle().posterior(x, observed)
        # Adam with noisy gradients: measured 0.05 off at most over five seeds.
        self.assertAllClose(posterior.mean(), exact.mean(), atol=0.2)


class HotDeckTest(ArbitraryConditionerContract, tf.test.TestCase):
    @classmethod
    def table(cls):
        return linear_gaussian().sample(50, seed=3)

    @classmethod
    def make(cls):
        return HotDeck(num_rows=50).create_variables(DataSpec((4,))).remember(cls.table())

    def test_it_fills_a_row_from_one_stored_row(self):
        x, observed = self.inputs()
        draws = self.impute(x, observed, 20)
        for row in (0, 1):
            u = ~observed[row]
            apart = np.abs(draws[:, row, np.newaxis][..., u] - self.table()[:, u]).sum(-1)
            self.assertAllEqual(apart.min(-1), np.zeros(20))

    def test_an_empty_mask_draws_every_stored_row_alike(self):
        x, observed = self.inputs()
        draws = self.impute(x[:1], np.zeros_like(observed[:1]), 5000)[:, 0]
        counts = np.array([(draws == row).all(-1).sum() for row in self.table()])
        self.assertEqual(counts.sum(), 5000)
        # 49 degrees of freedom: P(chi square > 99) = 3e-5; the seed is fixed.
        self.assertLess(np.sum((counts - 100) ** 2 / 100), 99)


WIDE = 0.5  # A wide untrained posterior leaves the weights no heavy tail.


def small_vae(latent_size, posterior_head, likelihood_head):
    return VAE(
        latent_size,
        networks.mlp((16,)),
        posterior_head,
        networks.residual_mlp(16, 1),
        likelihood_head,
    )


class PosteriorMatchingTest(LatentConditionerContract, TrainableContract, tf.test.TestCase):
    """A continuous table, trained jointly; full-covariance Gaussians."""

    @classmethod
    def make(cls):
        keras.utils.set_random_seed(0)
        made = PosteriorMatching(
            small_vae(2, CholeskyGaussian(2), FeatureScaleNormal()),
            networks.residual_mlp(16, 1, layer_norm=True, dropout=0.1),
            CholeskyGaussian(2, min_scale=WIDE),
        )
        return made.create_variables(DataSpec((4,)))


class PosteriorMatchingOnMixedColumnsTest(
    LatentConditionerContract, TrainableContract, tf.test.TestCase
):
    """A mixed table, the model left as it is, closed-form matching."""

    @classmethod
    def make(cls):
        keras.utils.set_random_seed(0)
        made = PosteriorMatching(
            small_vae(2, DiagonalGaussian(2), MixedColumns()),
            networks.mlp((16,)),
            CholeskyGaussian(2, min_scale=WIDE),
            train_model=False,
            closed_form=True,
        )
        return made.create_variables(DataSpec((5,), levels=(0, 3, 2, 0, 4)))


@pytest.mark.slow  # Variants of methods whose contract is tested every day.
class PosteriorMatchingOnCountsTest(
    LatentConditionerContract, TrainableContract, tf.test.TestCase
):
    """Counts and ordinal columns beside real ones; scales that depend on z."""

    @classmethod
    def make(cls):
        keras.utils.set_random_seed(0)
        made = PosteriorMatching(
            small_vae(2, DiagonalGaussian(2), MixedColumns(network_scale=True)),
            networks.mlp((16,)),
            CholeskyGaussian(2, min_scale=WIDE),
        )
        spec = DataSpec(
            (4,),
            levels=(0, 4, 0, 0),
            ordered=(False, True, False, False),
            counts=(0.0, 0.0, 12.0, 0.3),
        )
        return made.create_variables(spec)


class VAEACTest(LatentConditionerContract, TrainableContract, tf.test.TestCase):
    """Conditional prior and skip connections, on mixed columns."""

    joint = False
    alpha, deterministic = 1.0, False

    @classmethod
    def make(cls):
        keras.utils.set_random_seed(0)
        made = VAEAC(
            3,
            skip_networks.SkipMlpEncoder(16, 2),
            skip_networks.SkipMlpEncoder(16, 1),
            skip_networks.SkipMlpDecoder(16, 2),
            MixedColumns(),
            alpha=cls.alpha,
            deterministic=cls.deterministic,
        )
        return made.create_variables(DataSpec((5,), levels=(0, 3, 2, 0, 4)))


class VAEACOnImagesTest(LatentConditionerContract, TrainableContract, tf.test.TestCase):
    """Binary images and convolutions."""

    joint = False
    binary = True
    likelihood_samples = 100

    @classmethod
    def make(cls):
        keras.utils.set_random_seed(0)
        made = VAEAC(
            3,
            skip_networks.SkipConvEncoder((4, 4, 8)),
            skip_networks.SkipConvEncoder((4, 4, 8)),
            skip_networks.SkipConvDecoder((4, 4, 8)),
            Bernoulli(per_feature=True),
        )
        return made.create_variables(DataSpec((8, 8)))


@pytest.mark.slow  # Variants of methods whose contract is tested every day.
class HybridVAEACTest(VAEACTest):
    """VAEAC and a Gaussian stochastic neural network at once (Eq. 16)."""

    alpha = 0.5


class GSNNTest(VAEACTest):
    """The Gaussian stochastic neural network alone: no proposal, Monte Carlo likelihoods."""

    alpha = 0.0


@pytest.mark.slow  # Variants of methods whose contract is tested every day.
class DeterministicVAEACTest(GSNNTest):
    """z is the prior's mean: a plain network."""

    deterministic = True


class UniversalMarginalizerTest(
    DensityConditionerContract, TrainableContract, tf.test.TestCase
):
    """Marginals and the chain rule in random orders, on mixed columns."""

    joint = False
    options: ClassVar = {}

    @classmethod
    def make(cls):
        keras.utils.set_random_seed(0)
        made = UniversalMarginalizer(
            networks.residual_mlp(16, 1), MixedColumns(network_scale=True), **cls.options
        )
        return made.create_variables(DataSpec((5,), levels=(0, 3, 2, 0, 4)))


@pytest.mark.slow  # Variants of methods whose contract is tested every day.
class SortedUniversalMarginalizerTest(UniversalMarginalizerTest):
    """The same in one fixed order: its likelihood is exact."""

    options: ClassVar = {"random_order": False, "order": (3, 0, 1, 4, 2)}


class UniversalMarginalizerOnImagesTest(UniversalMarginalizerTest):
    """Binary images, convolutions over patches, and the chain rule's own objective."""

    binary = True

    @classmethod
    def make(cls):
        keras.utils.set_random_seed(0)
        network = skip_networks.SkipNetwork(
            skip_networks.SkipConvEncoder((4, 4), patch=2),
            skip_networks.SkipConvDecoder((4, 4), patch=2),
            size=8,
        )
        made = UniversalMarginalizer(network, Bernoulli(per_feature=True), objective="chain")
        return made.create_variables(DataSpec((4, 3)))


@pytest.mark.slow  # Variants of methods whose contract is tested every day.
class PosteriorMatchingWithMadeMixtureTest(
    LatentConditionerContract, TrainableContract, tf.test.TestCase
):
    """An autoregressive partial posterior, drawn coordinate by coordinate."""

    @classmethod
    def make(cls):
        keras.utils.set_random_seed(0)
        made = PosteriorMatching(
            small_vae(2, CholeskyGaussian(2), FeatureScaleNormal()),
            networks.mlp((16,)),
            MadeMixture(2, 3, hidden=16, blocks=1, min_scale=WIDE),
        )
        return made.create_variables(DataSpec((4,)))


class PosteriorMatchingOnImagesTest(
    LatentConditionerContract, TrainableContract, tf.test.TestCase
):
    """Binary images, convolutions, the VAE trained before the matching."""

    binary = True
    likelihood_samples = 300

    @classmethod
    def make(cls):
        keras.utils.set_random_seed(0)
        convolutions = ((4, 3, 2), (8, 3, 2))
        vae = VAE(
            3,
            networks.conv_encoder(convolutions),
            DiagonalGaussian(3),
            networks.conv_decoder((2, 2, 8), ((8, 3, 2), (4, 3, 2))),
            Bernoulli(per_feature=True),
        )
        made = PosteriorMatching(
            vae,
            networks.conv_encoder(convolutions),
            DiagonalGaussian(3, min_scale=WIDE),
            pretrain_steps=2,
            correct_draws=False,
        )
        return made.create_variables(DataSpec((8, 8)))
