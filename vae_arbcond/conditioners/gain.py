"""GAIN: imputation by a generator that a discriminator tries to catch.

Yoon, Jordon and van der Schaar, 2018, https://arxiv.org/abs/1806.02920, with the changes that
VAEAC (Ivanov et al., 2019, https://arxiv.org/abs/1806.02382, App. A.4) made to it. The
papers' mask m is `observed`, their noise z fills the holes, their hint is h. There is no
density, so there are no likelihoods.
"""

import math

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond.conditioners import sampling
from vae_arbcond.conditioners.base import ArbitraryConditioner
from vae_arbcond.models.base import Player
from vae_arbcond.registry import register
from vae_arbcond.shapes import LARGEST_COUNT, check_positive, check_shares, expand_features


@register
class GAIN(ArbitraryConditioner):
    """The generator fills the holes; the discriminator tells what was filled.

    It trains on `present & observed`: what the mask hides is as if it were missing from the
    data, but for the ranges below. The reconstruction error scores what is seen, the
    adversarial terms only ask whether a value was seen. So with rows that are mostly hidden it
    learns little (VAEAC, D.4), and with rows without gaps the training mask must hide some.

    Networks see and say numbers in [0, 1], as in the paper: real features by the smallest and
    largest value that is present in the training rows (of an image, of each channel), which
    are weights of the method; counts the same on a logarithmic scale; levels as one-hot
    vectors. A sigmoid and a softmax keep the generator there, so that the noise is small
    whatever the data, and no imputation leaves the range of the training values. The
    reconstruction error of a number is in x's own unit, standard deviations, that of a count
    in units of log(1 + count): with `alpha` 10 that came nearer to VAEAC's Table 7 on boston
    than units of the range did.

    A draw differs from the next by the noise in the holes alone, far less than what is hidden
    may: draws are not calibrated, and `complete_table` gives no intervals from them. Its
    levels are those with the largest output.

    Args:
      generator: [x with noise in its holes, observed] -> h, a network. Narrow ones, of about
        as many units as there are columns, fill in better than wide ones, which copy.
      discriminator: [x with its holes filled, hint] -> h, a network.
      alpha: weight of the reconstruction error.
      hint_rate: probability that the discriminator is told whether a feature was observed;
        0.01 is VAEAC's, 0.9 that of GAIN's published code.
      cross_entropy: share of the cross-entropy in the reconstruction error of levels; the rest
        is squared error (VAEAC, Eq. 12). 1 is GAIN's own.
      noise_scale: the noise is uniform on [0, noise_scale].

    Of an image, a network's output may be [N, H, W, K] or flat, [N, H].
    """

    def __init__(
        self,
        generator,
        discriminator,
        alpha: float = 10.0,
        hint_rate: float = 0.01,
        cross_entropy: float = 0.2,
        noise_scale: float = 0.01,
        name: str | None = None,
    ):
        super().__init__(name=name)
        check_positive(self, alpha=alpha, noise_scale=noise_scale)
        check_shares(self, hint_rate=hint_rate, cross_entropy=cross_entropy)
        self.generator, self.discriminator = generator, discriminator
        self.alpha, self.hint_rate = alpha, hint_rate
        self.cross_entropy, self.noise_scale = cross_entropy, noise_scale

    draws_are_calibrated = False

    @property
    def rows_at_once(self):
        return 1 if self.feature_ndims > 1 else sampling.ROWS

    # The two players.

    def generate(self, code, observed, noise):
        """The generator's x, in codes: (shares or numbers in [0, 1], log-shares of levels).

        Args:
          code: [N, *F', K], `encode`d x; where not observed it may be anything.
          observed: bool [N, *F].
          noise: [N, *F', K], what stands in the holes.
        """
        filled = tf.where(self._each(observed), code, noise)
        h = self.generator(self._beside(filled, observed))
        raw = tf.reshape(tf.cast(self.generator_output(h), tf.float32), tf.shape(code))
        raw = tf.ensure_shape(raw, code.shape)
        if not self.sizes:
            return tf.nn.sigmoid(raw), None
        parts = tf.split(raw, [len(self.real), *self.sizes], -1)
        logs = [tf.nn.log_softmax(part) for part in parts[1:]]
        return tf.concat([tf.nn.sigmoid(parts[0]), *[tf.exp(log) for log in logs]], -1), logs

    def tell(self, code, hint):
        """The discriminator's logits that each feature was observed: [N, *F]."""
        h = self.discriminator(self._beside(code, hint))
        logits = tf.cast(self.discriminator_output(h), tf.float32)
        return tf.ensure_shape(tf.reshape(logits, tf.shape(hint)), hint.shape)

    def hint(self, observed, seed):
        """b m + (1 - b) / 2 with b ~ Bernoulli(hint_rate): float32 [N, *F]."""
        told = tf.random.stateless_uniform(tf.shape(observed), seed) < self.hint_rate
        return tf.where(told, tf.cast(observed, tf.float32), 0.5)

    def loss_terms(self, x, present, observed, seed, step, training):
        """What each player minimises, a mean over features: each [B].

        discriminator: -log of the probability it gives to what is true of each feature.
        adversarial: -log of the probability that what was filled passes for observed.
        reconstruction: alpha times the error of what was observed.
        """
        del step, training
        seen = present & observed
        noise_seed, hint_seed = tf.unstack(tfp.random.split_seed(seed, n=2), 2)
        code = self.encode(x, seen)
        noise = self._noise(tf.shape(code), noise_seed)
        made, logs = self.generate(code, seen, noise)
        filled = tf.where(self._each(seen), code, made)
        logits = self.tell(filled, self.hint(seen, hint_seed))
        m = tf.cast(seen, tf.float32)
        caught = m * tf.nn.softplus(-logits) + (1.0 - m) * tf.nn.softplus(logits)
        passed = (1.0 - m) * tf.nn.softplus(-logits)
        error = m * self.reconstruction(code, made, logs)
        axes = list(range(1, m.shape.rank))
        return {
            "discriminator": tf.reduce_mean(caught, axes),
            "adversarial": tf.reduce_mean(passed, axes),
            "reconstruction": self.alpha * tf.reduce_mean(error, axes),
        }

    def reconstruction(self, code, made, logs):
        """VAEAC, Eq. 12: error of every feature, [N, *F]; squared for a number, in x's unit.

        Of a column with levels, (cross_entropy x -X log x' + (1 - cross_entropy) (X - x')^2)
        / K, summed over its K levels: each column counts alike.
        """
        numbers = self._squares(code, made)
        if self.feature_ndims == 2:
            return tf.reduce_mean(numbers, -1)
        share, columns = self.cross_entropy, []
        levels = zip(self._levels(code), self._levels(made), logs or [], strict=True)
        for truth, part, log in levels:
            each = (1.0 - share) * tf.square(truth - part) - share * truth * log
            columns.append(tf.reduce_mean(each, -1, keepdims=True))
        return tf.gather(tf.concat([numbers, *columns], -1), self.back, axis=-1)

    def players(self):
        both = self.generator, self.generator_output
        rival = self.discriminator, self.discriminator_output
        return [
            Player(("discriminator",), _trainable(rival)),
            Player(("adversarial", "reconstruction"), _trainable(both)),
        ]

    def variables_to_train(self):
        return [variable for player in self.players() for variable in player.variables]

    def validation_terms(self, x, present, observed, seed):
        """Error of the mean of four draws of what is hidden and present, by feature: [B].

        Squares for a number, in the unit of the reconstruction error; half the squared
        distance of one-hot vectors for levels. Neither player's loss says how good imputations
        are. The mean over rows is the mean over all that is hidden.
        """
        seen, hidden = present & observed, present & ~observed
        code, truth = self.encode(x, seen), self.encode(x, present)
        made = 0.0
        for one in tf.unstack(tfp.random.split_seed(seed, n=4), 4):
            made += self.generate(code, seen, self._noise(tf.shape(code), one))[0] / 4.0
        numbers = self._squares(truth, made)
        if self.feature_ndims == 2:
            error = tf.reduce_mean(numbers, -1)
        else:
            pairs = zip(self._levels(truth), self._levels(made), strict=True)
            levels = [tf.reduce_sum(tf.square(a - b), -1, True) / 2.0 for a, b in pairs]
            error = tf.gather(tf.concat([numbers, *levels], -1), self.back, axis=-1)
        hidden = tf.cast(hidden, tf.float32)
        axes = list(range(1, hidden.shape.rank))
        share = tf.cast(tf.shape(x)[0], tf.float32) / tf.maximum(tf.reduce_sum(hidden), 1.0)
        return {"imputation_error": share * tf.reduce_sum(hidden * error, axes)}

    # Draws.

    def _impute(self, x, observed, num_samples, seed):
        def values(made):
            columns = [self._numbers(made, whole=True)]
            columns += [
                tf.cast(tf.argmax(part, -1), tf.float32)[..., tf.newaxis]
                for part in self._levels(made)
            ]
            return self._to_x(columns)

        return self._made(values, x, observed, num_samples, seed)

    def _complete(self, x, observed, num_samples, seed):
        def expected(made):
            return tf.concat([self._numbers(made), *self._levels(made)], -1)

        mean = tf.reduce_mean(self._made(expected, x, observed, num_samples, seed), 0)
        numbers, *levels = tf.split(mean, [len(self.real), *self.sizes], -1)
        best = [tf.cast(tf.argmax(part, -1), tf.float32)[..., tf.newaxis] for part in levels]
        return self._to_x([numbers, *best])

    def _made(self, function, x, observed, num_samples, seed):
        """function of what the generator makes of a row, [S, B, ...], in chunks."""
        code = self.encode(x, observed)

        def chunk(count, i):
            noise = self._noise_of_rows(code, count, sampling.chunk_seeds(seed, i).z)
            again = [count, *[1] * (code.shape.rank - 1)]
            masks = tf.tile(observed, [count, *[1] * (observed.shape.rank - 1)])
            flat = tf.reshape(noise, tf.concat([[-1], tf.shape(code)[1:]], 0))
            flat = tf.ensure_shape(flat, [None, *code.shape[1:]])
            answer = function(self.generate(tf.tile(code, again), masks, flat)[0])
            shape = tf.concat([[count, tf.shape(code)[0]], tf.shape(answer)[1:]], 0)
            return tf.ensure_shape(tf.reshape(answer, shape), [None, None, *answer.shape[1:]])

        return sampling.in_chunks(chunk, num_samples, tf.float32)[:num_samples]

    def _noise_of_rows(self, code, count, seed):
        """[count, B, *F', K]; with seeds [B, 2], each row's from its own."""
        if seed.shape.rank == 1:
            return self._noise(tf.concat([[count], tf.shape(code)], 0), seed)
        shape = tf.concat([[count], tf.shape(code)[1:]], 0)
        spec = tf.TensorSpec([None, *code.shape[1:]])
        rows = tf.map_fn(lambda s: self._noise(shape, s), seed, fn_output_signature=spec)
        return sampling.swap_leading(rows)

    def _noise(self, shape, seed):
        return tf.random.stateless_uniform(shape, seed, 0.0, self.noise_scale)

    # Codes: x as the networks see it, [N, R + sum of levels] for a table, [N, H, W, C] for an
    # image. Numbers come first.

    def encode(self, x, seen):
        """x [N, *F, *E] in codes; 0 where not `seen`, whatever x holds there."""
        x = tf.where(expand_features(seen, x), x, 0.0)
        if self.feature_ndims == 2:
            pixels = x if self.spec.event_shape else x[..., tf.newaxis]
            return tf.where(self._each(seen), self._shares(pixels), 0.0)
        numbers = tf.gather(x, np.array(self.real, np.int32), axis=-1)
        numbers = tf.where(self.counts, tf.math.log1p(tf.maximum(numbers, 0.0)), numbers)
        numbers = self._shares(numbers)
        pieces = [
            tf.one_hot(tf.cast(x[..., d], tf.int32), size)
            for d, size in zip(self.categorical, self.sizes, strict=True)
        ]
        return tf.where(self._each(seen), tf.concat([numbers, *pieces], -1), 0.0)

    def _numbers(self, code, whole=False):
        """The numbers of a code in x's own unit, [..., R]; counts as they are on average."""
        numbers = code[..., : len(self.real)] if self.feature_ndims == 1 else code
        numbers = self.low + numbers * self._range()
        if self.feature_ndims == 1 and self.spec.counts is not None:
            most = tf.minimum(numbers, math.log(LARGEST_COUNT))
            counts = tf.maximum(tf.math.expm1(tf.where(self.counts, most, 0.0)), 0.0)
            counts = tf.round(counts) if whole else counts
            numbers = tf.where(self.counts, counts, numbers)
        return numbers

    def _levels(self, code):
        """The one-hot parts of a code, one [..., K] a column with levels."""
        return tf.split(code, [len(self.real), *self.sizes], -1)[1:] if self.sizes else []

    def _to_x(self, columns):
        """Numbers [..., R] and levels [..., 1] each, in the order of x."""
        joined = tf.concat(columns, -1)
        if self.feature_ndims == 2:
            return joined if self.spec.event_shape else joined[..., 0]
        return tf.gather(joined, self.back, axis=-1)

    def _each(self, features):
        """A mask [N, *F] as one for codes."""
        if self.feature_ndims == 2:
            return features[..., tf.newaxis]
        return tf.gather(features, self.owner, axis=-1)

    def _beside(self, code, features):
        features = tf.cast(features, tf.float32)
        if self.feature_ndims == 2:
            features = features[..., tf.newaxis]
        return tf.concat([code, features], -1)

    def _range(self):
        return tf.convert_to_tensor(self.high) - self.low

    def _shares(self, numbers):
        """Numbers as shares of their range, 0 at its lower end; of a single value, 0."""
        return tf.math.divide_no_nan(numbers - self.low, self._range())

    def _squares(self, code, made):
        """Squared differences of the numbers of two codes, in their own unit: [..., R]."""
        gap = code - made
        gap = gap[..., : len(self.real)] if self.feature_ndims == 1 else gap
        return tf.square(gap * self._range())

    def build_for(self, spec):
        if self.spec == spec:
            return
        super().build_for(spec)
        images = len(spec.feature_shape) == 2
        size = spec.num_features
        levels = spec.levels or (0,) * size
        counts = np.array(spec.counts or (0.0,) * size) > 0
        self.real = [d for d in range(size) if not levels[d]]
        self.categorical = [d for d in range(size) if levels[d]]
        self.sizes = [levels[d] for d in self.categorical]
        numbers = (math.prod(spec.event_shape),) if images else (len(self.real),)
        if images:
            self.real = [0] * numbers[0]
        else:
            self.counts = counts[self.real]
            order = [*self.real, *self.categorical]
            self.back = np.argsort(order)
            self.owner = np.repeat(order, [*[1] * len(self.real), *self.sizes])
        channels = numbers[0] if images else len(self.owner)
        self.generator_output = self._output(self.generator, channels)
        self.discriminator_output = self._output(self.discriminator, 1 if images else size)
        # Until `adapt` sees training rows: pixels, or numbers of standard deviations.
        ends = (0.0, 1.0) if images else (-3.0, 3.0)
        self.low, self.high = [
            self.add_weight(
                shape=numbers,
                initializer=keras.initializers.Constant(end),
                trainable=False,
                autocast=False,  # Ends of a range are data: not for bfloat16 to round.
                name=name,
            )
            for name, end in zip(("low", "high"), ends, strict=True)
        ]

    def _output(self, network, numbers):
        """A layer from a network's output to so many numbers a row of a table, or a pixel."""
        if self.feature_ndims == 1:
            return keras.layers.Dense(numbers)
        shape = (None, *self.spec.feature_shape, len(self.real) + 1)
        made = network.compute_output_shape(shape)
        if len(made) == 4 and tuple(made[1:3]) != self.spec.feature_shape:
            raise ValueError(
                f"A network of GAIN makes maps of {made[1]} x {made[2]} from images of "
                f"{shape[1]} x {shape[2]}. Let it keep their size, or flatten its output."
            )
        whole = self.spec.num_features if len(made) == 2 else 1
        return keras.layers.Dense(numbers * whole)

    def adapt(self, x, present):
        """Keeps the smallest and the largest of the training rows' numbers."""
        if self.feature_ndims == 2:
            x = x.reshape(-1, len(self.real))
            present = np.repeat(present.reshape(-1, 1), len(self.real), axis=1)
        else:
            x, present = x[:, self.real], present[:, self.real]
            x = np.where(self.counts, np.log1p(np.maximum(x, 0.0)), x)
        some = present.any(0)
        low = np.where(present, x, np.inf).min(0, initial=np.inf)
        high = np.where(present, x, -np.inf).max(0, initial=-np.inf)
        self.low.assign(np.where(some, low, 0.0).astype(np.float32))
        self.high.assign(np.where(some, high, 0.0).astype(np.float32))

    def check_training_mask(self, present, observed, name):
        """Refuses masks that leave nothing to tell apart.

        Raises:
          ValueError: names the mask.
        """
        if (present & observed).all():
            raise ValueError(
                f"The training mask {name} hides nothing and the training rows have no gaps, "
                f"so GAIN's discriminator has nothing to tell apart. Set train.mask to one "
                f"that hides something, BernoulliMask(0.8) say."
            )
        if not (present & observed).any():
            raise ValueError(
                f"The training mask {name} hides all that is present, and GAIN learns from "
                f"what it sees alone. Set train.mask to one that shows something, "
                f"BernoulliMask(0.8) say."
            )


def _trainable(layers):
    return [variable for layer in layers for variable in layer.trainable_variables]
