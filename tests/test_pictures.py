"""Grids of images: where what is drawn."""

import numpy as np

from vae_arbcond import pictures


def test_a_sheet_has_the_input_with_grey_gaps_then_the_draws_then_the_truth():
    x = np.array([[[0.0, 1.0]], [[1.0, 1.0]]], np.float32)  # two images of one row of two
    observed = np.array([[[True, False]], [[False, False]]])
    draws = np.full([3, 2, 1, 2], 0.25, np.float32)
    page = pictures.inpainting_sheet(x, observed, draws, scale=1, gap=1)
    light = 0.75
    first = [light, 0.0, 0.5, light, *[light] * 2]
    first += [0.25, 0.25, light] * 3 + [light] * 2 + [0.0, 1.0, light]
    assert page.shape == (1 + 2 * 2, len(first))
    np.testing.assert_array_equal(page[1], first)
    np.testing.assert_array_equal(page[3, 1:3], [0.5, 0.5])
    np.testing.assert_array_equal(page[[0, 2, 4]], light)


def test_a_sheet_is_enlarged_pixel_by_pixel():
    x = np.random.default_rng(0).uniform(size=[1, 2, 2])
    observed = np.ones([1, 2, 2], bool)
    small = pictures.inpainting_sheet(x, observed, x[np.newaxis], scale=1)
    large = pictures.inpainting_sheet(x, observed, x[np.newaxis], scale=3)
    np.testing.assert_array_equal(large, np.kron(small, np.ones([3, 3])))
