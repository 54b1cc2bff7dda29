"""ImageSchema: the map between the user's pixels and the model's x in [0, 1]."""

import dataclasses
import os

import numpy as np

from vae_arbcond.schema import serialisation


@dataclasses.dataclass(frozen=True)
class ImageSchema:
    """Images of one size and one range of values.

    Args:
      height: pixels.
      width: pixels.
      channels: None for grey images without a channel axis.
      minimum: the user's value that becomes 0.
      maximum: the user's value that becomes 1.
      dtype: what the user's images are made of and come back as: 'uint8', 'float32', ...
    """

    height: int
    width: int
    channels: int | None
    minimum: float
    maximum: float
    dtype: str = "uint8"

    def __post_init__(self):
        sizes = [self.height, self.width] + [self.channels] * (self.channels is not None)
        if any(type(size) is not int or size < 1 for size in sizes):
            raise ValueError(f"Image sizes are whole numbers above 0, got {sizes}.")
        for bound in ("minimum", "maximum"):
            object.__setattr__(self, bound, float(getattr(self, bound)))
        if not -np.inf < self.minimum < self.maximum < np.inf:
            raise ValueError(
                f"minimum must be below maximum and both finite, got {self.minimum} and "
                f"{self.maximum}; images of a single value carry nothing to learn."
            )
        if np.dtype(self.dtype).kind not in "iuf":
            raise ValueError(f"Images hold integers or floats, not {self.dtype!r}.")

    @classmethod
    def infer(
        cls, images: np.ndarray, value_range: tuple[float, float] | None = None
    ) -> "ImageSchema":
        """A schema for images [N, H, W] or [N, H, W, C].

        Args:
          images: the user's pixels; NaN = missing.
          value_range: smallest and largest possible value. Default: 0 and 255 for uint8, else
            what occurs.
        """
        images = np.asarray(images)
        if images.ndim not in (3, 4) or 0 in images.shape:
            raise ValueError(
                f"Images must be [N, H, W] or [N, H, W, C] with no axis of size 0, got "
                f"{list(images.shape)}."
            )
        if images.dtype.kind not in "iuf":
            raise ValueError(f"Images hold integers or floats, not {images.dtype}.")
        if value_range is None and images.dtype == np.uint8:
            value_range = (0, 255)
        if value_range is None:
            if np.isnan(images).all():
                raise ValueError("Every pixel is missing: no range of values can be inferred.")
            value_range = (float(np.nanmin(images)), float(np.nanmax(images)))
        height, width = images.shape[1:3]
        channels = images.shape[3] if images.ndim == 4 else None
        return cls(height, width, channels, *map(float, value_range), str(images.dtype))

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W) or (H, W, C)."""
        event = () if self.channels is None else (self.channels,)
        return (self.height, self.width, *event)

    @property
    def levels(self) -> None:
        """None: pixels are real (a table's schema has one number for each column here)."""
        return None

    ordered = counts = None  # As for `levels`.

    def to_model(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The user's images in the model's units.

        Args:
          images: [N, *shape], any number dtype; NaN = missing. A pixel with a channel missing
            is missing.

        Returns:
          x float32 [N, *shape] in [0, 1], 0.0 where missing.
          present bool [N, H, W].

        Raises:
          ValueError: wrong shape, or a value outside [minimum, maximum].
        """
        images = self._check(images, "images")
        values = images.astype(np.float64)
        missing = np.isnan(values)
        bad = ~missing & ((values < self.minimum) | (values > self.maximum))
        if bad.any():
            where = tuple(int(i) for i in np.argwhere(bad)[0])
            raise ValueError(
                f"Image {where[0]} holds {values[where]} at {where[1:]}, outside "
                f"{self.minimum} to {self.maximum}; clip the images or mark the pixel as "
                f"missing (NaN)."
            )
        present = ~(missing if self.channels is None else missing.any(-1))
        x = (values - self.minimum) / (self.maximum - self.minimum)
        return np.where(self._expand(present), x, 0.0).astype(np.float32), present

    def to_user(
        self,
        x: np.ndarray,
        raw: np.ndarray | None = None,
        observed: np.ndarray | None = None,
    ) -> np.ndarray:
        """Model values as the user's images: clipped to the range, rounded for integers.

        Args:
          x: [N, *shape]; anything, NaN included, at the pixels that come from `raw`.
          raw: the images x was made from, or None.
          observed: bool [N, H, W]: which of raw's present pixels to copy. Default: all.

        Returns:
          [N, *shape] of `dtype`; kept pixels have raw's value bit for bit.

        Raises:
          ValueError: shapes do not fit, or x is NaN where nothing covers it.
        """
        x = self._check(x, "x").astype(np.float64)
        keep = np.zeros(x.shape[:3], bool)
        if raw is not None:
            raw = self._check(raw, "raw")
            if len(raw) != len(x):
                raise ValueError(f"x has {len(x)} images but raw has {len(raw)}.")
            keep = self.to_model(raw)[1]
        if observed is not None:
            observed = np.asarray(observed)
            if raw is None or observed.dtype != bool or observed.shape != keep.shape:
                raise ValueError(
                    f"observed must come with raw and be bool {list(keep.shape)} (one entry "
                    f"per pixel, True = copy it), got {observed.dtype} {list(observed.shape)}."
                )
            keep = keep & observed
        values = self.minimum + np.clip(x, 0.0, 1.0) * (self.maximum - self.minimum)
        values = np.where(self._expand(keep), self.minimum, values)
        if np.isnan(values).any():
            where = tuple(int(i) for i in np.argwhere(np.isnan(values))[0])
            raise ValueError(
                f"x is NaN at {where} and no observed pixel covers it; only finite model "
                f"values can be turned into the user's units."
            )
        dtype = np.dtype(self.dtype)
        if dtype.kind in "iu":
            values = np.rint(values)
        images = values.astype(dtype)
        if raw is not None:
            keep = np.broadcast_to(self._expand(keep), images.shape)
            images[keep] = raw[keep]
        return images

    def log_jacobian(self, x: np.ndarray, features: np.ndarray) -> np.ndarray:
        """log |dx / d(user's unit)| over a set of pixels, in nats.

        Args:
          x: the pixels; the same wherever they are.
          features: bool [..., H, W]; each pixel counts once a channel.

        Returns:
          float64 [...].
        """
        del x
        features = np.asarray(features)
        if features.dtype != bool or features.shape[-2:] != (self.height, self.width):
            raise ValueError(
                f"features must be bool [..., {self.height}, {self.width}], got "
                f"{features.dtype} {list(features.shape)}."
            )
        count = features.sum((-2, -1)) * (self.channels or 1)
        return -count * np.log(self.maximum - self.minimum)

    def to_json(self) -> str:
        """Versioned JSON text; `from_json` gives an equal schema."""
        return serialisation.dump("image", serialisation.fields_to_json(self))

    @classmethod
    def from_json(cls, text: str) -> "ImageSchema":
        """The schema written by `to_json`. Raises ValueError as TableSchema.from_json does."""
        return cls.from_document(serialisation.parse(text))

    @classmethod
    def from_document(cls, document: dict) -> "ImageSchema":
        """As `from_json`, from the parsed document without its version."""
        if document.get("kind") != "image":
            raise ValueError(
                f"Schema JSON: an image schema was wanted, got kind {document.get('kind')!r}; "
                f"load_schema reads every kind."
            )
        rest = {key: value for key, value in document.items() if key != "kind"}
        return serialisation.fields_from_json(cls, rest, "the schema")

    def save(self, path: str | os.PathLike) -> None:
        """Writes `to_json` to `path`: whole or not at all."""
        serialisation.save_text(self.to_json(), path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "ImageSchema":
        """The schema in file `path`."""
        return cls.from_json(serialisation.read_text(path))

    def _check(self, images, name: str) -> np.ndarray:
        images = np.asarray(images)
        if images.shape[1:] != self.shape or images.dtype.kind not in "iuf":
            raise ValueError(
                f"{name} must be numbers {['N', *self.shape]}, got {images.dtype} "
                f"{list(images.shape)}; a single image needs a batch axis: {name}[None]."
            )
        return images

    def _expand(self, pixels: np.ndarray) -> np.ndarray:
        return pixels if self.channels is None else pixels[..., None]
