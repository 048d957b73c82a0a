"""How a script ends after an error or a signal: with one line that names the file, and without a traceback."""

import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dataset import DataError

HINTS = {
    "Free some space, or choose a folder on another disk.": (errno.ENOSPC, errno.EDQUOT),
    "The system does not allow a file of this size: see ulimit -f.": (errno.EFBIG,),
    "You have no permission for it: choose another folder, or have the permission changed.": (
        errno.EACCES,
        errno.EPERM,
    ),
    "The disk is read-only: choose a folder on another disk.": (errno.EROFS,),
    "There is a file where a folder should be: choose a folder.": (errno.EEXIST, errno.ENOTDIR),
    "There is a folder where a file should be: choose another name.": (errno.EISDIR, errno.ENOTEMPTY),
    "It is a link where a file should be, or links lead in a circle: remove it.": (errno.ELOOP,),
    "Choose a shorter name.": (errno.ENAMETOOLONG,),
    "Too many files are open: see ulimit -n.": (errno.EMFILE, errno.ENFILE),
}
LATE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # errors that occur in the middle of the work
STOPS = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP


class RunError(Exception):
    """A run folder cannot be used; the message names the file and says what to do."""


class Stopped(KeyboardInterrupt):
    """Raised on SIGTERM (a cluster sends it before SIGKILL) and SIGHUP (the terminal was closed), as for Ctrl-C."""


@contextmanager
def one_clear_line(to_go_on: str = "") -> Iterator[None]:
    """End with one line and exit code 1 after an error that the user can mend, and with 128 + number after a signal.

    Args:
        to_go_on: a sentence about what was saved and how to go on, for signals and for a full or failing disk.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file name may contain bytes that are not UTF-8; and each line should reach a log file at once.
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    try:
        with _signals_as_exceptions():
            yield
        sys.stdout.flush()
    except (DataError, RunError) as error:
        sys.exit(f"error: {error}")
    except MemoryError:
        sys.exit("error: out of memory. Close other programs, or use a larger machine.")
    except BrokenPipeError:  # `| head -1` has read enough: end with the exit code of SIGPIPE, as other programs do
        sys.exit(128 + 13)
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        late = to_go_on if error.errno in LATE else ""
        sys.exit(f"error: {named}{error.strerror or error}. {hint(error)} {late}".rstrip())
    except KeyboardInterrupt as stop:
        with suppress(OSError):  # the terminal may be closed
            print(f"\nstopped. {to_go_on}".rstrip(), file=sys.stderr, flush=True)
        sys.exit(128 + (stop.args[0] if isinstance(stop, Stopped) else signal.SIGINT))
    finally:
        try:
            sys.stdout.flush()
        except OSError:  # the reader has gone; otherwise Python would try to write the rest once more
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def hint(error: OSError) -> str:
    """What a user can do about an OSError; "" if that is not known."""
    if isinstance(error.filename, str | Path) and os.path.islink(error.filename) and not os.path.exists(error.filename):
        return "It is a link to nothing: mend or remove it."
    return next((text for text, numbers in HINTS.items() if error.errno in numbers), "")


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, SIGTERM and SIGHUP raise `Stopped`; ignored signals (nohup) stay ignored."""

    def stop(number: int, frame: object) -> None:
        raise Stopped(number)

    earlier = {}
    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in STOPS if hasattr(signal, name)):
            if signal.getsignal(number) == signal.SIG_DFL:
                handler = signal.default_int_handler if number == signal.SIGINT else stop
                earlier[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
