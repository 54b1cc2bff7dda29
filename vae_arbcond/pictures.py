"""Grids of images as arrays, for TensorBoard, the demo and the documentation."""

import numpy as np

HIDDEN = (0.80, 0.45, 0.20)  # the colour of what the model could not see


def inpainting_grid(x, observed, completions, scale: int = 4, gap: int = 1) -> np.ndarray:
    """One row an image: original, what was seen, each completion, their mean.

    Args:
      x: [B, H, W] or [B, H, W, 3], values in [0, 1].
      observed: bool [B, H, W]; hidden pixels are drawn in colour.
      completions: [S, B, H, W] or [S, B, H, W, 3].
      scale: size of a pixel.
      gap: white pixels between images, before scaling.

    Returns:
      float32 [height, width, 3] in [0, 1].
    """
    x, completions = _rgb(np.asarray(x), 3), _rgb(np.asarray(completions), 4)
    hidden = ~np.asarray(observed)
    seen = np.where(hidden[..., np.newaxis], np.asarray(HIDDEN, np.float32), x)
    columns = [x, seen, *completions, completions.mean(0)]
    padded = [
        np.pad(c, [(0, 0), (0, gap), (0, gap), (0, 0)], constant_values=1.0) for c in columns
    ]
    grid = np.concatenate([np.concatenate(list(c), axis=0) for c in padded], axis=1)
    grid = np.clip(np.nan_to_num(grid, nan=0.0), 0.0, 1.0)
    return np.repeat(np.repeat(grid, scale, axis=0), scale, axis=1).astype(np.float32)


def inpainting_sheet(x, observed, draws, scale: int = 3, gap: int = 2) -> np.ndarray:
    """One row an image, as VAEAC's figures have them: input with grey gaps, draws, truth.

    Args:
      x: [B, H, W], values in [0, 1].
      observed: bool [B, H, W].
      draws: [S, B, H, W], or another method's completions.
      scale: size of a pixel.
      gap: light pixels between images, before scaling; three times as many between the parts.

    Returns:
      float32 [height, width] in [0, 1].
    """
    x = np.asarray(x, np.float32)
    seen = np.where(observed, x, 0.5)
    columns = [seen, None, *np.asarray(draws), None, x]
    empty = np.zeros([*x.shape[:2], 0], np.float32)
    tiles = []
    for column in columns:
        spare = 2 * gap if column is None else gap
        around = [(0, 0), (0, gap), (0, spare)]
        tile = np.pad(empty if column is None else column, around, constant_values=0.75)
        tiles.append(np.concatenate(list(tile), 0))
    page = np.pad(np.concatenate(tiles, 1), [(gap, 0), (gap, 0)], constant_values=0.75)
    page = np.clip(np.nan_to_num(page, nan=0.0), 0.0, 1.0)
    return page.repeat(scale, 0).repeat(scale, 1).astype(np.float32)


def mask_row(observed, scale: int = 1, gap: int = 4) -> np.ndarray:
    """Masks side by side: what is observed white, what is hidden in colour, grey between them.

    Args:
      observed: bool [N, H, W].
      scale: size of a pixel.
      gap: grey pixels around each mask, after scaling.

    Returns:
      float32 [height, width, 3] in [0, 1].
    """
    observed = np.asarray(observed)
    large = observed.repeat(scale, axis=1).repeat(scale, axis=2)[..., np.newaxis]
    tiles = np.where(large, np.float32(1.0), np.asarray(HIDDEN, np.float32))
    around = [(0, 0), (gap, gap), (0, gap), (0, 0)]
    row = np.concatenate(list(np.pad(tiles, around, constant_values=0.6)), axis=1)
    return np.pad(row, [(0, 0), (gap, 0), (0, 0)], constant_values=0.6)


def _rgb(images: np.ndarray, grey_ndim: int) -> np.ndarray:
    if images.ndim == grey_ndim:
        return np.repeat(images[..., np.newaxis], 3, axis=-1)
    return images
