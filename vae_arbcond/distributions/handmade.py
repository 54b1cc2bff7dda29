"""What the distributions that are written here share."""

import tensorflow as tf
import tensorflow_probability as tfp

tfd = tfp.distributions


class Handmade(tfd.Distribution):
    """float32 and without checks of its own; what cannot be listed as tensors says so.

    A subclass whose arguments are tensors overrides `_parameter_properties`, and TFP indexes
    it; others bring a `__getitem__` where rows are to be drawn with seeds of their own.

    Args:
      made_of: the constructor's arguments, `dict(locals())`.
      name: of the distribution.
      reparameterized: whether draws carry gradients to the parameters.
    """

    def __init__(self, made_of: dict, name: str, reparameterized: bool = False):
        kind = tfd.FULLY_REPARAMETERIZED if reparameterized else tfd.NOT_REPARAMETERIZED
        super().__init__(
            dtype=tf.float32,
            reparameterization_type=kind,
            validate_args=False,
            allow_nan_stats=True,
            parameters=made_of,
            name=name,
        )

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        raise NotImplementedError(f"A {cls.__name__} is not made of tensors alone.")
