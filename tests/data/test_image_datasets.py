"""Image data sets: miniatures built with TFDS, the real ones where their files are."""

import gzip
import hashlib
import pathlib
import time
import zipfile

import gin
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.image_classification import mnist as tfds_mnist

from vae_arbcond import config
from vae_arbcond.data import image_datasets
from vae_arbcond.data.image_datasets import OmniglotCharacters, tfds_images

SHARED = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data"
TRAIN, TEST = 40, 12


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Fails at once where something asks for a file that is not there."""

    def refuse(*arguments, **options):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(tfds.download.DownloadManager, "_download", refuse)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digits(folder):
    """Writes four files of MNIST's format; returns the images and the files' sha256."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    images = {}
    for part, prefix, count in (("train", "train", TRAIN), ("test", "t10k", TEST)):
        images[part] = rng.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        pixels, labels = bytes(16) + images[part].tobytes(), bytes(8 + count)
        for file, content in (("images-idx3", pixels), ("labels-idx1", labels)):
            path = folder / f"{prefix}-{file}-ubyte.gz"
            path.write_bytes(gzip.compress(content, mtime=0))
    return images, {path.name: sha256(path) for path in folder.iterdir()}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with a built miniature of MNIST, its images, its files and their sha256."""
    folder = tmp_path_factory.mktemp("images")
    images, sums = digits(folder / "files" / "mnist")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfds_mnist, "_TRAIN_EXAMPLES", TRAIN)
        patch.setattr(tfds_mnist, "_TEST_EXAMPLES", TEST)
        tfds_images(
            "mnist", str(folder / "files"), str(folder / "built"), checksums=sums, valid_rows=1
        )
    return folder, images, sums


def load(built, **options):
    return tfds_images(
        "mnist", data_dir=str(built[0] / "built"), **({"valid_rows": 8} | options)
    )


def test_the_name_may_say_where_it_is_from_and_a_slip_is_told(built):
    told = tfds_images("tfds:mnist", data_dir=str(built[0] / "built"), valid_rows=8)
    np.testing.assert_array_equal(told.test.x, load(built).test.x)
    with pytest.raises(ValueError, match=r"no images 'minst'.* Did you mean 'mnist'"):
        tfds_images("minst")


def as_set(images):
    return {image.tobytes() for image in images}


def test_built_images_are_those_of_the_files(built):
    train, valid, test = load(built)
    assert [len(part) for part in (train, valid, test)] == [TRAIN - 8, 8, TEST]
    assert as_set([*train.raw, *valid.raw]) == as_set(built[1]["train"])
    assert as_set(test.raw) == as_set(built[1]["test"])
    for part in (train, valid, test):
        assert part.raw.dtype == np.uint8 and part.raw.shape[1:] == (28, 28)
        np.testing.assert_allclose(part.x, part.raw / 255.0, atol=1e-7)  # float32
        assert part.x.dtype == np.float32 and part.present.all()
        np.testing.assert_array_equal(part.schema.to_user(part.x), part.raw)


def test_a_built_data_set_needs_its_files_no_more(built, tmp_path):
    missing = str(tmp_path / "nothing")
    assert as_set(load(built, files_dir=missing).test.raw) == as_set(built[1]["test"])


def test_validation_rows_depend_on_the_seed_and_not_on_the_limits(built):
    first = load(built, seed=1)
    assert as_set(first.valid.raw) == as_set(load(built, seed=1, max_train_rows=3).valid.raw)
    assert as_set(first.valid.raw) != as_set(load(built, seed=2).valid.raw)
    np.testing.assert_array_equal(first.train.raw, load(built, seed=1).train.raw)


def test_limits_keep_so_many_rows(built):
    splits = load(built, max_train_rows=5, max_valid_rows=3, max_test_rows=100)
    assert [len(part) for part in splits] == [5, 3, TEST]


def test_options_change_pixels_in_their_order(built):
    plain = load(built).test.raw.astype(np.float32)
    cropped = load(built, crop=(2, 4, 20, 16)).test.raw
    np.testing.assert_array_equal(cropped, plain[:, 2:22, 4:20])
    # Exactly half the size: without antialiasing each pixel is the mean of the four in its
    # middle, which here are all it covers. Halves are rounded to even.
    small = load(built, size=(14, 14)).test.raw
    means = plain.reshape(TEST, 14, 2, 14, 2).mean((2, 4))
    np.testing.assert_array_equal(small, np.rint(means))
    inverted = load(built, invert=True).test.raw
    np.testing.assert_array_equal(inverted, 255 - plain)
    splits = load(built, size=(14, 14), invert=True, binarise=0.5)
    np.testing.assert_array_equal(splits.test.raw, 255 - np.rint(means) > 127.5)
    assert splits.test.schema.maximum == 1
    np.testing.assert_array_equal(splits.test.x, splits.test.raw)


def test_antialiasing_averages_over_all_pixels(built):
    plain, smooth = (
        load(built, size=(7, 7), antialias=how).test.x.std() for how in (False, True)
    )
    # Noise of one standard deviation: means of 4 pixels against means of 16 and more.
    assert smooth < 0.7 * plain


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"crop": (2, 4, 28, 16)}, "reaches out of the 28 x 28 pixels"),
        ({"crop": (2, 4)}, "crop is (top, left, height, width)"),
        ({"size": (0, 4)}, "size is (height, width)"),
        ({"binarise": 128}, "threshold in (0, 1)"),
        ({"binarise": "half"}, "threshold in (0, 1), got 'half'"),
        ({"size": 28}, "size is (height, width)"),
        ({"size": (14.5, 14)}, "whole numbers of pixels; got (14.5, 14)"),
        ({"crop": (0.0, 0, 10, 10)}, "whole numbers of pixels"),
        ({"max_test_rows": 10.5}, "max_test_rows is a whole number of at least 1, got 10.5"),
        ({"max_test_rows": 0}, "max_test_rows is a whole number of at least 1, got 0"),
        ({"valid_rows": TRAIN}, f"leaves none of the {TRAIN} training images"),
        ({"valid_rows": -1}, "valid_rows is a whole number of at least 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(built, options, words):
    with pytest.raises(ValueError) as info:
        load(built, **options)
    assert words in str(info.value) and "\n" not in str(info.value)


def test_more_images_than_memory_are_refused_with_a_number_that_fits(built, monkeypatch):
    monkeypatch.setattr(image_datasets, "MAX_BYTES", 6 * 28 * 28 * 20)
    with pytest.raises(ValueError, match="max_test_rows to 20 images together"):
        load(built)
    load(built, max_train_rows=6, max_valid_rows=4, max_test_rows=10)


def test_faces_of_celeb_a_are_too_many_for_one_array():
    with pytest.raises(ValueError, match=r"celeb_a as 202599 images of 128 x 128 x 3 .*4 GB"):
        image_datasets._check_memory("celeb_a", (128, 128, 3), {"train": 202_599})
    # As Posterior Matching sees them, 64 x 64: still too many, so limits are named.
    with pytest.raises(ValueError, match="max_train_rows"):
        image_datasets._check_memory("celeb_a", (64, 64, 3), {"train": 162_770})


@pytest.mark.parametrize("name", image_datasets.NAMES)
def test_missing_files_are_one_sentence_within_a_second(name, tmp_path):
    image_datasets.published_files(name)  # TFDS reads its tables once a process.
    started = time.perf_counter()
    with pytest.raises(FileNotFoundError) as info:
        tfds_images(name, str(tmp_path / "here"), str(tmp_path / "built"))
    assert time.perf_counter() - started < 1
    message = str(info.value)
    assert "\n" not in message and str(tmp_path / "here" / name) in message
    for file, (url, _, _) in image_datasets.published_files(name).items():
        assert file in message and url in message
    assert not (tmp_path / "built").exists()


def test_a_server_that_does_not_answer_is_one_sentence_within_a_second(tmp_path, monkeypatch):
    answers = image_datasets._answers
    # An address that is kept free for documents (RFC 5737), in place of the server's.
    monkeypatch.setattr(image_datasets, "_answers", lambda host: answers("192.0.2.1"))
    started = time.perf_counter()
    with pytest.raises(ConnectionError, match=r"storage.googleapis.com does not answer"):
        tfds_images("mnist", data_dir=str(tmp_path), download=True)
    assert time.perf_counter() - started < 1


def test_a_file_that_is_not_the_published_one_is_refused(tmp_path):
    _, sums = digits(tmp_path / "mnist")

    def refused(**options):
        with pytest.raises(ValueError) as info:
            tfds_images("mnist", str(tmp_path), str(tmp_path / "built"), **options)
        assert not (tmp_path / "built").exists()
        return str(info.value)

    # Of the four files the first one that differs is named.
    assert "it is another file, or was cut" in refused()
    wrong = dict.fromkeys(sums, "0" * 64)
    message = refused(checksums=wrong)
    assert "the given one is 000" in message and "tfds_images.checksums = {" in message
    assert "'train.gz'" in refused(checksums={"train.gz": "0" * 64})


def test_a_file_of_the_right_size_and_other_contents_is_refused(tmp_path):
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(bytes(4542))
    with pytest.raises(ValueError, match="but the published one is f7ae60f9"):
        tfds_images("mnist", str(tmp_path), str(tmp_path / "built"))


def test_an_unknown_name_is_explained():
    with pytest.raises(ValueError, match="'fashion_mnist'"):
        tfds_images("fashion")


# Omniglot, whose builder is ours.


def characters(folder, count=3):
    """Writes two zips of 1-bit PNGs; returns their images by split, and their sha256."""
    folder.mkdir(parents=True)
    rng, images = np.random.default_rng(1), {}
    for split, (file, _) in OmniglotCharacters.PARTS.items():
        ink = rng.integers(0, 2, (count, 105, 105), np.uint8) * 255
        images[split] = ink
        with zipfile.ZipFile(folder / file, "w") as archive:
            archive.writestr("images/readme.txt", "no image")
            for i, image in enumerate(ink):
                png = tf.io.encode_png(image[..., np.newaxis]).numpy()
                archive.writestr(f"images/Alphabet/character01/0001_{i:02}.png", png)
    return images, {path.name: sha256(path) for path in folder.iterdir()}


def test_omniglot_is_built_from_its_zips(tmp_path, monkeypatch):
    images, sums = characters(tmp_path / "files" / "omniglot")
    where = (str(tmp_path / "files"), str(tmp_path / "built"))
    with pytest.raises(ValueError, match="holds 3 images instead of 19280"):
        tfds_images("omniglot", *where, checksums=sums)
    few = {split: (file, 3) for split, (file, _) in OmniglotCharacters.PARTS.items()}
    monkeypatch.setattr(OmniglotCharacters, "PARTS", few)
    splits = tfds_images("omniglot", *where, checksums=sums, valid_rows=1)
    assert as_set([*splits.train.raw, *splits.valid.raw]) == as_set(images["train"])
    assert as_set(splits.test.raw) == as_set(images["test"])


# The gin files, and the real data.


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "omniglot"])
def test_a_gin_file_names_the_data_set_and_needs_only_a_folder(name, tmp_path):
    config.load([f"data/{name}.gin"], [f'tfds_images.files_dir = "{tmp_path}/none"'])
    assert gin.query_parameter("tfds_images.name") == name
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/none/{name}"):
        gin.get_configurable("tfds_images")(data_dir=str(tmp_path))


# Of the archives in ../shared/data, which were packed anew.
OMNIGLOT = {
    "background": "73392f163d63797878faeec7decf1bc6ced46036c50e8ac42e3f13f9ccfb830d",
    "evaluation": "ba69d2208cb8de088e4c70008e91bfb1dbf158f467c60044067832f4a86fa477",
}


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_the_real_files_are_the_published_ones(name):
    if not (SHARED / name).is_dir():
        pytest.skip(f"needs {SHARED / name}")
    found, missing = image_datasets._find_files(name, str(SHARED), SHARED / "none")
    assert len(found) == 4 and not missing
    image_datasets._check_files(name, found, None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "counts", "mean"),
    [
        # Mean brightness of the training images, as everybody normalises them.
        ("mnist", (55_000, 5_000, 10_000), 0.1307),
        ("fashion_mnist", (55_000, 5_000, 10_000), 0.2860),
        ("omniglot", (14_280, 5_000, 13_180), None),
    ],
)
def test_the_real_data_sets_are_built(name, counts, mean, tmp_path):
    if not (SHARED / name).is_dir():
        pytest.skip(f"needs {SHARED / name}")
    config.load([f"data/{name}.gin"], [f'tfds_images.files_dir = "{SHARED}"'])
    sums = {f"images_{part}.zip": digest for part, digest in OMNIGLOT.items()}
    checksums = sums if name == "omniglot" else None
    build = gin.get_configurable("tfds_images")
    splits = build(data_dir=str(tmp_path), checksums=checksums, max_valid_rows=None)
    assert tuple(len(part) for part in splits) == counts
    assert splits.train.x.shape[1:] == (28, 28)
    if mean is not None:
        whole = np.concatenate([splits.train.raw, splits.valid.raw])
        assert abs(whole.mean() / 255 - mean) < 5e-5  # as it is printed
