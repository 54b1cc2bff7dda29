"""Draws docs/masks.png: sixteen draws of every mask.

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
# Masks that look at values: a square is a table of 32 columns whose rows, the largest at the
# bottom, differ in what all their columns share.
TABLES = (
    ("MissingAtRandomMask\n(0.5, strength=2)", masks.MissingAtRandomMask(0.5, strength=2.0)),
    ("SelfMaskingMask\n(0.5, strength=2)", masks.SelfMaskingMask(0.5, strength=2.0)),
)
# The mixtures of the papers, as the gin files make them.
MIXTURES = (("masks/mnist.gin", 32), ("masks/celeba.gin", 64))


def mixture(gin_file):
    """The training mask of a gin file."""
    config.load([gin_file])
    return copy.deepcopy(gin.query_parameter("train.mask"))  # gin makes it when it is copied.


def of_images(mask, side):
    """Observed [DRAWS, side, side]."""
    shape = [DRAWS, side, side]
    return mask(tf.zeros(shape), tf.ones(shape, tf.bool), [0, 1])


def of_tables(mask, side=32):
    """Observed [DRAWS, rows, columns] of one table, a draw of the mask each."""
    size = tf.linspace(-2.0, 2.0, side)[:, tf.newaxis]
    x = size + 0.3 * tf.random.stateless_normal([side, side], [0, 1])
    return tf.stack([mask(x, tf.ones(x.shape, tf.bool), [i, 1]) for i in range(DRAWS)])


def main():
    """Writes the picture beside this file."""
    images = [*ROWS, *((name, mixture(name), side) for name, side in MIXTURES)]
    rows = [
        (f"{label}\n{side} x {side}", of_images(mask, side)) for label, mask, side in images
    ]
    rows += [(f"{label}\nrows from small to large", of_tables(mask)) for label, mask in TABLES]
    figure = matplotlib.figure.Figure(figsize=(20, 1.14 * len(rows)))
    axes = figure.subplots(len(rows), 1)
    figure.subplots_adjust(left=0.15, right=0.995, top=0.965, bottom=0.005, hspace=0.06)
    for (text, observed), place in zip(rows, axes, strict=True):
        scale = PIXELS // observed.shape[1]
        place.imshow(pictures.mask_row(observed, scale), interpolation="none")
        place.set_axis_off()
        place.text(-20, PIXELS / 2, text, ha="right", va="center", fontsize=13)
    title = "Masks for images and, last, tables: white is observed, colour is hidden"
    figure.suptitle(title, fontsize=16, y=0.99)
    path = pathlib.Path(__file__).with_name("masks.png")
    figure.savefig(path, dpi=72)
    print(f"Wrote {path}")


if __name__ == "__main__":
    main()
