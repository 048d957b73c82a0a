"""Where results are written: nothing of somebody else's is replaced, and one process writes at a time."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import lock_descriptor

from segmentation.errors import RunError
from segmentation.files import read_json, try_writing


def check_output(path: Path, is_ours: Callable[[Path], bool]) -> None:
    """As `try_writing`, and nothing of somebody else's lies there.

    Args:
        path: the file.
        is_ours: whether an earlier call of the same script wrote the file that is there.

    Raises:
        RunError, OSError: it cannot be written, or there is a file that we did not write.
    """
    try_writing(path)
    if os.path.lexists(path) and not is_ours(path):
        raise RunError(f"{path}: is there already, and not by this script. Move it, or choose another place.")


def json_holds(*keys: str) -> Callable[[Path], bool]:
    """For `check_output`: whether a file is a JSON object with all of these keys."""

    def holds(path: Path) -> bool:
        try:
            return set(keys) <= set(read_json(path))
        except RunError:
            return False

    return holds


@contextmanager
def lock_folder(folder: Path, holder: str) -> Iterator[int]:
    """Hold a folder; the operating system lets go of it when the process dies, however it dies.

    Args:
        folder: it must exist.
        holder: what this process is, for the message.

    Yields:
        The lock's descriptor: the folder is held as long as any process has it open.

    Raises:
        RunError: another process holds it.
    """
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        if not _lock(descriptor):
            raise RunError(f"{folder}: another {holder} is writing here. Wait for it, or choose another folder.")
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        return lock_descriptor(descriptor, blocking=False)
    except OSError as error:
        if error.errno != errno.ENOSYS:  # some clusters' disks have no locks
            raise
        return True
