"""The exported module: which signatures there are, and what they take and return.

export/README.md is the contract, for clients. Every input and output has the batch as its
first axis, so that row ("instances") and columnar ("inputs") requests both fit; every row is
answered from its own seed, so that merging requests into one batch changes no answer.
"""

from collections.abc import Callable

import tensorflow as tf
from absl import logging

from vae_arbcond.conditioners import (
    ArbitraryConditioner,
    DensityConditioner,
    LatentConditioner,
    sampling,
)
from vae_arbcond.schema import ImageSchema, TableSchema
from vae_arbcond.serving.columns import Table
from vae_arbcond.serving.images import Images
from vae_arbcond.shapes import expand_features

_NUM_SAMPLES = tf.TensorSpec([None], tf.int32, "num_samples")
_SEED = tf.TensorSpec([None, 2], tf.int32, "seed")
_OPTIONAL = ("log_likelihood", "encode")


def build(
    conditioner: ArbitraryConditioner, schema: TableSchema | ImageSchema
) -> tuple[tf.Module, dict[str, Callable]]:
    """A module to save, and its signatures by name.

    `impute`, `sample` and `serving_default` always; `log_likelihood` and `encode` where the
    method has them.

    Raises:
      ValueError: the schema cannot be served; the message names the column.
    """
    spec = conditioner.spec
    x = tf.TensorSpec([None, *spec.x_shape], tf.float32, "x")
    observed = tf.TensorSpec([None, *spec.feature_shape], tf.bool, "observed")
    target = tf.TensorSpec(observed.shape, tf.bool, "target")
    user = in_user_units(schema)
    given = {tensor.name: tensor for tensor in user.specs()}

    def impute(x, observed, num_samples, seed):
        count, seed = _agreed(num_samples, seed, x)
        draws, completion = conditioner.impute_and_complete(x, observed, count, seed)
        return {"draws": sampling.swap_leading(draws), "completion": completion}

    def sample(num_samples, seed):
        nothing = tf.zeros([tf.shape(seed)[0], *spec.x_shape])
        unseen = tf.zeros([tf.shape(seed)[0], *spec.feature_shape], tf.bool)
        return {"draws": impute(nothing, unseen, num_samples, seed)["draws"]}

    def log_likelihood(x, observed, target, num_samples, seed):
        count, seed = _agreed(num_samples, seed, x)
        return conditioner.log_likelihood(x, observed, target, count, seed)._asdict()

    def complete(given, num_samples, seed):
        x, present = user.to_model(given)
        answer = impute(x, present, num_samples, seed)
        return user.to_user(given, present, answer["completion"], answer["draws"])

    def encode_rows(x, observed, seed):
        return encode(conditioner, x, observed, seed)

    functions = {
        "impute": (impute, x, observed, _NUM_SAMPLES, _SEED),
        "sample": (sample, _NUM_SAMPLES, _SEED),
        "serving_default": (complete, given, _NUM_SAMPLES, _SEED),
    }
    if isinstance(conditioner, DensityConditioner):
        functions["log_likelihood"] = log_likelihood, x, observed, target, _NUM_SAMPLES, _SEED
    if isinstance(conditioner, LatentConditioner):
        functions["encode"] = encode_rows, x, observed, _SEED
    signatures = {}
    for name, (function, *specs) in functions.items():
        traced = tf.function(function, input_signature=specs, autograph=False)
        try:
            traced.get_concrete_function()
        except NotImplementedError as error:
            if name not in _OPTIONAL:
                raise
            # A posterior without a density, or one that nothing can be said about.
            logging.warning("The export has no signature %s: %s", name, error)
        else:
            signatures[name] = traced
    module = tf.Module()
    # The variables alone: with the Keras model, SavedModel would keep every function that the
    # model has ever traced.
    module.state = [variable.value for variable in conditioner.variables]
    return module, signatures


def in_user_units(schema: TableSchema | ImageSchema) -> Table | Images:
    """The schema's twin that works on tensors."""
    return Table(schema) if isinstance(schema, TableSchema) else Images(schema)


def encode(conditioner: LatentConditioner, x, observed, seed) -> dict[str, tf.Tensor]:
    """q(z | x_o) of each row: one `sample`, and `mean` and `stddev` where they are known.

    Args:
      x: float32 [B, *F, *E]; hidden entries may be anything.
      observed: bool [B, *F].
      seed: int32 [B, 2].

    Returns:
      By name: tensors [B, ...] of the shape of z. Where z is a nest, its parts are numbered:
      sample_0, sample_1 and so on.

    Raises:
      NotImplementedError: the posterior cannot be drawn from with a seed for each row.
    """
    size = conditioner.rows_at_once

    def answer(x, observed, seed):
        infer_seed, draw_seed = sampling.split(seed)
        posterior = conditioner.infer(x, observed, infer_seed).posterior
        draws = sampling.sample(posterior, 1, draw_seed)
        outputs = {"sample": tf.nest.map_structure(lambda part: part[0], draws)}
        for moment in ("mean", "stddev"):
            try:
                outputs[moment] = getattr(posterior, moment)()
            except NotImplementedError:
                continue  # Not known in closed form: left out, as promised.
        return _flat(outputs)

    x = tf.where(expand_features(observed, x), x, 0.0)
    rows = (x, observed, tf.cast(seed, tf.int32))
    seen = [tf.TensorSpec([size, *part.shape[1:]], part.dtype) for part in rows]
    if size == 1:
        seen[-1] = tf.TensorSpec([2], tf.int32)
    shapes = (
        tf.function(answer, autograph=False).get_concrete_function(*seen).structured_outputs
    )
    signature = {n: tf.TensorSpec([None, *s.shape[1:]], s.dtype) for n, s in shapes.items()}

    @tf.function(
        autograph=False
    )  # Even when called eagerly: a graph fuses operations, which round otherwise.
    def over_rows(*rows):
        return sampling.over_rows(answer, rows, signature, size)

    return over_rows(*rows)


def _flat(outputs):
    flat = {}
    for name, nest in outputs.items():
        parts = tf.nest.flatten(nest)
        single = len(parts) == 1
        flat |= {name if single else f"{name}_{i}": part for i, part in enumerate(parts)}
    return flat


def _agreed(num_samples, seed, x):
    """The number of samples that all rows ask for, and the seeds; stops at wrong ones."""
    rows, seeds = tf.shape(x)[0], tf.shape(seed)[0]
    texts = tf.strings.reduce_join(tf.strings.as_string(num_samples[:8]), separator=", ")
    fine = tf.reduce_all(num_samples == num_samples[:1]) & tf.reduce_all(num_samples >= 1)
    fine &= tf.size(num_samples) > 0
    checks = [
        tf.debugging.Assert(
            fine,
            [
                tf.strings.join(
                    [
                        "num_samples must be the same whole number above 0 in every row of a "
                        "request, got ",
                        texts,
                        "; send rows that need another number in a request of their own.",
                    ]
                )
            ],
        ),
        tf.debugging.Assert(
            rows == seeds,
            [
                tf.strings.join(
                    [
                        "seed must have two integers for each row, got ",
                        tf.strings.as_string(seeds),
                        " of them for ",
                        tf.strings.as_string(rows),
                        " rows.",
                    ]
                )
            ],
        ),
    ]
    # Nothing is computed with numbers that were refused.
    with tf.control_dependencies(checks):
        return tf.reduce_max(num_samples), tf.identity(seed)
