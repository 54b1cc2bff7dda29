"""MNIST, Fashion-MNIST, Omniglot, SVHN and CelebA: built once with TFDS, then read from disk.

Their original files are looked for first; the network is used only where `download` says so.
TFDS does not hash files that it finds, so each is compared with its published size and sha256
before anything is built of it. Labels are dropped.

Omniglot is built from its two zips by a builder of our own: that of TFDS wants two more, which
hold no other images, and keeps three equal channels of them.
"""

import dataclasses
import difflib
import json
import os
import pathlib
import shutil
import socket
import threading
import typing
import urllib.parse
import zipfile
from collections.abc import Mapping, Sequence

import gin
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import resource

from vae_arbcond.data.density_tables import sha256_of
from vae_arbcond.data.pipeline import Dataset, Splits
from vae_arbcond.schema import ImageSchema

NAMES = ("mnist", "fashion_mnist", "omniglot", "svhn_cropped", "celeb_a")
MAX_BYTES = 4 * 2**30  # of the images of all parts as a model reads them
ROWS_AT_ONCE = 2048  # images decoded or converted at once
REACH_SECONDS = 0.7  # how long a server may take to answer


class OmniglotCharacters(tfds.core.GeneratorBasedBuilder):
    """TFDS builder: splits train (background) and test (evaluation), {"image": uint8}.

    Images are [105, 105, 1], 0 for ink and 255 for paper as in the files.
    """

    # Archive and number of its images, by split.
    PARTS: typing.ClassVar = {
        "train": ("images_background.zip", 19_280),
        "test": ("images_evaluation.zip", 13_180),
    }
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: typing.ClassVar = {"1.0.0": "First version."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Put images_background.zip and images_evaluation.zip of "
        "https://github.com/brendenlake/omniglot, folder python, into manual_dir."
    )

    def _info(self):
        image = tfds.features.Image(shape=(105, 105, 1), encoding_format="png")
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten characters of 50 alphabets.",
            features=tfds.features.FeaturesDict({"image": image}),
            homepage="https://github.com/brendenlake/omniglot",
        )

    def _split_generators(self, dl_manager):
        folder = pathlib.Path(dl_manager.manual_dir)
        return {
            split: self._generate_examples(folder / file, count)
            for split, (file, count) in self.PARTS.items()
        }

    def _generate_examples(self, path, count):
        with zipfile.ZipFile(path) as archive:
            names = sorted(name for name in archive.namelist() if name.endswith(".png"))
            if len(names) != count:
                raise ValueError(
                    f"{path} holds {len(names)} images instead of {count}; get it again."
                )
            for name in names:
                pixels = tf.io.decode_png(archive.read(name), channels=1).numpy()
                yield name, {"image": pixels}


@gin.register(module="vae_arbcond")
def tfds_images(
    name: str,
    files_dir: str | None = None,
    data_dir: str | None = None,
    download: bool = False,
    checksums: Mapping[str, str] | None = None,
    crop: Sequence[int] | None = None,
    size: Sequence[int] | None = None,
    antialias: bool = False,
    invert: bool = False,
    binarise: float | None = None,
    valid_rows: int = 5_000,
    seed: int = 0,
    max_train_rows: int | None = None,
    max_valid_rows: int | None = None,
    max_test_rows: int | None = None,
) -> Splits:
    """An image data set with its own test split, built with TFDS on first use.

    Pixels are uint8 from 0 to 255, grey images without a channel axis. They are cropped,
    resized (bilinear, rounded to whole numbers), inverted and binarised, in this order.
    Where the data set has no validation split, rows for it are drawn from the training split
    by `seed`; they do not depend on the limits. Rows are in the order of TFDS, which is mixed.

    Args:
      name: mnist, fashion_mnist, omniglot, svhn_cropped or celeb_a, with "tfds:" before it or
        without. The last two have not been built here, for want of their files.
      files_dir: folder with the original files, or with a folder `name` of them. Not looked
        at once the data set is built.
      data_dir: where TFDS keeps what it builds; None: its own default.
      download: whether TFDS may fetch files that are missing.
      checksums: file name -> sha256 that files must have in place of the published ones, when
        they are built.
      crop: (top, left, height, width) to keep, in pixels. Posterior Matching's faces are
        crop=(45, 25, 128, 128), size=(64, 64).
      size: (height, width) to resize to.
      antialias: whether resizing averages over the pixels that a new one covers. False is
        TensorFlow's default and what Posterior Matching's code does: two pixels an axis.
      invert: whether to swap dark and bright: Omniglot's ink becomes bright, as MNIST's is.
      binarise: threshold in (0, 1), as a share of 255: pixels above it become 1, others 0.
      valid_rows: training rows set aside for validation.
      seed: of that choice.
      max_train_rows, max_valid_rows, max_test_rows: keep so many rows at most; None: all.

    Raises:
      ValueError: another name, an option out of range, a file that is not the published one,
        or more images than fit into memory (`MAX_BYTES`).
      FileNotFoundError: files are missing; the message says which, and where to get them.
      ConnectionError: they may be fetched, but their server does not answer.
    """
    name = str(name).removeprefix("tfds:")
    if name not in NAMES:
        near = difflib.get_close_matches(name.lower(), NAMES, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"There are no images {name!r}; there are {list(NAMES)}.{hint}")
    limits = {"train": max_train_rows, "valid": max_valid_rows, "test": max_test_rows}
    for part, limit in limits.items():
        if limit is not None:
            _check_whole(f"max_{part}_rows", limit, 1)
    _check_whole("valid_rows", valid_rows, 0)
    number = isinstance(binarise, int | float) and not isinstance(binarise, bool)
    if binarise is not None and not (number and 0.0 < binarise < 1.0):
        raise ValueError(f"tfds_images.binarise is a threshold in (0, 1), got {binarise!r}.")
    folder = pathlib.Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
    builder = _built(name, files_dir, folder, download, checksums)
    shape = builder.info.features["image"].shape
    change = _Change(crop, size, antialias, invert, binarise)
    shape = change.shape_of(name, shape)
    rows = _choose_rows(name, builder.info.splits, valid_rows, seed, limits)
    _check_memory(name, shape, {part: len(chosen) for part, (_, chosen) in rows.items()})
    top = 255 if binarise is None else 1
    channels = None if shape[2] == 1 else shape[2]
    schema = ImageSchema(shape[0], shape[1], channels, 0, top)
    parts = {
        part: _dataset(_read(builder, split, chosen, change, schema), schema)
        for part, (split, chosen) in rows.items()
    }
    return Splits(**parts)


@dataclasses.dataclass(frozen=True)
class _Change:
    """What is done to each image; see `tfds_images`."""

    crop: Sequence[int] | None
    size: Sequence[int] | None
    antialias: bool
    invert: bool
    binarise: float | None

    def shape_of(self, name, shape):
        """(H, W, C) of what comes out; refuses options that do not fit the images."""
        height, width, channels = shape
        if self.crop is not None:
            _check_wholes("crop", "(top, left, height, width)", 4, self.crop)
            top, left, tall, wide = self.crop
            fits = 0 <= top < top + tall <= height and 0 <= left < left + wide <= width
            if not fits:
                raise ValueError(
                    f"tfds_images.crop = {tuple(self.crop)}, as (top, left, height, width), "
                    f"reaches out of the {height} x {width} pixels of {name}; give a part of "
                    f"them."
                )
            height, width = tall, wide
        if self.size is not None:
            _check_wholes("size", "(height, width), both at least 1", 2, self.size)
            if min(self.size) < 1:
                raise ValueError(
                    f"tfds_images.size is (height, width), both at least 1, got {self.size}."
                )
            height, width = self.size
        return int(height), int(width), channels

    def __call__(self, image):
        """uint8 [h, w, C] -> uint8 [H, W, C]."""
        if self.crop is not None:
            image = tf.image.crop_to_bounding_box(image, *self.crop)
        if self.size is not None:
            resized = tf.image.resize(image, self.size, "bilinear", antialias=self.antialias)
            image = tf.cast(tf.clip_by_value(tf.round(resized), 0.0, 255.0), tf.uint8)
        if self.invert:
            image = 255 - image
        if self.binarise is not None:
            image = tf.cast(tf.cast(image, tf.float32) > 255.0 * self.binarise, tf.uint8)
        return image


def _check_whole(option, value, least):
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(
            f"tfds_images.{option} is a whole number of at least {least}, got {value!r}."
        )


def _check_wholes(option, meaning, count, values):
    """Refuses what is not so many whole numbers."""
    listed = isinstance(values, Sequence) and not isinstance(values, str)
    whole = listed and all(isinstance(v, int) and not isinstance(v, bool) for v in values)
    if not whole or len(values) != count:
        raise ValueError(
            f"tfds_images.{option} is {meaning}, whole numbers of pixels; got {values!r}."
        )


def published_files(name: str) -> dict[str, tuple[str, int, str]]:
    """file name -> (address, size in bytes, sha256), as TFDS has them on record."""
    wanted = None
    if name == "omniglot":
        wanted = {file for file, _ in OmniglotCharacters.PARTS.values()}
    return {
        info.filename: (url, int(info.size), info.checksum)
        for url, info in tfds.builder_cls(name).url_infos.items()
        if wanted is None or info.filename in wanted
    }


def _built(name, files_dir, data_dir, download, checksums):
    """A builder of a data set that lies in `data_dir`, after building it where needed."""
    cls = OmniglotCharacters if name == "omniglot" else tfds.builder_cls(name)
    place = data_dir / cls.name / str(cls.VERSION)
    if not (place / "dataset_info.json").is_file():
        found, missing = _find_files(name, files_dir, data_dir)
        _check_files(name, found, checksums)
        if missing:
            _check_fetchable(name, missing, files_dir, data_dir, download)
        builder = cls(data_dir=os.fspath(data_dir))
        downloads = data_dir / "downloads"
        by_hand = os.fspath(_manual_dir(found, missing, downloads, name))
        builder.download_and_prepare(
            download_dir=os.fspath(downloads),
            download_config=tfds.download.DownloadConfig(manual_dir=by_hand),
        )
    return tfds.builder_from_directory(place)


def _cached_path(name, downloads, url, digest):
    """Where TFDS looks for a file before it fetches it."""
    return downloads / name / resource.get_dl_fname(url, digest)


def _find_files(name, files_dir, data_dir):
    """{file: path} of the original files that exist, {file: address} of those that do not."""
    found, missing = {}, {}
    folders = []
    if files_dir is not None:
        base = pathlib.Path(files_dir).expanduser()
        folders = [base / name, base]
    for file, (url, _, digest) in published_files(name).items():
        places = [folder / file for folder in folders]
        places.append(_cached_path(name, data_dir / "downloads", url, digest))
        path = next((path for path in places if path.is_file()), None)
        if path is None:
            missing[file] = url
        else:
            found[file] = path.resolve()
    return found, missing


def _check_files(name, found, checksums):
    """Compares files with their published size and sha256, or with the sha256 given."""
    published = published_files(name)
    for file in checksums or ():
        if file not in published:
            raise ValueError(
                f"tfds_images.checksums names {file!r}, but {name} is made of "
                f"{list(published)}; name those."
            )
    for file, path in found.items():
        _, size, digest = published[file]
        given = (checksums or {}).get(file)
        # The size first: a cut file is found without reading a gigabyte.
        if given is None and path.stat().st_size != size:
            raise ValueError(
                f"{path} has {path.stat().st_size} bytes, but {file} of {name} has {size}; it "
                f"is another file, or was cut: get it again. If it is meant to differ, say so "
                f"with tfds_images.checksums, file name: sha256 of what you have."
            )
        own = sha256_of(path)
        if own != (given or digest).lower():
            whose = "published" if given is None else "given"
            raise ValueError(
                f"{path} has sha256 {own}, but the {whose} one is {given or digest}; get the "
                f"file again, or, if it is meant to differ, say so with "
                f"tfds_images.checksums = {{{file!r}: {own!r}}}."
            )


def _check_fetchable(name, missing, files_dir, data_dir, download):
    """Refuses, within a second, what TFDS would try to fetch for three minutes."""
    looked = [str(data_dir / "downloads" / name)]
    if files_dir is not None:
        base = pathlib.Path(files_dir).expanduser()
        looked = [str(base / name), str(base), *looked]
    what = (
        f"{name} is not built yet, and of its files {', '.join(missing)} "
        f"{'is' if len(missing) == 1 else 'are'} missing; looked in {', '.join(looked)}."
    )
    where = f"They are at {', '.join(missing.values())}."
    if name == "omniglot" or not download:
        fetch = (
            " (tfds_images.download plays no part: nothing fetches these)"
            if name == "omniglot"
            else ", or let TFDS fetch them: tfds_images.download = True"
        )
        raise FileNotFoundError(
            f"{what} {where} Say where you keep them with tfds_images.files_dir{fetch}."
        )
    for host in sorted({urllib.parse.urlparse(url).netloc for url in missing.values()}):
        if not _answers(host):
            raise ConnectionError(
                f"{what} {where} They cannot be fetched, as {host} does not answer; get them "
                f"where there is a network, and say where they are with "
                f"tfds_images.files_dir."
            )


def _answers(host: str) -> bool:
    """Whether a web server accepts a connection within `REACH_SECONDS`."""
    reached = threading.Event()

    def connect():
        try:
            with socket.create_connection((host, 443), timeout=REACH_SECONDS):
                reached.set()
        except OSError:
            return  # The event stays unset, which is the answer.

    # In a thread: looking up a name has no time limit of its own.
    threading.Thread(target=connect, daemon=True).start()
    return reached.wait(REACH_SECONDS)


def _manual_dir(found, missing, downloads, name):
    """Puts the files where TFDS takes them for fetched; returns a folder for manual ones."""
    if name == "omniglot":
        # Under one roof, as the builder reads them; by their names, wherever they come from.
        folder = downloads / "manual" / name
        folder.mkdir(parents=True, exist_ok=True)
        for file, path in found.items():
            _link(path, folder / file)
        return folder
    for file, (url, _, digest) in published_files(name).items():
        if file in missing:
            continue
        place = _cached_path(name, downloads, url, digest)
        place.parent.mkdir(parents=True, exist_ok=True)
        _link(found[file], place)
        note = json.dumps({"dataset_names": [name], "urls": [url]})
        place.with_name(place.name + ".INFO").write_text(note)
    folder = downloads / "manual"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _link(path, place):
    if place.exists() and place.resolve() == path:
        return
    place.unlink(missing_ok=True)
    try:
        place.symlink_to(path)
    except OSError:  # A file system without links.
        shutil.copyfile(path, place)


def _choose_rows(name, splits, valid_rows, seed, limits):
    """{part: (split of TFDS, row numbers int64 in ascending order)}."""
    num_train = splits["train"].num_examples
    train = np.arange(num_train)
    if "validation" in splits:
        source = "validation"
        valid = np.arange(splits["validation"].num_examples)
    elif valid_rows < num_train:
        source = "train"
        order = np.random.default_rng(seed).permutation(num_train)
        valid, train = order[:valid_rows], order[valid_rows:]
    else:
        raise ValueError(
            f"tfds_images.valid_rows = {valid_rows} leaves none of the {num_train} training "
            f"images of {name}; ask for fewer."
        )
    rows = {"train": train, "valid": valid, "test": np.arange(splits["test"].num_examples)}
    sources = {"train": "train", "valid": source, "test": "test"}
    return {
        part: (sources[part], np.sort(chosen[: limits[part]])) for part, chosen in rows.items()
    }


def _check_memory(name, shape, counts):
    # x is float32 and raw uint8 an entry, present one byte a pixel.
    an_image = shape[0] * shape[1] * (5 * shape[2] + 1)
    total = an_image * sum(counts.values())
    if total > MAX_BYTES:
        raise ValueError(
            f"{name} as {sum(counts.values())} images of {' x '.join(map(str, shape))} would "
            f"take {total / 2**30:.1f} GB of memory, and {MAX_BYTES / 2**30:.0f} GB are the "
            f"limit, as all are held at once; set tfds_images.max_train_rows, max_valid_rows "
            f"and max_test_rows to {MAX_BYTES // an_image} images together, or a smaller size."
        )


def _read(builder, split, chosen, change, schema):
    """The chosen images of a split, changed: uint8 [N, *schema.shape]."""
    images = np.empty((len(chosen), *schema.shape), np.uint8)
    keep = np.zeros(builder.info.splits[split].num_examples, bool)
    keep[chosen] = True
    feature = builder.info.features["image"]
    data = builder.as_dataset(
        split=split,
        shuffle_files=False,
        decoders=tfds.decode.PartialDecoding(
            {"image": True}, decoders={"image": tfds.decode.SkipDecoding()}
        ),
    )
    keep = tf.data.Dataset.from_tensor_slices(keep)
    data = tf.data.Dataset.zip(data, keep).filter(lambda _, kept: kept)
    data = data.map(
        lambda example, _: change(feature.decode_example(example["image"])),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    end = 0
    for batch in data.batch(ROWS_AT_ONCE).prefetch(1):
        start, end = end, end + len(batch)
        images[start:end] = batch.numpy().reshape(-1, *schema.shape)
    if end != len(images):
        raise ValueError(
            f"{builder.data_path} holds {end} of the {len(images)} images asked for of its "
            f"split {split!r}: it is damaged. Remove that folder to build it anew."
        )
    return images


def _dataset(images, schema):
    """A Dataset; converted a part at a time, as float64 copies of all would not fit."""
    x = np.empty(images.shape, np.float32)
    present = np.empty(images.shape[:3], bool)
    for start in range(0, len(images), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        x[part], present[part] = schema.to_model(images[part])
    return Dataset(x, present, images, schema)
