"""Draws docs/masks.png: sixteen draws of every mask for images.

python docs/make_mask_pictures.py
"""

import copy
import pathlib

import gin
import matplotlib.figure
import tensorflow as tf

from vae_arbcond import config, masks, pictures

DRAWS = 16
PIXELS = 128  # of a mask in the picture
# Label, mask, side of the images in pixels.
ROWS = (
    ("BernoulliMask(0.5)", masks.BernoulliMask(0.5), 32),
    ("UniformCountMask()", masks.UniformCountMask(), 32),
    ("HalfMask()", masks.HalfMask(), 32),
    ("CentreMask()", masks.CentreMask(), 32),
    ("HorizontalLineMask(3)", masks.HorizontalLineMask(3), 32),
    ("SquareMask(14)", masks.SquareMask(14), 32),
    ("RectangleMask(0.3, 1.0)", masks.RectangleMask(0.3, 1.0), 32),
    ("RandomPatchesMask(10)", masks.RandomPatchesMask(10), 32),
    ("RotatingHalfMask()", masks.RotatingHalfMask(), 32),
    ("FixedRectanglesMask()", masks.FixedRectanglesMask(), 64),
    ("PatternMask(0.06)", masks.PatternMask(0.06), 64),
    ("FreeFormMask()", masks.FreeFormMask(), 128),
    ("FreeFormMask(0.2, 0.4)", masks.FreeFormMask(0.2, 0.4), 128),
    ("FreeFormMask(strokes=False)", masks.FreeFormMask(strokes=False), 128),
    ("IntersectionMask of\nHalfMask, BernoulliMask(0.7)",
     masks.IntersectionMask((masks.HalfMask(), masks.BernoulliMask(0.7))), 32),
)  # fmt: skip
# The mixtures of the papers, as the gin files make them.
MIXTURES = (("masks/mnist.gin", 32), ("masks/celeba.gin", 64))


def mixture(gin_file):
    """The training mask of a gin file."""
    config.load([gin_file])
    return copy.deepcopy(gin.query_parameter("train.mask"))  # gin makes it when it is copied.


def main():
    """Writes the picture beside this file."""
    rows = [*ROWS, *((name, mixture(name), side) for name, side in MIXTURES)]
    figure = matplotlib.figure.Figure(figsize=(20, 1.14 * len(rows)))
    axes = figure.subplots(len(rows), 1)
    figure.subplots_adjust(left=0.15, right=0.995, top=0.965, bottom=0.005, hspace=0.06)
    for (label, mask, side), place in zip(rows, axes, strict=True):
        shape = [DRAWS, side, side]
        observed = mask(tf.zeros(shape), tf.ones(shape, tf.bool), [0, 1])
        place.imshow(pictures.mask_row(observed, PIXELS // side), interpolation="none")
        place.set_axis_off()
        text = f"{label}\n{side} x {side}"
        place.text(-20, PIXELS / 2, text, ha="right", va="center", fontsize=13)
    figure.suptitle(
        "Masks for images: white is observed, colour is hidden", fontsize=16, y=0.99
    )
    path = pathlib.Path(__file__).with_name("masks.png")
    figure.savefig(path, dpi=72)
    print(f"Wrote {path}")


if __name__ == "__main__":
    main()
