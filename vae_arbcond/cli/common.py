"""What every command shares: one sentence instead of a traceback, and a clean exit code."""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator

LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_FOR_USERS = (ValueError, TypeError, OSError, RuntimeError)  # What messages are raised as.

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # Keras prints its messages in bold.
_KERAS = re.compile(r"Exception encountered when calling .*\n\n(.*)")
_NOT_SET = re.compile(r"(\w+)\(\) missing \d+ required positional arguments?: (.*)")
_ROW = re.compile(r"\brow \d+ holds\b")  # How the schema names a cell.


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
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


def import_tensorflow() -> None:
    """Imports TensorFlow without its start-up notes, which are not for users of a command.

    TensorFlow 2.21 logs what it finds, from C++, no matter the log level. Who sets the
    environment variable TF_CPP_MIN_LOG_LEVEL, to look for a GPU that is not found, say, sees
    everything.
    """
    if LOG_LEVEL in os.environ:
        import tensorflow  # noqa: F401

        return
    os.environ[LOG_LEVEL] = "2"
    with quiet_stderr():
        import tensorflow as tf

        tf.config.list_physical_devices()  # Looking for devices is logged, too.


def start(main: Callable[[list[str]], None], command: str) -> None:
    """Runs `main` under absl; a user's mistake ends in one sentence and exit code 1.

    Args:
      main: takes the arguments left over by the flags.
      command: the command's name, for the message.
    """
    from absl import app, flags, logging

    def guarded(argv):
        if len(argv) > 1:
            raise app.UsageError(f"Did not understand {' '.join(argv[1:])!r}.")
        import_tensorflow()
        if not flags.FLAGS["verbosity"].present:  # absl changes its default by itself.
            logging.set_verbosity(logging.WARNING)  # Libraries tell users' terminals a lot.
        try:
            main(argv)
        except KeyboardInterrupt:
            print(f"\n{command}: interrupted.", file=sys.stderr)
            sys.exit(130)
        except Exception as error:
            if os.environ.get("ARBCOND_TRACEBACK"):
                raise
            print(f"{command}: {_sentence(error)}", file=sys.stderr)
            sys.exit(1)

    app.run(guarded)


def _sentence(error: BaseException) -> str:
    """What to tell the user: our own message, or another's made short."""
    message = str(error).strip()
    if missing := _NOT_SET.search(message):
        owner, names = missing.groups()
        first = f"{owner}.{names.split(',')[0].strip(chr(39))}"
        return f"{first} is not set; add --gin_param='{first} = ...' or put it in a gin file."
    # Gin adds lines about where it was called.
    lines = [line for line in message.splitlines() if "In call to configurable" not in line]
    message = _COLOUR.sub("", "\n".join(lines))
    if wrapped := _KERAS.search(message):
        message = wrapped[1]
    elif _is_ours(error):
        rows = " (Rows count from 0, below the header.)" if _ROW.search(message) else ""
        return message + rows
    # Nobody wrote this for users: the first line, and the type without which some say little.
    first = (message.splitlines() or [""])[0]
    return f"{type(error).__name__}: {first} (ARBCOND_TRACEBACK=1 shows where.)"


def _is_ours(error: BaseException) -> bool:
    """Whether the message was written for users: raised by this package itself."""
    trace = error.__traceback__
    if trace is None:
        return True
    while trace.tb_next is not None:
        trace = trace.tb_next
    names = trace.tb_frame.f_globals
    # Of a module run with python -m, whose own name is __main__, the specification knows it.
    module = getattr(names.get("__spec__"), "name", None) or names.get("__name__", "")
    return isinstance(error, _FOR_USERS) and module.startswith("vae_arbcond")
