"""Sheets of inpaintings side by side, each with heads over its columns, as a PNG."""

import pathlib
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

HEAD, BETWEEN = 26, 24  # pixels


def write(path: pathlib.Path, sheets: Mapping[str, np.ndarray], column: int) -> None:
    """Writes what `pictures.inpainting_sheet` made.

    Args:
      path: of the PNG.
      sheets: what its draws are -> [height, width] in [0, 1]; all of one height.
      column: width of an image on the sheets, in pixels.
    """
    parts = []
    for title, sheet in sheets.items():
        between = np.ones([len(sheet) + HEAD, BETWEEN], np.float32)
        parts += [between, headed(sheet, title, column)]
    page = (255.0 * np.concatenate(parts[1:], 1)).round().astype(np.uint8)
    Image.fromarray(page).save(path, optimize=True)
    print(path, page.shape, path.stat().st_size, flush=True)


def headed(sheet: np.ndarray, title: str, column: int) -> np.ndarray:
    """The sheet below the words "seen", the title and "truth", over what they are of."""
    width = sheet.shape[1]
    head = Image.new("L", (width, HEAD), 255)
    pen, font = ImageDraw.Draw(head), ImageFont.load_default(15)
    places = {"seen": column // 2 + 6, title: width // 2, "truth": width - column // 2 - 6}
    for text, x in places.items():
        pen.text((x, HEAD // 2), text, fill=0, font=font, anchor="mm")
    return np.concatenate([np.asarray(head, np.float32) / 255.0, sheet], 0)
