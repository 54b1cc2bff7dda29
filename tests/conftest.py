"""Set-up shared by all tests: quiet TensorFlow, two logical CPUs, no gin state left behind."""

import contextlib
import os
import pathlib
import sys
import tempfile

import gin
import pytest
from absl import flags

CHECKOUT = pathlib.Path(__file__).resolve().parents[1]
SHARED_DATA = CHECKOUT.parent / "shared" / "data"

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.


@contextlib.contextmanager
def quiet_stderr():
    """Keeps back what is written to file descriptor 2, unless the block fails."""
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(original, kept.read())
            raise
        finally:
            os.dup2(original, 2)
            os.close(original)


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


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder of real data sets beside this checkout; skips where there is none."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the data sets in {SHARED_DATA}, which this machine does not have")
    return SHARED_DATA
