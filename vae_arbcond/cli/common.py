"""What every command shares: one sentence instead of a traceback, and a clean exit code."""

import os
import sys
from collections.abc import Callable

# TensorFlow's start-up notes are not for users of a command; its errors still show.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def start(main: Callable[[list[str]], None], command: str) -> None:
    """Runs `main` under absl; a user's mistake ends in one sentence and exit code 1.

    Args:
      main: takes the arguments left over by the flags.
      command: the command's name, for the message.
    """
    from absl import app, flags, logging  # Here: the environment must be set first.

    def guarded(argv):
        if len(argv) > 1:
            raise app.UsageError(f"Did not understand {' '.join(argv[1:])!r}.")
        if flags.FLAGS["verbosity"].using_default_value:
            logging.set_verbosity(logging.WARNING)  # Libraries tell users' terminals a lot.
        try:
            main(argv)
        except KeyboardInterrupt:
            print(f"\n{command}: interrupted.", file=sys.stderr)
            sys.exit(130)
        except (ValueError, TypeError, OSError, RuntimeError) as error:
            if os.environ.get("ARBCOND_TRACEBACK"):
                raise
            print(f"{command}: {_sentence(error)}", file=sys.stderr)
            sys.exit(1)

    app.run(guarded)


def _sentence(error: BaseException) -> str:
    """The message without the lines that gin adds about where it was called."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    kept = [line for line in lines if not line.lstrip().startswith("In call to configurable")]
    hint = "" if _is_ours(error) else " (ARBCOND_TRACEBACK=1 shows where.)"
    return "\n".join(kept) + hint


def _is_ours(error: BaseException) -> bool:
    """Whether the message was written for users: raised by this package itself."""
    trace = error.__traceback__
    if trace is None:
        return True
    while trace.tb_next is not None:
        trace = trace.tb_next
    return "vae_arbcond" in trace.tb_frame.f_globals.get("__name__", "")
