"""How a script ends when something is wrong: one line that names the file, exit code 1, never a traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from dataset import DataError


class RunError(Exception):
    """A run folder cannot be used; the message names the file and says what to do."""


@contextmanager
def one_clear_line(hint: str = "Free some space, or choose a folder that can be written.") -> Iterator[None]:
    """Turn what a user can mend into one line.

    Args:
        hint: what to do about a file that cannot be read or written.
    """
    sys.stdout.reconfigure(errors="backslashreplace")  # a file may be named by bytes that are no text
    try:
        yield
    except (DataError, RunError) as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        sys.exit(f"error: {named}{error.strerror or error}. {hint}")
    except KeyboardInterrupt:
        sys.exit(130)
