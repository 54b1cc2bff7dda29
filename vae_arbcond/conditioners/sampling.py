"""Noise for a batch from one seed, or for each row from its own; resampling; chunks and rows.

Wherever a `seed` is taken, it is int32 [2], one for the whole batch, or [B, 2], one for each
row. In the second case a row's noise is a function of its seed alone.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond import estimators
from vae_arbcond.distributions import Columns, Conditional

CHUNK = 64  # samples of z held at once; part of what a seed means, so never changed
# Rows answered together where each has its own seed, see `over_rows`: a multiple of the lanes
# of a processor's vectors, so that a row is rounded alike at every place.
ROWS = 8


class ChunkSeeds(NamedTuple):
    """What one chunk of samples draws from. Each int32 [2] or [B, 2]."""

    z: tf.Tensor
    x: tf.Tensor
    start: tf.Tensor


def row_seeds(seed, x):
    """One seed [2] as that seed for each row of x; seeds [B, 2] as they are."""
    return seed if seed.shape.rank == 2 else tf.tile(seed[tf.newaxis], [tf.shape(x)[0], 1])


def split(seed):
    """Two seeds that have nothing in common."""
    return tuple(_derive(lambda s: tfp.random.split_seed(s, n=2), seed, 2))


def chunk_seeds(seed, i) -> ChunkSeeds:
    """The seeds of chunk `i`, an integer scalar."""

    def derive(s):
        z, rest = tfp.random.split_seed(tf.random.experimental.stateless_fold_in(s, i), n=2)
        x, start = tfp.random.split_seed(rest, n=2)
        return z, x, start

    return ChunkSeeds(*_derive(derive, seed, 3))


def _derive(function, seed, count):
    if seed.shape.rank == 1:
        return function(seed)
    signature = tf.TensorSpec([count, 2], tf.int32)
    seeds = tf.map_fn(lambda s: tf.stack(function(s)), seed, fn_output_signature=signature)
    return tf.unstack(seeds, count, axis=1)


def sample(distribution, count, seed):
    """`count` samples of each row: [count, B, ...]; None for one of each: [S, B, ...].

    Args:
      distribution: batch_shape [B] where there is a `count`, else [S, B, *F].
      count: number of samples, or None.
      seed: int32 [2] or [B, 2].

    Raises:
      NotImplementedError: seeds [B, 2] for a distribution that cannot be indexed.
    """
    more = () if count is None else count
    if seed.shape.rank == 1:
        return distribution.sample(more, seed=seed)
    if isinstance(distribution, Conditional) and count is not None:
        # Noise row by row, then one pass of the network for all rows.
        def noise_of(s):
            return tf.random.stateless_normal([count, distribution.noise_size], s)

        spec = tf.TensorSpec([None, distribution.noise_size])
        return distribution.from_noise(
            swap_leading(tf.map_fn(noise_of, seed, fn_output_signature=spec))
        )
    index = () if count is not None else (slice(None),)

    def one_row(row):
        return _at(distribution, (*index, row[0])).sample(more, seed=row[1])

    def spec(dtype, event):
        features = distribution.batch_shape[2:] if count is None else []
        return tf.TensorSpec([None, *features, *event], dtype)

    signature = tf.nest.map_structure(spec, distribution.dtype, distribution.event_shape)
    rows = (tf.range(tf.shape(seed)[0]), seed)
    return tf.nest.map_structure(
        swap_leading, tf.map_fn(one_row, rows, fn_output_signature=signature)
    )


def _at(distribution, index):
    if isinstance(distribution, Columns):
        parts, columns = zip(*distribution.parts, strict=True)
        return Columns([_at(part, index) for part in parts], columns)
    try:
        return distribution[index]
    except NotImplementedError as error:
        raise NotImplementedError(
            f"A {type(distribution).__name__} cannot be indexed, so rows with seeds of their "
            f"own cannot be drawn from it together. Give it a __getitem__, or set "
            f"infer_draws = True on the method, which answers such rows one by one."
        ) from error


def swap_leading(tensor):
    """[A, B, ...] -> [B, A, ...]."""
    return tf.transpose(tensor, [1, 0, *range(2, tensor.shape.rank)])


def resample(z, log_weights, count, seed):
    """Systematic resampling: z [CHUNK, B, ...] -> `count` of them by tempered weight.

    Equal weights give each z back at most once where count <= CHUNK.
    """
    weights = estimators.tempered_weights(log_weights, CHUNK / 2.0)
    edges = tf.transpose(tf.cumsum(weights, axis=0))  # [B, CHUNK]
    if seed.shape.rank == 1:
        start = tf.random.stateless_uniform([tf.shape(edges)[0], 1], seed)
    else:
        start = tf.map_fn(
            lambda s: tf.random.stateless_uniform([1], s),
            seed,
            fn_output_signature=tf.TensorSpec([1], tf.float32),
        )
    spread = tf.cast(tf.range(count), tf.float32)[tf.newaxis]
    positions = (start + spread) / tf.cast(count, tf.float32) * edges[:, -1:]
    index = tf.minimum(tf.searchsorted(edges, positions, side="right"), CHUNK - 1)

    def pick(part):
        rows = tf.gather(swap_leading(part), index, batch_dims=1)
        return tf.ensure_shape(swap_leading(rows), [None, *part.shape[1:]])

    return tf.nest.map_structure(pick, z)


def in_chunks(draw, num_samples, signature):
    """draw(count, i) -> [count, ...] for chunk i, joined: [at least num_samples, ...].

    A chunk holds CHUNK samples, or `num_samples` where that is less. The last one is drawn
    whole, so that memory is bounded and nothing but `num_samples` and the seed matters.
    """
    size = tf.minimum(num_samples, CHUNK)
    count = (num_samples + size - 1) // size
    stacked = tf.map_fn(
        lambda i: draw(size, i),
        tf.range(count),
        parallel_iterations=1,
        fn_output_signature=signature,
    )
    return tf.nest.map_structure(_join_leading, stacked)


def over_rows(answer, rows, signature, size: int | None):
    """answer(*rows) for rows that have seeds of their own: [B, ...].

    Args:
      answer: takes what `rows` holds for one row (x [1, ...] and seed [2]) where `size` is 1,
        else for exactly `size` rows (x [size, ...] and seed [size, 2]); the last group is
        filled up. The shapes are always the same, so that a row's answer is the same
        whatever the other rows are, up to the last bits where its place in the group differs.
        With `size` None it takes all rows at once, and sees to that itself.
      rows: tensors [B, ...], the last of them the seeds.
      signature: nest of TensorSpec [None, ...]: what `answer` returns.
    """
    if size is None:
        return answer(*rows)
    if size == 1:

        def one(row):
            answers = answer(*[part[tf.newaxis] for part in row[:-1]], row[-1])
            return tf.nest.map_structure(lambda a: a[0], answers)

        return tf.map_fn(one, rows, fn_output_signature=_batched(signature))
    total = tf.shape(rows[0])[0]
    groups = tf.maximum((total + size - 1) // size, 1)

    def grouped(part):
        spare = [[0, groups * size - total], *[[0, 0]] * (part.shape.rank - 1)]
        shape = tf.concat([[groups, size], tf.shape(part)[1:]], 0)
        groups_of_rows = tf.reshape(tf.pad(part, spare), shape)
        return tf.ensure_shape(groups_of_rows, [None, size, *part.shape[1:]])

    answers = tf.map_fn(
        lambda group: answer(*group),
        tuple(grouped(part) for part in rows),
        fn_output_signature=_batched(signature, size),
    )
    return tf.nest.map_structure(lambda part: _join_leading(part)[:total], answers)


def spread(count: int, num_samples: int) -> np.ndarray:
    """Positions of `num_samples` of `count` draws, evenly spread: int [num_samples].

    Resampled draws stand in the order of their candidates, so that neighbours are often drawn
    from the same z; the first few are a poor choice of a few.
    """
    return np.arange(num_samples) * count // num_samples


def draws_spec(x) -> tf.TensorSpec:
    """Draws of each row of x [B, *F, *E], rows first as `over_rows` has them."""
    return tf.TensorSpec([None, None, *x.shape[1:]])


def _batched(signature, *leading):
    return tf.nest.map_structure(
        lambda spec: tf.TensorSpec([*leading, *spec.shape[1:]], spec.dtype), signature
    )


def _join_leading(part):
    """[A, B, ...] -> [A B, ...]."""
    shape = tf.shape(part)
    flat = tf.reshape(part, tf.concat([[shape[0] * shape[1]], shape[2:]], 0))
    return tf.ensure_shape(flat, [None, *part.shape[2:]])
