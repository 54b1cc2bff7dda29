"""What decoders with skip connections share: several samples of z for each row."""

import keras
import tensorflow as tf


def small() -> keras.Initializer:
    """Initial weights of a layer that adds to what is there.

    Ten layers that each add as much as there was would multiply the variance a thousandfold.
    """
    return keras.initializers.VarianceScaling(0.1)


def rows_of(z):
    """z [..., Z] as [N, Z]: one matrix product a layer, however many samples."""
    return z if z.shape.rank == 2 else tf.reshape(z, [-1, z.shape[-1]])


def unflattened(h, z):
    """h [N, H] with the leading axes of z again: [..., H]."""
    if z.shape.rank == 2:
        return h
    out = tf.reshape(h, tf.concat([tf.shape(z)[:-1], [h.shape[-1]]], 0))
    return tf.ensure_shape(out, [*z.shape[:-1], h.shape[-1]])


def add_rows(h, term):
    """h [S B, ...] + term [B, ...]: the rows' term for each of their samples."""
    # Never h + term as they are, one sample a row: TensorFlow 2.21's remapper takes
    # relu(W h + (V s + b)) for a pattern to fuse, and leaves a broken graph behind.
    samples = tf.reshape(h, tf.concat([[-1], tf.shape(term)], 0))
    return tf.reshape(samples + tf.cast(term, h.dtype), tf.shape(h))


def beside(h, inputs):
    """h [S B, H] and the rows' inputs [B, I] for each of their samples: [S B, H + I]."""
    if h.shape[0] is None or h.shape[0] != inputs.shape[0]:
        inputs = tf.tile(inputs, [tf.shape(h)[0] // tf.shape(inputs)[0], 1])
    return tf.concat([h, tf.cast(inputs, h.dtype)], -1)
