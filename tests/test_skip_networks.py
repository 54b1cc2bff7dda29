"""Skip networks: the prepared half and the rest add up to layers of both."""

import numpy as np
import pytest
import tensorflow as tf

from vae_arbcond.skip_networks import (
    LayeredDecoder,
    LayeredEncoder,
    SkipConvDecoder,
    SkipConvEncoder,
    SkipMlpDecoder,
    SkipMlpEncoder,
    SkipNetwork,
    convolutional,
)


def noise(*shape, seed=0):
    return tf.random.stateless_normal(shape, [seed, 1])


def test_an_mlp_layer_of_two_halves_is_a_layer_of_both_side_by_side():
    encoder, decoder = SkipMlpEncoder(8, 2), SkipMlpDecoder(8, 2)
    x, z = noise(5, 3), noise(5, 2, seed=1)
    _, states = encoder(x)
    got = decoder(z, decoder.prepare(states))
    h = decoder.activate(decoder.first(z))
    for of_h, of_state, s in zip(decoder.of_h, decoder.of_state, states[:0:-1], strict=True):
        kernel = tf.concat([of_h.kernel, of_state.kernel], 0)
        h += decoder.activate(tf.concat([h, s], -1) @ kernel + of_state.bias)
    np.testing.assert_allclose(got, tf.concat([h, x], -1), rtol=1e-5, atol=1e-5)


def test_a_layer_of_any_width_is_a_layer_of_both_halves_side_by_side():
    encoder, decoder = LayeredEncoder((9, 5)), LayeredDecoder((5, 9))
    x, z = noise(5, 3), noise(5, 2, seed=1)
    _, states = encoder(x)
    got = decoder(z, decoder.prepare(states))
    h = z
    for of_h, of_state, s in zip(decoder.of_h, decoder.of_state, states[:0:-1], strict=True):
        kernel = tf.concat([of_h.kernel, of_state.kernel], 0)
        h = tf.nn.relu(tf.concat([h, s], -1) @ kernel + of_state.bias)
    np.testing.assert_allclose(got, tf.concat([h, x], -1), rtol=1e-5, atol=1e-5)


def test_without_skips_nothing_of_the_row_reaches_the_decoder_but_z():
    encoder, decoder = LayeredEncoder((9, 5)), LayeredDecoder((7, 6), skips=False)
    z = noise(4, 2, seed=1)
    outputs = [decoder(z, decoder.prepare(encoder(noise(4, 3, seed=s))[1])) for s in (2, 3)]
    np.testing.assert_array_equal(*outputs)


def networks(kind):
    if kind == "mlp":
        return SkipMlpEncoder(8, 2), SkipMlpDecoder(8, 2), noise(4, 3)
    if kind == "layered":
        return LayeredEncoder((9, 5)), LayeredDecoder((5, 9)), noise(4, 3)
    if kind == "plain":
        return LayeredEncoder((9, 5)), LayeredDecoder((7, 6, 5), skips=False), noise(4, 3)
    sizes, patch = (4, 5, 7), 1 + (kind == "patches")
    encoder, decoder = SkipConvEncoder(sizes, patch=patch), SkipConvDecoder(sizes, patch=patch)
    return encoder, decoder, noise(4, 9, 6, 2)


@pytest.mark.parametrize("kind", ["mlp", "layered", "plain", "conv", "patches"])
def test_samples_of_a_row_are_decoded_as_if_it_were_alone(kind):
    encoder, decoder, x = networks(kind)
    _, states = encoder(x)
    z = noise(6, 4, 2, seed=3)
    together = decoder(z, decoder.prepare(states))
    assert together.shape[:2] == (6, 4)
    for row in (0, 3):
        _, states = encoder(x[row : row + 1])
        alone = decoder(z[:, row : row + 1], decoder.prepare(states))
        np.testing.assert_allclose(together[:, row], alone[:, 0], rtol=1e-4, atol=1e-5)
    one = decoder(z[0], decoder.prepare(encoder(x)[1]))
    np.testing.assert_allclose(one, together[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("size", [(28, 28), (9, 6), (128, 128), (5, 1)])
def test_images_of_any_size_come_back_at_that_size(size, patch):
    filters = (4 * patch**2, 4, 4, 4, 4)
    encoder = SkipConvEncoder(filters, patch=patch)
    decoder = SkipConvDecoder(filters, patch=patch)
    h, states = encoder(noise(2, *size, 3))
    assert h.shape[0] == 2 and h.shape.rank == 2
    out = decoder(noise(3, 2, 2), decoder.prepare(states))
    assert out.shape == (3, 2, *size, 4 + 3)


@pytest.mark.parametrize("patch", [1, 2])
def test_z_may_mean_something_else_at_every_place(patch):
    encoder = SkipConvEncoder((4, 4), patch=patch)
    decoder = SkipConvDecoder((4, 4), patch=patch)
    _, states = encoder(tf.zeros([1, 32, 32, 1]))
    out = decoder(tf.ones([1, 2]), decoder.prepare(states))
    # Far from the edges, whose zeros tell places apart in any convolution.
    middle = out[0, 12:20, 12:20, 0].numpy()
    assert np.abs(middle[::4, ::4] - middle[0, 0]).max() > 1e-3


def test_a_patch_is_the_pixels_side_by_side():
    encoder = SkipConvEncoder((4,), patch=2)
    x = noise(1, 4, 4, 3)
    encoder(x)
    assert encoder.enter[0].kernel.shape[2] == 3 * 4
    # The input itself is among the states, pixel by pixel.
    np.testing.assert_array_equal(encoder(x)[1][0], x)


def test_a_network_without_draws_sees_far_and_near():
    filters = (4, 4)
    network = SkipNetwork(SkipConvEncoder(filters), SkipConvDecoder(filters), 8)
    x = noise(2, 12, 10, 2)
    assert network(x).shape == (2, 12, 10, 4 + 2)
    with tf.GradientTape() as tape:
        tape.watch(x)
        corner = tf.reduce_sum(network(x)[:, 0, 0])
    # Every pixel of the image, through the layer in the middle, reaches the corner.
    assert (np.abs(tape.gradient(corner, x)).max((0, 3)) > 0).all()


@pytest.mark.parametrize("kind", ["mlp", "layered", "plain", "conv", "patches"])
def test_gradients_reach_every_weight(kind):
    encoder, decoder, x = networks(kind)
    z = noise(4, 2, seed=4)
    with tf.GradientTape() as tape:
        h, states = encoder(x)
        out = decoder(z, decoder.prepare(states))
        loss = tf.reduce_sum(out**2) + tf.reduce_sum(h**2)
    variables = [*encoder.trainable_variables, *decoder.trainable_variables]
    for gradient in tape.gradient(loss, [v.value for v in variables]):
        assert gradient is not None and np.abs(gradient).max() > 0


@pytest.mark.parametrize("kind", ["mlp", "layered"])
def test_tensorflow_optimises_a_compiled_step_without_an_error(kind, capfd):
    if kind == "mlp":
        encoder, decoder = SkipMlpEncoder(8, 2, "relu"), SkipMlpDecoder(8, 2, "relu")
    else:
        encoder, decoder = LayeredEncoder((6, 5)), LayeredDecoder((5, 6))
    x, z = noise(4, 3), noise(4, 2, seed=1)

    def gradients():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(decoder(z, decoder.prepare(encoder(x)[1])) ** 2)
        return tape.gradient(loss, [v.value for v in encoder.trainable_variables])

    want = gradients()
    capfd.readouterr()
    for got, exact in zip(tf.function(gradients)(), want, strict=True):
        np.testing.assert_allclose(got, exact, rtol=1e-4, atol=1e-4)
    # Its fusion of relu(W h + (V s + b)) left a broken graph, and only a line here told so.
    assert "failed" not in capfd.readouterr().err


def test_a_convolutional_network_trains_under_xla():
    encoder, decoder = SkipConvEncoder((2, 2, 2)), SkipConvDecoder((2, 2, 2))
    x, z = noise(2, 7, 5, 1), noise(2, 2, seed=1)  # 7 -> 4 -> 2, 5 -> 3 -> 2: cut twice.

    def gradients():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(decoder(z, decoder.prepare(encoder(x)[1])) ** 2)
        return tape.gradient(loss, [v.value for v in decoder.trainable_variables])

    want = gradients()
    for got, exact in zip(tf.function(gradients, jit_compile=True)(), want, strict=True):
        np.testing.assert_allclose(got, exact, rtol=1e-4, atol=1e-4)


def test_a_place_of_a_small_stage_becomes_four_and_gets_the_gradient_of_all():
    h = noise(2, 3, 2, 4)
    upstream = noise(2, 6, 4, 4, seed=1)

    def value_and_gradient(enlarge):
        with tf.GradientTape() as tape:
            tape.watch(h)
            large = enlarge(h)
        return large, tape.gradient(large, h, upstream)

    got = value_and_gradient(convolutional._twice_as_large)
    want = value_and_gradient(lambda h: tf.image.resize(h, (6, 4), "nearest"))
    for one, two in zip(got, want, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-6)


def test_networks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"has depth 1, but .* has depth 2"):
        SkipMlpDecoder(8, 1).prepare(SkipMlpEncoder(8, 2)(noise(1, 3))[1])
    with pytest.raises(ValueError, match=r"has 1 layers, but .* has 2"):
        LayeredDecoder((4,)).prepare(LayeredEncoder((4, 4))(noise(1, 3))[1])
    with pytest.raises(ValueError, match=r"LayeredEncoder.units\[1\] must be a whole number"):
        LayeredEncoder((4, 0))
    with pytest.raises(ValueError, match=r"has 2 stages, but .* has 3"):
        SkipConvDecoder((2, 2)).prepare(SkipConvEncoder((2, 2, 2))(noise(1, 8, 8, 1))[1])
    with pytest.raises(ValueError, match="give at least 4"):
        SkipConvDecoder((2, 2), patch=2)
    with pytest.raises(ValueError, match=r"patch must be a whole number"):
        SkipConvEncoder((2, 2), patch=0)
    for one, other in ((1, 2), (2, 1)):
        states = SkipConvEncoder((4, 4), patch=one)(noise(1, 8, 8, 1))[1]
        with pytest.raises(ValueError, match="Give both the same patch"):
            SkipConvDecoder((4, 4), patch=other).prepare(states)
    with pytest.raises(ValueError, match=r"filters\[1\] must be a whole number"):
        SkipConvEncoder((2, 0))
    with pytest.raises(ValueError, match="filters is empty"):
        SkipConvDecoder(())
    with pytest.raises(ValueError, match="blocks must be a whole number, 0 or more"):
        SkipConvDecoder((2, 2), blocks=-1)
    with pytest.raises(ValueError, match="depth must be a whole number"):
        SkipMlpDecoder(8, 0)
    with pytest.raises(ValueError, match=r"is for images, .*use SkipMlpEncoder"):
        SkipConvEncoder((2, 2))(noise(4, 3))
