"""ImageSchema inside a graph: the user's pixels <-> the model's x in [0, 1]."""

import numpy as np
import tensorflow as tf

from vae_arbcond.schema import ImageSchema
from vae_arbcond.serving.columns import require


class Images:
    """ImageSchema in a graph: tensors `image` and `observed`."""

    def __init__(self, schema: ImageSchema):
        self.schema = schema
        self.dtype = tf.as_dtype(schema.dtype)
        self.span = schema.maximum - schema.minimum

    def specs(self) -> list[tf.TensorSpec]:
        """image [B, *shape] of the schema's dtype, observed bool [B, H, W]."""
        height, width = self.schema.height, self.schema.width
        return [
            tf.TensorSpec([None, *self.schema.shape], self.dtype, "image"),
            tf.TensorSpec([None, height, width], tf.bool, "observed"),
        ]

    def cells(self, x, present) -> dict[str, tf.Tensor]:
        """What a client would send for x [B, *shape] with gaps."""
        return {"image": self._pixels(x), "observed": present}

    def to_model(self, given: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """x float32 [B, *shape] and which pixels are present: observed, and not NaN."""
        values, present = tf.cast(given["image"], tf.float64), given["observed"]
        missing = tf.math.is_nan(values)
        present &= ~(missing if self.schema.channels is None else tf.reduce_any(missing, -1))
        kept, low, high = self._expand(present), self.schema.minimum, self.schema.maximum
        require(
            ~kept | ((values >= low) & (values <= high)),
            values,
            "An observed pixel of image is ",
            f", outside {low} to {high}; clip the images, or mark the pixel as not observed.",
        )
        x = (values - low) / self.span
        return tf.where(kept, tf.cast(x, tf.float32), 0.0), present

    def to_user(self, given, present, completion, draws) -> dict[str, tf.Tensor]:
        """Completed images, draws and standard deviations, by output name.

        Args:
          given: the user's tensors.
          present: bool [B, H, W]; the user's pixels are kept there.
          completion: float32 [B, *shape].
          draws: float32 [B, S, *shape].
        """
        image, kept = given["image"], self._expand(present)
        spread = tf.math.reduce_std(tf.cast(draws, tf.float64), axis=1) * self.span
        return {
            "image": tf.where(kept, image, self._pixels(completion)),
            "image_draws": tf.where(
                kept[:, tf.newaxis], image[:, tf.newaxis], self._pixels(draws)
            ),
            "image_stddev": tf.where(kept, tf.zeros_like(spread), spread),
        }

    def _pixels(self, x):
        share = tf.clip_by_value(tf.cast(x, tf.float64), 0.0, 1.0)
        values = self.schema.minimum + share * self.span
        whole = np.dtype(self.schema.dtype).kind in "iu"
        return tf.cast(tf.round(values) if whole else values, self.dtype)

    def _expand(self, pixels):
        return pixels if self.schema.channels is None else pixels[..., tf.newaxis]
