"""Likelihood heads: densities that are densities, and draws that follow them."""

import inspect

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

from vae_arbcond import distributions
from vae_arbcond.distributions import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    FeatureScaleNormal,
    LikelihoodHead,
    MixedColumns,
    Normal,
    SharedScaleNormal,
    StudentT,
    over_features,
)
from vae_arbcond.distributions.mixed_columns import (
    MIN_DISPERSION,
    MIN_GAP,
    Thresholds,
    side_by_side,
)
from vae_arbcond.distributions.pairs import NormalPair
from vae_arbcond.shapes import DataSpec

tfd = tfp.distributions

FALSE_ALARM = 1e-5  # of every chi-square test below; seeds are fixed


class HeadContract:
    """Mixin: subclasses define `head` and may override the data it is for."""

    spec = DataSpec((3,))
    support = np.linspace(-300.0, 300.0, 60_001)
    discrete = False  # True: `support` lists all values.

    def built(self, spec=None, h_shape=(1, 4)):
        """A head and what a decoder might give it."""
        keras.utils.set_random_seed(0)
        head = self.head()
        head.build_for(spec or self.spec)
        return head, tf.random.stateless_normal(h_shape, [0, 2])

    def values(self, feature):
        """Values of a feature, and whether they are all of them."""
        levels = self.spec.levels[feature] if self.spec.levels else 0
        if self.spec.counts and self.spec.counts[feature]:
            return np.arange(3000), True
        return (np.arange(levels), True) if levels else (self.support, self.discrete)

    def density(self, likelihood, feature):
        """p(x_feature) of row 0 at every one of its values."""
        values, _ = self.values(feature)
        x = np.zeros([len(values), 1, self.spec.num_features], np.float32)
        x[:, 0, feature] = values
        log_prob = likelihood.log_prob(x)[:, 0, feature].numpy()
        return np.exp(log_prob.astype(np.float64))

    def test_features_stand_in_the_batch_shape(self):
        head, h = self.built(h_shape=[7, 2, 4])
        likelihood = head(h)
        self.assertEqual(likelihood.batch_shape, (7, 2, *self.spec.feature_shape))
        self.assertEqual(likelihood.event_shape, ())
        self.assertEqual(likelihood.dtype, tf.float32)
        draws = likelihood.sample(seed=[0, 1])
        self.assertEqual(draws.shape, (7, 2, *self.spec.feature_shape))
        self.assertEqual(likelihood.log_prob(draws).shape, draws.shape)

    def test_the_density_of_every_feature_sums_to_1(self):
        head, h = self.built()
        for d in range(self.spec.num_features):
            values, complete = self.values(d)
            density = self.density(head(h), d)
            total = density.sum() if complete else np.trapezoid(density, values)
            # A Student-t with 3 degrees of freedom has 1e-6 of itself beyond 300.
            self.assertAllClose(total, 1.0, atol=1e-4)

    def test_draws_follow_the_density(self):
        head, h = self.built()
        likelihood = head(h)
        draws = likelihood.sample(4000, seed=[0, 3])[:, 0].numpy()
        for d in range(self.spec.num_features):
            values, complete = self.values(d)
            shares = self.density(likelihood, d)
            if complete and len(values) < 100:
                counts = np.array([np.sum(draws[:, d] == value) for value in values])
            else:  # Bins of equal probability, by the integral of the density.
                mass = np.cumsum(shares)
                edges = np.interp(np.linspace(0, 1, 21)[1:-1], mass / mass[-1], values)
                edges = np.unique(np.floor(edges)) if complete else edges
                bins = len(edges) + 1
                counts = np.bincount(np.searchsorted(edges, draws[:, d]), minlength=bins)
                below = [shares[values <= end].sum() for end in (*edges, np.inf)]
                shares = np.diff(below, prepend=0.0)
            self.assertEqual(counts.sum(), 4000)
            p_value = stats.chisquare(counts, 4000 * shares / shares.sum()).pvalue
            self.assertGreater(p_value, FALSE_ALARM)

    def test_the_gradient_reaches_every_weight(self):
        head, h = self.built(h_shape=[20, 4])
        x = head(h).sample(seed=[0, 1])
        everything = tf.ones_like(x, tf.bool)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(over_features(head(h), everything).log_prob(x))
        variables = head.trainable_variables
        self.assertNotEmpty(variables)
        for gradient in tape.gradient(loss, variables):
            self.assertGreater(np.abs(gradient).min(), 0.0)

    def test_nan_outside_the_subset_harms_neither_value_nor_gradient(self):
        head, h = self.built(h_shape=[20, 4])
        x = head(h).sample(seed=[0, 1])
        features = tf.random.stateless_uniform(x.shape, [0, 5]) < 0.5
        results = []
        for hidden in (0.0, np.nan, np.inf):
            with tf.GradientTape() as tape:
                given = tf.where(features, x, hidden)
                loss = tf.reduce_sum(over_features(head(h), features).log_prob(given))
            results.append([loss, *tape.gradient(loss, head.trainable_variables)])
        for result in results:
            for value, clean in zip(result, results[0], strict=True):
                self.assertTrue(np.isfinite(value).all())
                self.assertAllEqual(value, clean)

    def test_zero_is_in_the_support(self):
        head, h = self.built(h_shape=[20, 4])
        likelihood = head(h)
        self.assertTrue(
            np.isfinite(likelihood.log_prob(tf.zeros([20, *self.spec.x_shape]))).all()
        )

    def test_half_precision_networks_give_float32_densities(self):
        self.addCleanup(keras.config.set_dtype_policy, keras.config.dtype_policy())
        keras.config.set_dtype_policy("mixed_bfloat16")
        head, h = self.built()
        likelihood = head(h)
        self.assertEqual(likelihood.dtype, tf.float32)
        self.assertEqual(likelihood.log_prob(likelihood.sample(seed=[0, 0])).dtype, tf.float32)


class RealHeadContract(HeadContract):
    """Mixin: heads of single real (or binary) features, on images too."""

    def test_an_image_has_one_distribution_a_pixel(self):
        head, h = self.built(DataSpec((4, 5)))
        self.assertEqual(head(h).batch_shape, (1, 4, 5))

    def test_a_convolutional_decoder_s_output_has_the_feature_axes_already(self):
        head = self.head(per_feature=True)
        head.build_for(DataSpec((4, 5)))
        likelihood = head(tf.random.stateless_normal([7, 2, 4, 5, 3], [0, 0]))
        self.assertEqual(likelihood.batch_shape, (7, 2, 4, 5))
        # The same weights at every pixel.
        self.assertEqual(head.params.kernel.shape[0], 3)

    def test_categorical_columns_and_colour_are_refused(self):
        with self.assertRaisesRegex(ValueError, r"real features only, but columns \[1\]"):
            self.built(DataSpec((2,), levels=(0, 3)))
        with self.assertRaisesRegex(ValueError, r"one number a feature.*\(3,\) of them"):
            self.built(DataSpec((4, 5), (3,)))


class NormalTest(RealHeadContract, tf.test.TestCase):
    head = Normal

    def test_the_scale_depends_on_z_and_is_bounded(self):
        head, h = self.built(h_shape=[20, 4])
        self.assertGreater(np.std(head(h).scale, 0).min(), 0.0)
        head = Normal(min_scale=0.5)
        head.build_for(self.spec)
        self.assertAllGreater(head(h * 100.0).scale, 0.4999)


class SharedScaleNormalTest(RealHeadContract, tf.test.TestCase):
    head = SharedScaleNormal

    def test_there_is_one_scale_and_it_starts_where_asked(self):
        head = SharedScaleNormal(initial_scale=0.3)
        head.build_for(self.spec)
        likelihood = head(tf.zeros([2, 4]))
        self.assertAllClose(likelihood.stddev(), np.full([2, 3], 0.3))
        self.assertEqual(head.raw_scale.shape, ())


class FeatureScaleNormalTest(RealHeadContract, tf.test.TestCase):
    head = FeatureScaleNormal

    def test_there_is_one_scale_a_feature_whatever_z(self):
        head, h = self.built(h_shape=[20, 4])
        head.raw_scale.assign([-1.0, 0.0, 2.0])
        scale = head(h).stddev().numpy()
        self.assertAllClose(scale, np.broadcast_to(scale[:1], scale.shape))
        self.assertAllGreater(np.diff(scale[0]), 0.1)

    def test_an_initial_scale_below_the_bound_is_refused(self):
        with self.assertRaisesRegex(ValueError, "must be above min_scale = 0.1, got 0.1"):
            FeatureScaleNormal(min_scale=0.1, initial_scale=0.1)


class StudentTTest(RealHeadContract, tf.test.TestCase):
    head = StudentT
    support = np.linspace(-300.0, 300.0, 240_001)

    def test_degrees_of_freedom_stay_above_their_bound(self):
        head, h = self.built(h_shape=[20, 4])
        self.assertAllGreater(head(h * 100.0).df, 2.999)
        self.assertTrue(np.isfinite(head(h).variance()).all())


class BernoulliTest(RealHeadContract, tf.test.TestCase):
    head = Bernoulli
    support = np.array([0.0, 1.0])
    discrete = True

    def test_grey_values_count_as_probabilities(self):
        head, h = self.built()
        likelihood = head(h)
        black, white = likelihood.log_prob(0.0), likelihood.log_prob(1.0)
        self.assertAllClose(likelihood.log_prob(0.25), 0.75 * black + 0.25 * white)


class ContinuousBernoulliTest(RealHeadContract, tf.test.TestCase):
    head = ContinuousBernoulli
    support = np.linspace(0.0, 1.0, 20_001)


class DiscretizedLogisticTest(RealHeadContract, tf.test.TestCase):
    support = np.arange(17.0) / 16.0
    discrete = True

    def head(self, **arguments):
        return DiscretizedLogistic(17, 3, **arguments)

    def test_categorical_columns_and_colour_are_refused(self):
        with self.assertRaisesRegex(ValueError, "Use MixedColumns for tables"):
            self.built(DataSpec((2,), levels=(0, 3)))

    def test_the_mean_is_within_half_a_level(self):
        head, h = self.built()
        likelihood = head(h)
        for d in range(3):
            exact = self.density(likelihood, d) @ self.support
            self.assertAllClose(likelihood.mean()[0, d], exact, atol=0.5 / 16)

    def test_a_narrow_logistic_far_from_the_value_gives_no_nan(self):
        head, h = self.built()
        head(h)
        head.params.kernel.assign(tf.random.stateless_normal(head.params.kernel.shape, [1, 1]))
        for scale in (1.0, 1e3):
            log_prob = head(h * scale).log_prob(tf.fill([1, 3], 0.5))
            self.assertTrue(np.isfinite(log_prob).all())

    def test_colours_of_a_pixel_are_one_event_whose_levels_sum_to_1(self):
        keras.utils.set_random_seed(0)
        head = DiscretizedLogistic(3, 2)
        head.build_for(DataSpec((2, 1), (3,)))
        likelihood = head(tf.random.stateless_normal([1, 4], [0, 2]) * 3.0)
        self.assertEqual(likelihood.batch_shape, (1, 2, 1))
        self.assertEqual(likelihood.event_shape, (3,))
        every = np.stack(np.meshgrid(*[[0.0, 0.5, 1.0]] * 3, indexing="ij"), -1).reshape(-1, 3)
        x = np.broadcast_to(every[:, None, None, None], [27, 1, 2, 1, 3]).astype(np.float32)
        mass = np.exp(likelihood.log_prob(x).numpy().astype(float))[:, 0, :, 0]
        self.assertAllClose(mass.sum(0), np.ones(2), atol=1e-4)
        draws = likelihood.sample(4000, seed=[0, 3]).numpy()[:, 0, :, 0]
        for pixel in range(2):
            which = np.rint(draws[:, pixel] * 2) @ [9, 3, 1]
            counts = np.bincount(which.astype(int), minlength=27)
            expected = 4000 * mass[:, pixel] / mass[:, pixel].sum()
            # Rare colours together, as a chi-square test wants five of each.
            rare = expected < 5
            pooled = [np.append(v[~rare], v[rare].sum()) for v in (counts, expected)]
            used = pooled[1] > 0
            p_value = stats.chisquare(pooled[0][used], pooled[1][used]).pvalue
            self.assertGreater(p_value, FALSE_ALARM)
        # The channels are not independent: that is what the coupling is for.
        joint = mass[:, 0].reshape(3, 3, 3)
        red, green = joint.sum((1, 2)), joint.sum((0, 2))
        self.assertGreater(np.abs(joint.sum(2) - np.outer(red, green)).max(), 0.01)
        self.assertEqual(likelihood[0].batch_shape, (2, 1))

    def test_numbers_that_make_no_sense_are_refused(self):
        with self.assertRaisesRegex(ValueError, "num_levels >= 2"):
            DiscretizedLogistic(1)


class CategoricalTest(HeadContract, tf.test.TestCase):
    spec = DataSpec((3,), levels=(4, 4, 4))
    support = np.arange(4.0)

    def head(self, **arguments):
        return Categorical(4, **arguments)

    def test_columns_with_other_numbers_of_levels_are_refused(self):
        with self.assertRaisesRegex(ValueError, r"column 1 has 2 \(0 = real\). Use MixedCol"):
            self.head().build_for(DataSpec((2,), levels=(4, 2)))

    def test_an_image_of_levels_needs_no_list_of_them(self):
        head = self.head(per_feature=True)
        head.build_for(DataSpec((4, 5)))
        self.assertEqual(head(tf.zeros([2, 4, 5, 3])).batch_shape, (2, 4, 5))


class MixedColumnsTest(HeadContract, tf.test.TestCase):
    spec = DataSpec((5,), levels=(3, 0, 2, 0, 5))
    support = np.linspace(-30.0, 30.0, 60_001)

    def head(self):
        return MixedColumns()

    def test_a_level_that_a_column_does_not_have_is_never_drawn(self):
        head, h = self.built(h_shape=[50, 4])
        head(h)
        head.logits.bias.assign(tf.fill(head.logits.bias.shape, -1e4))
        draws = head(h).sample(200, seed=[0, 1]).numpy()
        for d, size in enumerate(self.spec.levels):
            if size:
                self.assertAllInSet(draws[..., d], np.arange(size))

    def test_outputs_stand_in_the_order_of_the_columns(self):
        head, _ = self.built()
        for layer in (head.loc, head.logits):
            layer(tf.zeros([1, 4]))
            layer.kernel.assign(tf.zeros_like(layer.kernel))
        head.loc.bias.assign([10.0, 20.0])
        head.raw_scale.assign([-5.0, 3.0])
        likeliest = [0, 9, 0, 0, 9, 0, 0, 0, 0, 9]  # columns 0, 2, 4: levels 1, 1, 4
        head.logits.bias.assign(np.float32(likeliest))
        expected = head(tf.zeros([1, 4])).expected_features()[0].numpy()
        self.assertAllEqual(expected[[0, 2, 4]].argmax(-1), [1, 1, 4])
        self.assertAllClose(expected[[1, 3], 0], [10.0, 20.0])
        draws = head(tf.zeros([1, 4])).sample(500, seed=[0, 0])[:, 0].numpy()
        self.assertLess(draws[:, 1].std(), 0.1)
        self.assertGreater(draws[:, 3].std(), 2.0)

    def test_the_scale_of_a_real_column_is_a_weight_or_an_output(self):
        _, h = self.built(h_shape=[20, 4])
        for network_scale in (False, True):
            head = MixedColumns(network_scale=network_scale)
            head.build_for(self.spec)
            scale = head(h).parts[0][0].stddev().numpy()
            self.assertEqual(bool(scale.std(0).max() > 0), network_scale)
            self.assertAllClose(head(h * 0.0).parts[0][0].stddev(), np.ones([20, 2]))

    def test_a_fixed_scale_is_not_learnt(self):
        head = MixedColumns(fixed_scale=1.0)
        head.build_for(self.spec)
        likelihood = head(tf.random.stateless_normal([20, 4], [0, 2]))
        self.assertAllEqual(likelihood.parts[0][0].stddev(), np.ones([20, 2]))
        self.assertNotIn("raw_scale", [v.name for v in head.weights])
        for wrong in ({"fixed_scale": 0.0}, {"fixed_scale": 1.0, "network_scale": True}):
            with self.assertRaisesRegex(ValueError, "fixed_scale must be above 0"):
                MixedColumns(**wrong)

    def test_tables_of_one_kind_of_column_work(self):
        for levels in (None, (0, 0), (2, 3)):
            spec = DataSpec((2,), levels=levels)
            head, h = self.built(spec)
            self.assertTrue(np.isfinite(head(h).log_prob(tf.zeros([1, 2]))).all())

    def test_images_are_refused(self):
        with self.assertRaisesRegex(ValueError, "models tables.*Use Bernoulli or a Normal"):
            self.built(DataSpec((4, 5)))


class MixedKindsTest(HeadContract, tf.test.TestCase):
    """Ordinal columns and counts beside the others."""

    spec = DataSpec(
        (6,),
        levels=(4, 0, 0, 3, 2, 0),
        ordered=(True, False, False, False, True, False),
        counts=(0.0, 20.0, 0.0, 0.0, 0.0, 0.5),
    )
    support = np.linspace(-30.0, 30.0, 60_001)

    def head(self):
        return MixedColumns()

    def part(self, family, h=None, **options):
        head = MixedColumns(**options)
        keras.utils.set_random_seed(0)
        head.build_for(self.spec)
        likelihood = head(tf.zeros([1, 4]) if h is None else h)
        return head, [p for p, _ in likelihood.parts if isinstance(p, family)][-1]

    def test_a_count_is_negative_binomial_with_the_typical_value_as_its_first_mean(self):
        _, part = self.part(tfd.NegativeBinomial)
        mean, dispersion = np.array([20.0, 0.5]), 1.0 + MIN_DISPERSION
        self.assertAllClose(part.mean()[0], mean, rtol=1e-5)
        self.assertAllClose(part.variance()[0], mean + dispersion * mean**2, rtol=1e-4)
        x = np.arange(200.0)[:, None, None] * np.ones([1, 1, 2])
        r = 1.0 / dispersion
        expected = stats.nbinom.logpmf(x[:, 0], r, r / (r + mean))
        self.assertAllClose(part.log_prob(x)[:, 0], expected, rtol=1e-4, atol=1e-4)

    def test_without_dispersion_a_count_is_a_poisson(self):
        head, _ = self.part(tfd.NegativeBinomial)
        head.raw_dispersion.assign([-30.0, -30.0])
        part = head(tf.zeros([1, 4])).parts[-1][0]
        x = np.arange(80.0)[:, None, None] * np.ones([1, 1, 2])
        expected = stats.poisson.logpmf(x[:, 0], [20.0, 0.5])
        # Its variance is larger by MIN_DISPERSION times the mean squared: 0.2 % of 20.
        likely = expected > -12.0
        log_prob = part.log_prob(x)[:, 0].numpy()
        self.assertAllClose(log_prob[likely], expected[likely], atol=0.05)
        self.assertAllClose(part.mean()[0], [20.0, 0.5], rtol=1e-5)

    def test_no_network_output_makes_a_count_s_density_nan(self):
        for size in (-1e30, -1e4, 1e4, 1e30):
            head, h = self.built(h_shape=[3, 4])
            head(h)
            for layer in (head.log_mean, head.ordinal_loc):
                layer.bias.assign(tf.fill(layer.bias.shape, size))
            head.raw_dispersion.assign([-size, size])
            with tf.GradientTape() as tape:
                density = head(h).log_prob(tf.ones([3, 6]))
            gradients = tape.gradient(density, head.trainable_variables)
            for value in (density, *gradients, head(h).expected_features()):
                self.assertFalse(np.isnan(value).any())
            self.assertTrue(np.isfinite(head(h).expected_features()).all())

    def test_an_ordinal_column_is_an_ordered_logistic(self):
        head, h = self.built()
        head(h)
        thresholds = np.array([-1.0, 0.5, 2.0])
        layer = head.thresholds[0]
        layer.lowest.assign(thresholds[0])
        gaps = np.diff(thresholds) - MIN_GAP
        layer.raw_gaps.assign(np.log(np.expm1(gaps)))
        eta = head.ordinal_loc(h)[0, 0].numpy()
        below = 1.0 / (1.0 + np.exp(-(np.append(thresholds, np.inf) - eta)))
        self.assertAllClose(self.density(head(h), 0), np.diff(below, prepend=0.0), atol=1e-6)

    def test_an_ordinal_column_starts_with_all_levels_equally_likely(self):
        _, part = self.part(tfd.Categorical)
        self.assertAllClose(part.probs_parameter()[0, 0], np.full(4, 0.25), atol=1e-3)
        self.assertAllClose(part.probs_parameter()[0, 1], [0.5, 0.5, 0.0, 0.0], atol=1e-3)

    def test_a_higher_eta_makes_higher_levels_likelier(self):
        layer = Thresholds(5)
        layer.build(None)
        means = [
            tf.reduce_sum(tf.exp(layer(tf.constant(e))) * tf.range(5.0)) for e in (-1.0, 1.0)
        ]
        self.assertGreater(means[1], means[0] + 0.5)

    def test_a_column_of_one_level_is_certain(self):
        spec = DataSpec((2,), levels=(1, 0), ordered=(True, False))
        head, h = self.built(spec)
        self.assertAllEqual(head(h).log_prob(tf.zeros([1, 2]))[:, 0], [0.0])

    def test_dispersion_depends_on_z_where_scales_do(self):
        h = tf.random.stateless_normal([20, 4], [0, 2])
        for network_scale in (False, True):
            _, part = self.part(tfd.NegativeBinomial, h, network_scale=network_scale)
            r = tf.broadcast_to(part.total_count, [20, 2]).numpy()
            self.assertEqual(bool(np.ptp(r, axis=0).max() > 0), network_scale)

    def test_heads_of_real_features_refuse_counts(self):
        with self.assertRaisesRegex(ValueError, r"columns \[1\] are counts.*MixedColumns"):
            Normal().build_for(DataSpec((2,), counts=(0.0, 3.0)))


class PairsTest(tf.test.TestCase):
    def test_a_pair_s_density_and_gradients_are_those_of_a_normal(self):
        x = tf.random.stateless_normal([2, 3], [0, 0])
        loc = tf.random.stateless_normal([4, 2, 3], [0, 1])
        scale = tf.random.stateless_uniform([4, 2, 3], [0, 2], 0.1, 2.0)
        told = []
        for kind in (NormalPair, tfd.Normal):
            with tf.GradientTape() as tape:
                tape.watch((x, loc, scale))
                value = kind(loc, scale).log_prob(x)
                weighed = tf.reduce_sum(value * (1.0 + loc**2))
            told.append([value, *tape.gradient(weighed, (x, loc, scale))])
        # float32; terms of gradients by the scale are some hundreds.
        for pair, normal in zip(*told, strict=True):
            self.assertAllClose(pair, normal, rtol=1e-5, atol=1e-4)

    def test_a_pair_s_gradients_have_the_shapes_of_its_parameters(self):
        # Draws with an axis of their own, and rows of one likelihood for all.
        loc, scale = tf.ones([4, 1, 3]), tf.fill([4, 1, 3], 2.0)
        for x in (tf.zeros([5, 4, 1, 3]), tf.zeros([2, 3])):
            got, want = [], []
            for kind, into in ((NormalPair, got), (tfd.Normal, want)):
                with tf.GradientTape() as tape:
                    tape.watch([loc, scale])
                    total = tf.reduce_sum(kind(loc, scale).log_prob(x))
                into += tape.gradient(total, [loc, scale])
            self.assertAllClose(got, want)

    def test_layers_side_by_side_say_what_they_say_alone(self):
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(2), keras.layers.Dense(3, bias_initializer="ones")]
        h = tf.random.stateless_normal([5, 4, 6], [0, 0])
        together = side_by_side(layers, h)
        for layer, out in zip(layers, together, strict=True):
            self.assertAllClose(out, layer(h), rtol=1e-5, atol=1e-6)


class EveryHeadTest(tf.test.TestCase):
    def test_every_likelihood_head_is_tried_here(self):
        heads = {
            cls
            for _, cls in inspect.getmembers(distributions, inspect.isclass)
            if issubclass(cls, LikelihoodHead) and cls is not LikelihoodHead
        }
        tried = {Bernoulli, Categorical, FeatureScaleNormal, MixedColumns, Normal}
        tried |= {ContinuousBernoulli, DiscretizedLogistic, SharedScaleNormal, StudentT}
        self.assertEqual(heads, tried)
