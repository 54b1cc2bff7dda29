"""`register`: gin injects a class and Keras saves it, from its constructor alone."""

import dataclasses
import inspect
import json

import gin
import keras
import numpy as np
import tensorflow as tf
from contract import SEED, example_inputs

from vae_arbcond import (
    conditioners,
    distributions,
    masks,
    models,
    networks,
    registry,
    skip_networks,
    variational,
)
from vae_arbcond.shapes import DataSpec

# What each registered class is constructed with here: nothing left at its default, so that an
# argument which a configuration forgets is seen.
VAE_ARGUMENTS = {
    "latent_size": 2,
    "encoder": networks.mlp((5,)),
    "posterior_head": distributions.DiagonalGaussian(2, 0.01),
    "decoder": networks.residual_mlp(6, 1),
    "likelihood_head": distributions.Normal(0.1),
    "beta": models.MonotoneBeta(3, 9),
    "name": "small",
}
FACTOR_ARGUMENTS = {
    "latent_size": 2,
    "components": 3,
    "num_steps": 4,
    "min_variance": 0.01,
    "name": "factors",
}
MATCHING_ARGUMENTS = {
    "model": models.VAE(**VAE_ARGUMENTS),
    "partial_encoder": networks.mlp((5,), "tanh", 0.1),
    "partial_posterior_head": distributions.CholeskyGaussian(2),
    "train_model": True,
    "stop_gradient": False,
    "closed_form": True,
    "pretrain_steps": 4,
    "correct_draws": False,
    "name": "matching",
}
ARGUMENTS = {
    "MaskedInput": {"name": "masked"},
    "ResidualBlock": {
        "hidden": 3,
        "activation": "tanh",
        "layer_norm": True,
        "dropout": 0.2,
        "norm_weights": False,
        "name": "block",
    },
    "ConstantBeta": {"value": 0.5},
    "CyclicalBeta": {"period": 7, "delay": 2},
    "MonotoneBeta": {"start": 3, "end": 9},
    "DiagonalGaussian": {"event_size": 3, "min_scale": 0.1, "name": "diagonal"},
    "CholeskyGaussian": {"event_size": 3, "min_scale": 0.1, "name": "full"},
    "GaussianMixture": {
        "event_size": 3,
        "components": 2,
        "full_covariance": True,
        "min_scale": 0.1,
        "name": "mixture",
    },
    "AutoregressiveMixture": {
        "event_size": 3,
        "components": 2,
        "hidden": 4,
        "blocks": 1,
        "activation": "tanh",
        "min_scale": 0.1,
        "name": "autoregressive",
    },
    "MadeMixture": {
        "event_size": 3,
        "components": 2,
        "hidden": 4,
        "blocks": 1,
        "activation": "tanh",
        "min_scale": 0.1,
        "name": "made_mixture",
    },
    "MaskedAutoregressiveFlow": {
        "event_size": 3,
        "num_flows": 2,
        "hidden": 4,
        "blocks": 2,
        "activation": "tanh",
        "name": "maf",
    },
    "InverseAutoregressiveFlow": {
        "event_size": 3,
        "num_flows": 3,
        "hidden": 4,
        "blocks": 2,
        "activation": "tanh",
        "name": "iaf",
    },
    "PlanarFlow": {"event_size": 3, "num_flows": 2, "name": "planar"},
    "MaskedDense": {"inputs": (1, 2), "outputs": (0, 1), "scale": 0.5, "name": "masked"},
    "Made": {
        "event_size": 3,
        "num_outputs": 2,
        "hidden": 4,
        "blocks": 1,
        "activation": "tanh",
        "zero_start": True,
        "name": "made",
    },
    "ContinuousBernoulli": {"per_feature": True, "name": "continuous"},
    "DiscretizedLogistic": {
        "num_levels": 17,
        "components": 2,
        "min_scale": 0.1,
        "per_feature": True,
        "name": "discretized",
    },
    "DefaultLikelihood": {},
    "RatioLikelihood": {},
    "PredictiveLikelihood": {},
    "MonteCarloLikelihood": {},
    "ImportanceLikelihood": {},
    "Normal": {"min_scale": 0.1, "per_feature": True, "name": "normal"},
    "SharedScaleNormal": {
        "min_scale": 0.1,
        "initial_scale": 0.5,
        "per_feature": True,
        "name": "shared",
    },
    "FeatureScaleNormal": {
        "min_scale": 0.1,
        "initial_scale": 0.5,
        "per_feature": True,
        "name": "feature",
    },
    "StudentT": {"min_scale": 0.1, "min_df": 4.0, "per_feature": True, "name": "student"},
    "Bernoulli": {"per_feature": True, "name": "bernoulli"},
    "Categorical": {"num_levels": 3, "per_feature": True, "name": "categorical"},
    "GAIN": {
        "generator": networks.mlp((5,)),
        "discriminator": networks.mlp((4,)),
        "alpha": 2.0,
        "hint_rate": 0.9,
        "cross_entropy": 1.0,
        "noise_scale": 0.1,
        "name": "adversaries",
    },
    "MixedColumns": {
        "min_scale": 0.1,
        "network_scale": False,
        "fixed_scale": 0.7,
        "name": "mixed",
    },
    "VAE": VAE_ARGUMENTS,
    "LayeredEncoder": {"units": (4, 3), "activation": "tanh", "name": "layered"},
    "LayeredDecoder": {"units": (3,), "skips": False, "activation": "tanh", "name": "plain"},
    "SkipMlpEncoder": {"hidden": 3, "depth": 1, "activation": "tanh", "name": "skip"},
    "SkipMlpDecoder": {"hidden": 3, "depth": 1, "activation": "tanh", "name": "skipped"},
    "UniversalMarginalizer": {
        "network": networks.mlp((5,)),
        "likelihood_head": distributions.MixedColumns(),
        "random_order": False,
        "order": (1, 0),
        "objective": "chain",
        "name": "marginals",
    },
    "ConvResidualBlock": {"filters": 2, "activation": "tanh", "name": "block"},
    "SkipConvEncoder": {
        "filters": (2, 3),
        "blocks": 2,
        "activation": "tanh",
        "patch": 2,
        "name": "skip",
    },
    "SkipConvDecoder": {
        "filters": (4, 3),
        "blocks": 2,
        "activation": "tanh",
        "patch": 2,
        "name": "skipped",
    },
    "SkipNetwork": {
        "encoder": skip_networks.SkipMlpEncoder(3, 1),
        "decoder": skip_networks.SkipMlpDecoder(3, 1),
        "size": 4,
        "activation": "tanh",
        "name": "hourglass",
    },
    "VAEAC": {
        "latent_size": 2,
        "prior_network": skip_networks.SkipMlpEncoder(3, 1),
        "proposal_network": networks.mlp((5,)),
        "generative_network": skip_networks.SkipMlpDecoder(3, 1),
        "likelihood_head": distributions.MixedColumns(),
        "alpha": 0.0,
        "deterministic": True,
        "mean_scale": 10.0,
        "scale_weight": 0.1,
        "min_scale": 0.1,
        "name": "conditional",
    },
    "FactorAnalysis": FACTOR_ARGUMENTS,
    "FactorAnalysisConditioner": {
        "model": models.FactorAnalysis(**FACTOR_ARGUMENTS),
        "fit_model": False,
        "name": "exact",
    },
    "GaussianMixtureConditioner": {
        "components": (1, 3),
        "strength": 0.25,
        "folds": 3,
        "bag": False,
        "shrink_covariance": 1.0,
        "shrink_levels": 2.0,
        "num_steps": 8,
        "num_factors": 2,
        "name": "mixture",
    },
    "FillZeros": {
        "model": models.VAE(**VAE_ARGUMENTS),
        "fill_mean": True,
        "show_mask": False,
        "train_model": False,
        "correct_draws": False,
        "name": "filled",
    },
    "ReTunedEncoder": {
        "model": models.VAE(**VAE_ARGUMENTS),
        "partial_encoder": networks.mlp((5,), "tanh", 0.1),
        "partial_posterior_head": distributions.CholeskyGaussian(2),
        "start_at_encoder": False,
        "show_mask": False,
        "train_model": True,
        "pretrain_steps": 4,
        "correct_draws": False,
        "name": "tuned",
    },
    "PseudoGibbs": {
        "model": models.VAE(**VAE_ARGUMENTS),
        "num_chains": 3,
        "num_draws": 30,
        "num_burn_in": 5,
        "num_steps_between": 1,
        "correct_likelihood": False,
        "train_model": False,
        "name": "turns",
    },
    "MetropolisWithinGibbs": {
        "model": models.VAE(**VAE_ARGUMENTS),
        "num_chains": 3,
        "num_draws": 30,
        "num_warm_up": 4,
        "num_burn_in": 5,
        "num_steps_between": 1,
        "correct_likelihood": False,
        "train_model": False,
        "name": "corrected",
    },
    "HamiltonianMonteCarlo": {
        "model": models.VAE(**VAE_ARGUMENTS),
        "num_chains": 3,
        "num_draws": 30,
        "num_burn_in": 5,
        "num_leapfrog_steps": 4,
        "vary_length": False,
        "step_size": 0.2,
        "adapt_step_size": False,
        "target_acceptance": 0.8,
        "num_steps_between": 1,
        "correct_likelihood": False,
        "train_model": False,
        "name": "momentum",
    },
    "RejectionSampler": {
        "model": models.VAE(**VAE_ARGUMENTS),
        "num_draws": 30,
        "num_candidates": 500,
        "correct_likelihood": False,
        "train_model": False,
        "name": "rejection",
    },
    "GridPosterior": {
        "model": models.VAE(**VAE_ARGUMENTS),
        "points": 30,
        "span": 4.0,
        "num_zooms": 0,
        "train_model": False,
        "name": "grid",
    },
    "PosteriorMatching": MATCHING_ARGUMENTS,
    "GaussianFamily": {"full_covariance": True, "min_scale": 0.01},
    "MixtureFamily": {
        "components": 3,
        "estimator": "importance",
        "min_scale": 0.01,
        "spread": 2.0,
        "threshold": 0.1,
        "refresh_until": 40,
    },
    "PlanarFamily": {"num_flows": 2, "start_scale": 0.2, "min_scale": 0.01},
    "InverseAutoregressiveFamily": {"num_flows": 3, "hidden": 4, "min_scale": 0.01},
    "NetworkFamily": {"hidden": 4, "min_scale": 0.01},
    "FirstOrder": {
        "rule": "sgd",
        "learning_rate": 0.2,
        "num_steps": 5,
        "check_every": 2,
        "tolerance": 0.1,
        "patience": 3,
        "fixed_noise": True,
    },
    "LBFGS": {"max_iterations": 7, "tolerance": 0.1},
    "PriorStart": {},
    "EncoderStart": {},
    "AmortisedStart": {"conditioner": conditioners.PosteriorMatching(**MATCHING_ARGUMENTS)},
    "QueryAdaptive": {
        "model": models.VAE(**VAE_ARGUMENTS),
        "family": variational.GaussianFamily(True),
        "minimizer": variational.LBFGS(),
        "start": conditioners.EncoderStart(),
        "num_samples": 7,
        "beta": 2.0,
        "noise_seed": 3,
        "train_model": False,
        "correct_draws": False,
        "jit_compile": True,
        "name": "adaptive",
    },
    "FeatureQueryAdaptive": {
        "model": models.VAE(**VAE_ARGUMENTS),
        "minimizer": variational.FirstOrder(num_steps=5),
        "num_samples": 7,
        "beta": 2.0,
        "gamma": 3.0,
        "unit_interval": True,
        "components": 4,
        "noise_seed": 3,
        "train_model": False,
        "correct_draws": False,
        "name": "features",
    },
    "BernoulliMask": {"observed_prob": 0.3},
    "UniformCountMask": {"low": 0.1, "high": 1.0, "all_observed": True},
    "MixtureMask": {
        "generators": (masks.BernoulliMask(0.3), masks.CentreMask(0.4)),
        "weights": (1.0, 2.0),
    },
    "IntersectionMask": {"generators": (masks.BernoulliMask(0.3), masks.CentreMask(0.4))},
    "RectangleMask": {"min_hidden": 0.1, "max_hidden": 0.6, "min_side": 2},
    "HalfMask": {"sides": ("left", "top")},
    "HorizontalLineMask": {"height": 2},
    "SquareMask": {"size": 3},
    "CentreMask": {"side": 0.4},
    "FixedRectanglesMask": {"rectangles": ((0, 0, 3, 2), (1, 1, 2, 5)), "size": (6, 5)},
    "RandomPatchesMask": {"size": 3, "count": 1},
    "RotatingHalfMask": {"steps": 12},
    "PatternMask": {
        "resolution": 0.1,
        "density": 0.4,
        "min_hidden": 0.1,
        "max_hidden": 0.5,
    },
    "FreeFormMask": {
        "min_hidden": 0.1,
        "max_hidden": 0.5,
        "strokes": False,
        "min_brush": 0.1,
        "max_brush": 0.2,
    },
    "MissingAtRandomMask": {
        "observed_prob": 0.4,
        "always_observed": (1, 2),
        "strength": 1.0,
        "mechanism_seed": 3,
    },
    "SelfMaskingMask": {"observed_prob": 0.4, "strength": -1.0, "columns": (0, 2)},
}
FOLDERS = (
    conditioners,
    distributions,
    masks,
    models,
    networks,
    skip_networks,
    variational,
)


def registered_classes():
    """Every registered class that the packages above offer, by its name."""
    found = {}
    for folder in FOLDERS:
        for _, cls in inspect.getmembers(folder, inspect.isclass):
            name = keras.saving.get_registered_name(cls)
            if name.startswith(f"{registry.PACKAGE}>"):
                found[cls.__name__] = cls
    return found


def config_of(thing):
    return json.loads(json.dumps(keras.saving.serialize_keras_object(thing)))


@registry.register
class Pair(keras.layers.Layer):
    """A nest of things to configure."""

    def __init__(self, parts, sizes=(1, 2), name=None):
        super().__init__(name=name)
        self.parts = list(parts)


@registry.register
class Narrow(Pair):
    """A registered subclass whose arguments differ from its parent's."""

    def __init__(self, size: int, name=None):
        super().__init__([], (size,), name=name)
        self.size = size


class EveryRegisteredClassTest(tf.test.TestCase):
    def test_every_registered_class_is_tried_here(self):
        self.assertEqual(set(registered_classes()), set(ARGUMENTS))
        for name, cls in registered_classes().items():
            parameters = list(inspect.signature(cls).parameters)
            self.assertEqual(parameters, list(ARGUMENTS[name]), msg=name)

    def test_keras_configuration_survives_json(self):
        for name, cls in registered_classes().items():
            config = config_of(cls(**ARGUMENTS[name]))
            again = keras.saving.deserialize_keras_object(config)
            self.assertIs(type(again), cls)
            # Equal configurations of new objects: no argument lost on the way.
            self.assertEqual(config_of(again), config, msg=name)
            self.assertEqual(set(config["config"]), set(ARGUMENTS[name]), msg=name)

    def test_gin_injects_it_with_its_arguments(self):
        for name, cls in registered_classes().items():
            plain = {
                key: value
                for key, value in ARGUMENTS[name].items()
                if isinstance(value, (int, float, str, tuple))
            }
            with gin.unlock_config():
                for key, value in plain.items():
                    gin.bind_parameter(f"{name}.{key}", value)
            rest = {k: v for k, v in ARGUMENTS[name].items() if k not in plain}
            made = gin.get_configurable(name)(**rest)
            self.assertIsInstance(made, cls)
            self.assertEqual(config_of(made), config_of(cls(**ARGUMENTS[name])), msg=name)

    def test_called_from_python_it_ignores_gin(self):
        gin.parse_config("DiagonalGaussian.min_scale = 0.5")
        self.assertEqual(distributions.DiagonalGaussian(2).min_scale, 1e-3)

    def test_a_misspelt_name_in_a_gin_file_stops_the_parser(self):
        for line, expected in (
            ("VAE.latent_sise = 3", "doesn't have a parameter named 'latent_sise'"),
            ("VEA.latent_size = 3", "No configurable matching 'VEA'"),
            ("mlp.unit = (3,)", "doesn't have a parameter named 'unit'"),
        ):
            with self.assertRaisesRegex(ValueError, expected):
                gin.parse_config(line)


class RegisterTest(tf.test.TestCase):
    def test_open_constructors_are_refused(self):
        class Keywords:
            def __init__(self, size, **kwargs):
                pass

        class Positions:
            def __init__(self, *sizes):
                pass

        for cls, name in ((Keywords, r"\*\*kwargs"), (Positions, r"\*sizes")):
            with self.assertRaisesRegex(TypeError, f"{name}; a registered class lists"):
                registry.register(cls)

    def test_the_signature_stays_readable(self):
        self.assertEqual(list(inspect.signature(Pair).parameters), ["parts", "sizes", "name"])
        with self.assertRaises(TypeError):
            Pair([], size=3)

    def test_nested_objects_and_tuples_keep_their_configuration(self):
        pair = Pair([Narrow(3), models.CyclicalBeta(5, 1)], sizes=(4, (5, 6)))
        again = keras.saving.deserialize_keras_object(config_of(pair))
        self.assertEqual(again.parts[0].size, 3)
        self.assertEqual(again.parts[1], models.CyclicalBeta(5, 1))
        self.assertEqual(config_of(again), config_of(pair))

    def test_a_subclass_is_configured_by_its_own_arguments(self):
        self.assertEqual(set(Narrow(3).get_config()), {"size", "name"})
        again = keras.saving.deserialize_keras_object(config_of(Narrow(3)))
        self.assertEqual((type(again), again.size), (Narrow, 3))

    def test_frozen_dataclasses_keep_their_value_semantics(self):
        beta = models.CyclicalBeta(period=5)
        self.assertEqual(beta, models.CyclicalBeta(5, 1000))
        self.assertEqual(dataclasses.replace(beta, delay=2), models.CyclicalBeta(5, 2))
        self.assertEqual(dataclasses.asdict(beta), {"period": 5, "delay": 1000})
        self.assertEqual(
            dataclasses.replace(beta, delay=2).get_config(), {"period": 5, "delay": 2}
        )

    def test_recording_arguments_gives_the_weights_no_second_owner(self):
        head = distributions.DiagonalGaussian(2)
        vae = models.VAE(**{**VAE_ARGUMENTS, "posterior_head": head})
        vae.create_variables(DataSpec((3,)))
        # Encoder 2, head 2, decoder 2 + 4, likelihood head 2.
        self.assertLen(vae.weights, 12)
        self.assertLen({id(v) for v in vae.weights}, 12)


class GinBuiltModelTest(tf.test.TestCase):
    def test_a_model_that_gin_constructed_saves_and_loads(self):
        # gin makes a subclass of what it configures; a .keras file must name the original.
        gin.parse_config(
            """
            PosteriorMatching.model = @VAE()
            PosteriorMatching.partial_encoder = @partial/mlp()
            PosteriorMatching.partial_posterior_head = @CholeskyGaussian()
            VAE.latent_size = 2
            VAE.encoder = @encoder/mlp()
            VAE.posterior_head = @CholeskyGaussian()
            VAE.decoder = @residual_mlp()
            VAE.likelihood_head = @MixedColumns()
            VAE.beta = @CyclicalBeta()
            CyclicalBeta.period = 10
            CholeskyGaussian.event_size = 2
            encoder/mlp.units = (4,)
            partial/mlp.units = (5, 6)
            residual_mlp.hidden = 4
            """
        )
        made = gin.get_configurable("PosteriorMatching")()
        gin.clear_config()  # A loaded model needs no gin state.
        spec = DataSpec((3,), levels=(0, 3, 0))
        made.create_variables(spec)
        path = f"{self.create_tempdir().full_path}/model.keras"
        made.save(path)
        loaded = keras.saving.load_model(path)
        self.assertIs(type(loaded), conditioners.PosteriorMatching)
        self.assertIs(type(loaded.model), models.VAE)
        self.assertEqual(loaded.model.beta, models.CyclicalBeta(10))
        self.assertIsNot(loaded.partial_posterior_head, loaded.model.posterior_head)
        x, observed = example_inputs(spec)
        self.assertAllEqual(
            loaded.impute(x, observed, 3, SEED), made.impute(x, observed, 3, SEED)
        )
        self.assertEqual(
            np.sum([v.numpy().size for v in loaded.weights]),
            np.sum([v.numpy().size for v in made.weights]),
        )
