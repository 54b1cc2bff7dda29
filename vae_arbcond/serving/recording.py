"""Questions and answers that travel with an export, for checking it where it is served."""

import json

import numpy as np
import tensorflow as tf

from vae_arbcond.serving.module import in_user_units

ROWS, NUM_SAMPLES = 4, 3


def questions(signatures, schema, feature_shape) -> dict[str, dict[str, tf.Tensor]]:
    """Inputs by name of each signature, for a few rows that the model itself draws.

    The first row is entirely missing and the last one is complete.

    Args:
      signatures: of a loaded SavedModel, by name.
      schema: of the user's data.
      feature_shape: *F.
    """
    seed = np.stack([np.arange(ROWS), np.arange(ROWS) + 7], -1).astype(np.int32)
    one = tf.ones([ROWS], tf.int32)
    x = signatures["sample"](num_samples=one, seed=tf.constant(seed))["draws"][:, 0]
    observed = np.random.default_rng(0).random([ROWS, *feature_shape]) < 0.5
    observed[0], observed[-1] = False, True
    observed = tf.constant(observed)
    common = {
        "x": x,
        "observed": observed,
        "target": ~observed,
        "num_samples": tf.fill([ROWS], NUM_SAMPLES),
        "seed": tf.constant(seed),
    }
    # A column of the user's table may be called "target", as an input of the others is.
    user = {**common, **in_user_units(schema).cells(x, observed)}
    return {name: user if name == "serving_default" else common for name in signatures}


def record(signatures, inputs: dict[str, dict[str, tf.Tensor]]) -> str:
    """JSON: for every signature its inputs and outputs, as dtype, shape and flat values.

    Args:
      signatures: of a loaded SavedModel, by name.
      inputs: `questions`; each signature takes those it names.
    """
    records = {}
    for name, function in signatures.items():
        wanted = function.structured_input_signature[1]
        given = {key: inputs[name][key] for key in wanted}
        records[name] = {
            "inputs": {key: _to_json(value) for key, value in given.items()},
            "outputs": {key: _to_json(value) for key, value in function(**given).items()},
        }
    return json.dumps(records, ensure_ascii=False, allow_nan=False) + "\n"


def _to_json(tensor) -> dict:
    values = tensor.numpy().ravel().tolist()
    if tensor.dtype == tf.string:
        values = [value.decode() for value in values]
    elif tensor.dtype.is_floating:
        # JSON has no NaN and no infinity; as text they are unmistakable.
        values = [value if np.isfinite(value) else str(value) for value in values]
    return {"dtype": tensor.dtype.name, "shape": tensor.shape.as_list(), "values": values}
