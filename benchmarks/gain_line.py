"""GAIN on MNIST when all that is seen is a line of three pixels: VAEAC, D.4, Figure 11.

    python benchmarks/gain_line.py --vaeac runs/images/vaeac   # draws results/gain_line.png

MNIST is binarised at one half. GAIN trains on what the mask shows, three rows of pixels of 28,
and never sees the rest of a digit, so it cannot learn what digits look like; VAEAC trains on
the hidden pixels, too: with `--vaeac`, the run of `vaeac_images.py train vaeac`, its draws for
the same images stand on the right. GAIN's networks are fully connected.
"""

import argparse
import os
import pathlib
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import vaeac_pictures

from vae_arbcond import networks, pictures, runs, training
from vae_arbcond.conditioners import GAIN
from vae_arbcond.data.image_datasets import tfds_images
from vae_arbcond.masks import HorizontalLineMask
from vae_arbcond.optimizers import adam

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
DIGITS, DRAWS = 8, 8


def sheet(conditioner, x, observed, seed=(0, 3), num_samples=DRAWS) -> np.ndarray:
    """A row an image: what was seen (grey is hidden), draws, truth; [h, w].

    Args:
      conditioner: any method on images.
      x: [B, H, W], values in [0, 1].
      observed: bool [B, H, W].
      seed: two numbers.
      num_samples: draws of each.
    """
    draws = conditioner.impute(x, observed, num_samples, seed).numpy()
    return pictures.inpainting_sheet(x, observed, draws)


def main():
    """Trains and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1500)
    result = pathlib.Path(__file__).parent / "results" / "gain_line.png"
    parser.add_argument("--png", type=pathlib.Path, default=result)
    parser.add_argument("--vaeac", type=pathlib.Path, help="a run of VAEAC to draw beside")
    options = parser.parse_args()
    data = tfds_images(
        "mnist", files_dir=str(SHARED), binarise=0.5, valid_rows=5000, max_valid_rows=500
    )
    mask = HorizontalLineMask()
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        method = training.train(
            run_dir=f"{folder}/run",
            conditioner=GAIN(networks.mlp((256, 256)), networks.mlp((256, 256))),
            data=data,
            mask=mask,
            num_steps=options.steps,
            validate_every=options.steps,
            keep_best=False,
            batch_size=64,
            optimizer=adam,
            verbose=2,
        ).conditioner
    x, present = data.test.x[:DIGITS], data.test.present[:DIGITS]
    observed = mask(x, present, [0, 3]).numpy()
    sheets = {"GAIN: draws": sheet(method, x, observed)}
    if options.vaeac:
        other = runs.load(options.vaeac).conditioner
        sheets["VAEAC: draws"] = sheet(other, x, observed)
    vaeac_pictures.write(options.png, sheets, 3 * 28)
    print(f"{time.process_time() - started:.0f} s of CPU time")


if __name__ == "__main__":
    main()
