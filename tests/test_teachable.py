"""Training rows and masks that teach nothing are refused in a sentence, for every method."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from vae_arbcond import networks, teachable, training
from vae_arbcond.conditioners import GAIN, VAEAC, UniversalMarginalizer
from vae_arbcond.data.pipeline import make_splits
from vae_arbcond.data.sources import Source
from vae_arbcond.distributions import (
    Bernoulli,
    DiagonalGaussian,
    DiscretizedLogistic,
    MixedColumns,
)
from vae_arbcond.masks import BernoulliMask
from vae_arbcond.models import VAE
from vae_arbcond.shapes import DataSpec
from vae_arbcond.skip_networks import (
    SkipConvDecoder,
    SkipConvEncoder,
    SkipMlpDecoder,
    SkipMlpEncoder,
)

METHODS = {
    "VAEAC": lambda: VAEAC(
        2, SkipMlpEncoder(4, 1), networks.mlp((4,)), SkipMlpDecoder(4, 1), MixedColumns()
    ),
    "UniversalMarginalizer": lambda: UniversalMarginalizer(networks.mlp((4,)), MixedColumns()),
    "GAIN": lambda: GAIN(networks.mlp((4,)), networks.mlp((4,))),
}


@pytest.fixture(params=list(METHODS))
def method(request):
    return METHODS[request.param]()


def splits():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({name: rng.normal(size=40) for name in "abc"})
    frame["kind"] = np.array(["low", "mid", "high"])[rng.integers(3, size=40)]
    return make_splits(Source("toy", frame), seed=0)


def changed(change):
    """Splits whose training rows `change(x, present)` has touched."""
    data = splits()
    x, present = data.train.x.copy(), data.train.present.copy()
    change(x, present)
    return data._replace(train=dataclasses.replace(data.train, x=x, present=present))


def train(tmp_path, method, data, mask=0.5, **options):
    return training.train(
        run_dir=str(tmp_path / "run"),
        conditioner=method,
        data=data,
        mask=BernoulliMask(mask),
        validation_mask=BernoulliMask(0.5),
        validation_samples=2,
        num_steps=2,
        batch_size=8,
        verbose=options.get("verbose", 0),
    )


def test_rows_with_everything_missing_are_left_out_and_counted(tmp_path, capsys):
    def empty_some(x, present):
        present[3:5] = False
        x[3:5] = np.nan

    # Before any method is asked: one is enough.
    method = METHODS["UniversalMarginalizer"]()
    result = train(tmp_path, method, changed(empty_some), verbose=2)
    assert "2 of 24 training rows hold no value at all and are left out." in (
        capsys.readouterr().out
    )
    assert all(np.isfinite(w).all() for w in result.conditioner.get_weights())


def test_nothing_but_such_rows_is_refused(tmp_path, method):
    def empty(x, present):
        present[:] = False

    with pytest.raises(ValueError, match="None of the 24 training rows holds a single value"):
        train(tmp_path, method, changed(empty))
    assert not (tmp_path / "run").exists()  # Nothing blocks the next try.


def test_a_column_that_is_missing_in_all_training_rows_is_named(tmp_path, method):
    def empty_column(x, present):
        present[:, 1] = False

    with pytest.raises(ValueError, match="No training row has a value in 'b', so nothing"):
        train(tmp_path, method, changed(empty_column))


def test_a_training_mask_that_hides_nothing_is_refused(tmp_path, method):
    with pytest.raises(ValueError, match=r"mask BernoulliMask.* hides nothing"):
        train(tmp_path, method, splits(), mask=1.0)


def test_gain_refuses_a_training_mask_that_shows_nothing():
    with pytest.raises(ValueError, match=r"BernoulliMask.* hides all that is present"):
        teachable.check_mask(METHODS["GAIN"](), splits().train, BernoulliMask(0.0), 0)


def test_a_mask_that_seldom_hides_something_is_let_pass():
    # 8 x 24 x 4 cells, each hidden with probability 0.05: none in e-39 of all seeds.
    mask, data = BernoulliMask(0.95), splits().train
    teachable.check_mask(METHODS["UniversalMarginalizer"](), data, mask, 0)


def test_a_level_beyond_the_head_s_size_is_named(tmp_path, method):
    def spoil(x, present):
        x[2, 3] = 3.0

    message = r"x\[2, 3\] is 3 where present is True, but column 3 is categorical"
    with pytest.raises(ValueError, match=message):
        train(tmp_path, method, changed(spoil))
    method = type(method).from_config(method.get_config())
    method.create_variables(splits().train.spec)
    x = np.array([[0.0, 0.0, 0.0, 7.0]], np.float32)
    with pytest.raises(ValueError, match="whole numbers from 0 to 2"):
        method.impute(x, np.ones([1, 4], bool), 2, [0, 0])


def test_a_decoder_that_ends_at_another_size_than_the_images_is_named():
    model = VAE(
        2,
        networks.conv_encoder(((2, 3, 2),)),
        DiagonalGaussian(2),
        networks.conv_decoder((2, 2, 2), ((2, 3, 2),)),
        Bernoulli(per_feature=True),
    )
    with pytest.raises(ValueError, match="maps of 4 x 4, but the images are 28 x 28"):
        model.create_variables(DataSpec((28, 28)))


@pytest.mark.parametrize("shape", [(28, 28), (5, 7), (128, 128, 3)])
def test_skip_networks_take_images_of_any_size(shape):
    method = VAEAC(
        2,
        SkipConvEncoder((2, 2)),
        SkipConvEncoder((2, 2)),
        SkipConvDecoder((2, 2)),
        DiscretizedLogistic(4, 1, per_feature=True),
    )
    method.create_variables(DataSpec(shape[:2], shape[2:]))
    x, nothing = np.zeros([1, *shape], np.float32), np.zeros([1, *shape[:2]], bool)
    assert method.impute(x, nothing, 1, [0, 0]).shape == (1, 1, *shape)
