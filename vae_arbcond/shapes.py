"""Shapes: the only place that raises on them.

`B` batch, `S` samples, `*F` feature axes ([D] for a table, [H, W] for an image), `*E` axes
inside one feature ([] or [C]). `x` is float32 [B, *F, *E]; every mask is bool [B, *F] and
True means observed.
"""

import dataclasses
import math

import numpy as np
import tensorflow as tf


def check_mask(features, x, feature_ndims: int, name: str = "observed") -> tf.Tensor:
    """Checks that a mask is bool and has one entry per feature of `x`; returns it as a tensor.

    Args:
      features: bool [B, *F]. For `observed`: True = the model may see the feature.
      x: float32 [B, *F, *E].
      feature_ndims: number of axes in *F: 1 for a table, 2 for an image.
      name: what the mask is called in the message: observed, present or target.

    Raises:
      TypeError: the mask is not bool. Floats are refused because half of the literature
        writes 1 for observed and the other half 1 for missing.
      ValueError: the shapes do not fit.
    """
    features = tf.convert_to_tensor(features)
    if features.dtype != tf.bool:
        raise TypeError(
            f"{name} must be bool (True = {_MEANING[name]}), got {features.dtype.name}. For a "
            f"0/1 array where 1 means that, pass tf.cast(array, tf.bool); where 1 means the "
            f"opposite (1 = missing, say), pass array == 0."
        )
    want = x.shape[: 1 + feature_ndims]
    if not features.shape.is_compatible_with(want):
        hint = ""
        if features.shape.is_compatible_with(x.shape):
            hint = (
                " One entry per pixel, not per channel: reduce the channel axis with "
                "tf.reduce_all(mask, axis=-1)."
            )
        elif features.shape.is_compatible_with(want[1:]):
            hint = " One mask for every row: add the batch axis with tf.broadcast_to."
        raise ValueError(
            f"{name} has shape {_show(features.shape)}, but x of shape {_show(x.shape)} with "
            f"{feature_ndims} feature axis(es) needs {_show(want)}.{hint}"
        )
    return features


_MEANING = {
    "observed": "the model may see the value",
    "present": "the value exists in the data",
    "target": "score this value",
}


def _show(shape: tf.TensorShape) -> tuple:
    return tuple(shape) if shape.rank is not None else ("unknown",)


def check_positive(owner, **values) -> None:
    """Refuses constructor arguments that are no numbers above 0.

    Raises:
      ValueError: names the class, the argument and the value.
    """
    for name, value in values.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and math.isfinite(value) and value > 0):
            raise ValueError(
                f"{type(owner).__name__}.{name} must be a number above 0, got {value!r}."
            )


def check_shares(owner, **values) -> None:
    """Refuses constructor arguments that are no numbers from 0 to 1.

    Raises:
      ValueError: names the class, the argument and the value.
    """
    for name, value in values.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and 0.0 <= value <= 1.0):
            raise ValueError(
                f"{type(owner).__name__}.{name} is a share from 0 to 1, got {value!r}."
            )


def check_sizes(owner, **values) -> None:
    """Refuses constructor arguments that are no whole numbers of at least 1.

    Raises:
      ValueError: names the class, the argument and the value.
    """
    _check_whole(owner, 1, values)


def check_counts(owner, **values) -> None:
    """Refuses constructor arguments that are no whole numbers of at least 0; as above."""
    _check_whole(owner, 0, values)


def _check_whole(owner, least, values):
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(
                f"{type(owner).__name__}.{name} must be a whole number, {least} or more, got "
                f"{value!r}."
            )


def means_and_modes(x: np.ndarray, present: np.ndarray, levels=None) -> np.ndarray:
    """Mean of each number, most frequent level of each feature with levels: [*F, *E].

    Over present entries; 0 for a feature without any.

    Args:
      x: [N, *F, *E]; anything where not present.
      present: bool [N, *F].
      levels: of each column, 0 = real; None = all real.
    """
    here = present.reshape(*present.shape, *(1,) * (x.ndim - present.ndim))
    count = np.maximum(present.sum(0), 1).reshape(here.shape[1:])
    typical = np.where(here, x, 0.0).sum(0) / count
    for d, size in enumerate(levels or ()):
        if size:
            values = x[present[:, d], d].astype(int)
            typical[d] = np.argmax(np.bincount(values, minlength=size))
    return typical


LARGEST_COUNT = 2**24  # float32 has every whole number up to here
LARGEST = 1e16  # of x: squares and their sums stay finite in float32


def check_finite(x: tf.Tensor, features: tf.Tensor, name: str) -> None:
    """Refuses NaN and infinity where a mask says that there is a value; eagerly only.

    Most often the mask is the wrong way round: np.isnan(x) instead of ~np.isnan(x).

    Raises:
      ValueError: says how many entries, and what to do.
    """
    if not tf.executing_eagerly():
        return  # A graph has no values to look at; what comes out is NaN in that row.
    # In NumPy: a handful of eager operations would take longer than a small model's answer.
    values, seen = x.numpy(), features.numpy()
    seen = seen.reshape(seen.shape + (1,) * (values.ndim - seen.ndim))
    wrong = seen & ~(np.abs(values) <= LARGEST)  # NaN compares as False.
    if not wrong.any():
        return
    count = int(np.sum(wrong & ~np.isfinite(values)))
    if not count:
        far = values[wrong]
        raise ValueError(
            f"x holds {float(far[0]):g} where {name} is True: networks and densities have no "
            f"answer to values that far out. Give x in the model's units, in which a number "
            f"is some standard deviations from its mean (TableSchema.to_model), and correct "
            f"or hide such cells."
        )
    raise ValueError(
        f"{count} entries of x are NaN or infinite where {name} is True. In every mask "
        f"True means that the value is there: is the mask the wrong way round? For NaN "
        f"as missing, pass ~np.isnan(x)."
    )


def check_discrete(x: tf.Tensor, features: tf.Tensor, name: str, spec: "DataSpec") -> None:
    """Refuses what is no level's index and no count where a mask says there is a value.

    Eagerly only.

    Args:
      x: float32 [B, D].
      features: bool [B, D].
      name: what the mask is called in the message.
      spec: what the model was built for.

    Raises:
      ValueError: names the column and the value.
    """
    if not tf.executing_eagerly() or not (any(spec.levels or ()) or any(spec.counts or ())):
        return
    values = x.numpy()
    sizes = np.array(spec.levels or (0,) * spec.num_features)
    counts = np.array(spec.counts or (0.0,) * spec.num_features) > 0
    ends = np.where(counts, LARGEST_COUNT + 1, sizes)
    fits = (values == np.rint(values)) & (values >= 0) & (values < ends)
    wrong = features.numpy() & (counts | (sizes > 0)) & ~fits
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        kind = (
            f"a count: its values are whole numbers from 0 to {LARGEST_COUNT}."
            if counts[column]
            else f"categorical or ordinal: its values are the levels' indices, whole numbers "
            f"from 0 to {sizes[column] - 1}."
        )
        raise ValueError(
            f"x[{row}, {column}] is {values[row, column]:g} where {name} is True, but column "
            f"{column} is {kind} TableSchema.to_model makes them."
        )


def check_x(x, x_shape) -> tf.Tensor:
    """Checks that `x` is [B, *x_shape]; returns it as float32.

    Raises:
      ValueError: wrong rank or feature sizes; `x_shape` is what the model was built for.
    """
    x = tf.convert_to_tensor(x)
    if x.dtype != tf.float32:
        x = tf.cast(x, tf.float32)
    if x_shape is not None and not x.shape.is_compatible_with([None, *x_shape]):
        hint = ""
        if x.shape.is_compatible_with(list(x_shape)):
            hint = " A single row needs a batch axis: pass x[None]."
        raise ValueError(
            f"x has shape {_show(x.shape)}, but this model was built for rows of shape "
            f"{tuple(x_shape)}, so x must be {('B', *x_shape)}.{hint}"
        )
    return x


def check_seed(seed, allow_rows: bool = True) -> tf.Tensor:
    """Returns `seed` as int32 [2], or [B, 2] (one seed a row) where that is allowed.

    Raises:
      ValueError: any other shape, a plain integer included.
    """
    seed = tf.convert_to_tensor(seed)
    if seed.shape.rank not in ((1, 2) if allow_rows else (1,)) or seed.shape[-1] != 2:
        raise ValueError(
            f"seed must be two integers{', or [B, 2]: two for each row' * allow_rows}; got "
            f"shape {_show(seed.shape)}. For one number n, pass [0, n]."
        )
    return tf.cast(seed, tf.int32)


def expand_features(features: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """A mask [..., B, *F] as [..., B, *F, 1...], ready to broadcast against x [B, *F, *E]."""
    event_ndims = x.shape.rank - features.shape.rank
    return features[(..., *[tf.newaxis] * event_ndims)]


def fold_batch(network, inputs: tf.Tensor, event_ndims: int = 1) -> tf.Tensor:
    """Applies `network`, which accepts [N, *event] only, to inputs [..., *event]."""
    axes = inputs.shape.rank - event_ndims
    if axes == 1:
        return network(inputs)
    leading = tf.shape(inputs)[:axes]
    flat = tf.reshape(inputs, tf.concat([[-1], tf.shape(inputs)[axes:]], 0))
    # Not tf.ensure_shape, which would be an operation of its own in every step of a loop.
    flat.set_shape([None, *inputs.shape[axes:]])
    outputs = network(flat)
    folded = tf.reshape(outputs, tf.concat([leading, tf.shape(outputs)[1:]], 0))
    folded.set_shape([*inputs.shape[:axes], *outputs.shape[1:]])
    return folded


def in_groups(answer, parts, signature, most: int):
    """answer(*parts) for tensors [B, ...], at most `most` rows at a time: nest of [B, ...].

    Groups are of equal size, the last one filled up with rows of zeros.

    Args:
      answer: [b, ...] tensors -> nest of [b, ...].
      parts: tensors.
      signature: nest of TensorSpec [None, ...] of the answer.
      most: rows.
    """
    total = tf.shape(parts[0])[0]
    groups = tf.maximum((total + most - 1) // most, 1)
    size = (total + groups - 1) // groups

    def cut(part):
        spare = [[0, groups * size - total], *[[0, 0]] * (part.shape.rank - 1)]
        shape = tf.concat([[groups, size], tf.shape(part)[1:]], 0)
        cut = tf.reshape(tf.pad(part, spare), shape)
        return tf.ensure_shape(cut, [None, None, *part.shape[1:]])

    def joined(part):
        shape = tf.concat([[groups * size], tf.shape(part)[2:]], 0)
        flat = tf.reshape(part, shape)[:total]
        return tf.ensure_shape(flat, [None, *part.shape[2:]])

    answers = tf.map_fn(
        lambda group: answer(*group),
        tuple(cut(part) for part in parts),
        parallel_iterations=1,
        fn_output_signature=signature,
    )
    return tf.nest.map_structure(joined, answers)


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """What a model must know of the data before it can create its weights.

    Attributes:
      feature_shape: *F, one entry of a mask each: (D,) for a table, (H, W) for an image.
      event_shape: *E, the axes inside one feature: () or (C,) for colour.
      levels: for a table with categorical or ordinal columns, the number of levels of each
        column and 0 for a number; None when every feature is a number.
      ordered: which columns have levels with an order; None when none has.
      counts: for a table with counts, a typical value (> 0) of each column that is a count
        and 0 for any other: x is the count itself, so its scale must be known; None when
        there is none.
    """

    feature_shape: tuple[int, ...]
    event_shape: tuple[int, ...] = ()
    levels: tuple[int, ...] | None = None
    ordered: tuple[bool, ...] | None = None
    counts: tuple[float, ...] | None = None

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Shape of one row of x."""
        return (*self.feature_shape, *self.event_shape)

    @property
    def num_features(self) -> int:
        """Number of entries of one row's mask."""
        return math.prod(self.feature_shape)

    @property
    def discrete(self) -> np.ndarray | None:
        """bool [D]: which columns are levels or counts; None when all features are real."""
        if not (any(self.levels or ()) or any(self.counts or ())):
            return None
        nothing = (0,) * self.num_features
        return (np.array(self.levels or nothing) > 0) | (np.array(self.counts or nothing) > 0)

    @classmethod
    def of(cls, schema) -> "DataSpec":
        """What a TableSchema or an ImageSchema says of its data."""
        return cls(
            tuple(schema.shape[:2]),
            tuple(schema.shape[2:]),
            schema.levels,
            schema.ordered,
            schema.counts,
        )

    def to_config(self) -> dict:
        """A JSON-serialisable dictionary; `DataSpec.from_config` reads it."""
        return {
            key: None if v is None else list(v) for key, v in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_config(cls, config: dict) -> "DataSpec":
        return cls(**{key: None if v is None else tuple(v) for key, v in config.items()})
