"""Set-up shared by all tests: quiet TensorFlow, two logical CPUs, no gin state left behind."""

import os

import gin
import pytest
from absl import flags

from vae_arbcond.cli.common import quiet_stderr

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.


# On import TensorFlow 2.21 logs what it finds no matter the level above, from C++, and pytest
# would print that after its own last line.
with quiet_stderr():
    import tensorflow as tf

    # Devices cannot be split once TensorFlow's runtime has started, so all tests get two
    # logical CPUs; those without a tf.distribute strategy run on the first, as ever.
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )

# tf.test.TestCase.create_tempdir reads a flag, and pytest never parses absl's flags.
flags.FLAGS.mark_as_parsed()


def pytest_collection_modifyitems(items):
    # Every tf.test.TestCase inherits a method called test_session, which is no test.
    items[:] = [item for item in items if getattr(item, "originalname", "") != "test_session"]


@pytest.fixture(autouse=True)
def clear_gin():
    yield
    gin.clear_config()
