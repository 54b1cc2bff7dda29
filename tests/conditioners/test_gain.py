"""GAIN: the contract, its losses by hand, and what it refuses."""

import keras
import tensorflow as tf
from contract import ArbitraryConditionerContract, TrainableContract

from vae_arbcond import networks
from vae_arbcond.conditioners import (
    GAIN,
)
from vae_arbcond.shapes import DataSpec

SEED = tf.constant([3, 4])
MIXED = DataSpec((4,), levels=(0, 3, 0, 2), counts=(0.0, 0.0, 4.0, 0.0))


def gain(spec=MIXED, **options):
    keras.utils.set_random_seed(0)
    made = GAIN(networks.mlp((16,)), networks.mlp((16,)), **options)
    return made.create_variables(spec, 0)


class GainOnNumbersTest(ArbitraryConditionerContract, TrainableContract, tf.test.TestCase):
    @classmethod
    def make(cls):
        return gain(DataSpec((4,)))


class GainOnMixedColumnsTest(
    ArbitraryConditionerContract, TrainableContract, tf.test.TestCase
):
    @classmethod
    def make(cls):
        # With the contract's weak noise, no draw of one level would ever differ.
        return gain(MIXED, noise_scale=3.0)


class GainOnColourImagesTest(
    ArbitraryConditionerContract, TrainableContract, tf.test.TestCase
):
    @classmethod
    def make(cls):
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Conv2D(4, 3, padding="same", activation="relu")]
        made = GAIN(
            keras.Sequential(list(layers)), networks.conv_encoder(((4, 3, 2),)), alpha=1.0
        )
        return made.create_variables(DataSpec((3, 2), (3,)), 0)
