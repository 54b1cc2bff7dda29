"""Mask generators: which features the model may see.

Each is a pure function `generator(x, present, seed) -> observed` of its arguments: no state,
no NumPy random numbers. The same seed gives the same mask eagerly, inside a `tf.function`,
in an input pipeline and compiled by XLA. True means observed in every mask.

The definitions are those of Posterior Matching (Strauss and Oliva, 2022,
https://arxiv.org/abs/2201.12414v4) and its published code, of VAEAC (Ivanov et al., 2019,
https://arxiv.org/abs/1806.02382v3), whose masks write 1 for UNobserved: here they are turned
round, and of QAVI (Agarwal et al., A Decoder Suffices for Query-Adaptive Variational
Inference). `general.py` has masks for tables and images, `images.py` and `irregular.py` those
for images (docs/masks.png shows them), `tables.py` those that look at the values of a table.
"""

from vae_arbcond.masks.base import MaskGenerator
from vae_arbcond.masks.general import (
    BernoulliMask,
    IntersectionMask,
    MixtureMask,
    UniformCountMask,
)
from vae_arbcond.masks.images import (
    FACE_RECTANGLES,
    SIDES,
    CentreMask,
    FixedRectanglesMask,
    HalfMask,
    HorizontalLineMask,
    RandomPatchesMask,
    RectangleMask,
    RotatingHalfMask,
    SquareMask,
    rectangle_sizes,
)
from vae_arbcond.masks.irregular import FreeFormMask, PatternMask
from vae_arbcond.masks.tables import MissingAtRandomMask, SelfMaskingMask, logistic_intercept

__all__ = [
    "FACE_RECTANGLES",
    "SIDES",
    "BernoulliMask",
    "CentreMask",
    "FixedRectanglesMask",
    "FreeFormMask",
    "HalfMask",
    "HorizontalLineMask",
    "IntersectionMask",
    "MaskGenerator",
    "MissingAtRandomMask",
    "MixtureMask",
    "PatternMask",
    "RandomPatchesMask",
    "RectangleMask",
    "RotatingHalfMask",
    "SelfMaskingMask",
    "SquareMask",
    "UniformCountMask",
    "logistic_intercept",
    "rectangle_sizes",
]
