"""Files: written whole or not at all, read within limits, never over somebody else's, by one process at a time."""

import errno
import hashlib
import json
import os
import shutil
import stat
import unicodedata
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import cv2
import numpy as np
from filelock import lock_descriptor

from dataset import DataError
from segmentation.common.errors import RunError

MAX_BYTES = 40_000_000  # of a table or a JSON file


def write_atomic(path: Path, write: Callable[[Path], object], sync: bool = True) -> None:
    """Let `write` fill a file beside `path`, then put it in place: `path` is never half-written.

    A link at `path` is replaced, and what it leads to left alone.

    Args:
        sync: wait until the disk has it, so that a power cut cannot take it; False where many files are written.
    """
    temporary = path.with_name(f".writing-{uuid.uuid4().hex[:8]}-{path.name}")  # two processes may write at once
    try:
        write(temporary)
        if sync:
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:
        # A full disk names no file, and the temporary one is nobody's business.
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _path_as_text(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r} is no JSON")


def to_json(content: dict) -> str:
    """The text of a JSON file; NaN is refused, since it is no JSON."""
    return json.dumps(content, indent=1, allow_nan=False, default=_path_as_text) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="backslashreplace"))


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, to_json(content))


def encode_picture(path: Path, pixels: np.ndarray) -> bytes:
    """What `path` is to hold: an (H, W) or (H, W, 3) BGR uint8 picture, in the format of the path's ending.

    Not `cv2.imwrite`, which says nothing of a full disk, and cannot open a non-ASCII path on Windows.

    Raises:
        DataError: the format holds no picture of this size.
    """
    encoded, content = cv2.imencode(path.suffix, pixels)
    if not encoded:
        raise DataError(f"{path}: {pixels.shape[1]}x{pixels.shape[0]} pixels cannot be written in this format.")
    return content.tobytes()


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """Write a picture as `encode_picture` makes it, whole or not at all."""
    content = encode_picture(path, pixels)
    write_atomic(path, lambda temporary: temporary.write_bytes(content), sync=False)


# ---------------------------------------------------------------- read


def check_file(path: Path, limit: int = MAX_BYTES) -> None:
    """Refuse what would fill the memory or never end.

    Raises:
        RunError: the path is missing, no regular file (but a folder, a pipe or a device), or larger than `limit` bytes.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise RunError(f"{path}: no such file. Is {path.parent} the folder of a run?") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}).") from None
    if not stat.S_ISREG(status.st_mode):
        raise RunError(f"{path}: is no file.")
    if status.st_size > limit:
        raise RunError(f"{path}: larger than {limit // 10**6} MB. Refused.")


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def read_json(path: Path) -> dict:
    """Read a JSON object.

    Raises:
        RunError: the file is missing, too large, or no JSON object.
    """
    check_file(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: cannot be read as JSON ({error}).") from None
    if not isinstance(content, dict):
        raise RunError(f"{path}: holds no JSON object.")
    return content


def file_hash(*paths: Path) -> str:
    """First 16 hexadecimal digits of the SHA-256 of what the files hold; their names do not matter."""
    return content_hash(*(path.read_bytes() for path in paths))


def content_hash(*contents: bytes) -> str:
    """`file_hash` of files that are not written yet."""
    return hashlib.sha256(b"".join(contents)).hexdigest()[:16]


# ---------------------------------------------------------------- before hours of work


def try_writing(path: Path) -> None:
    """Make the folder of a file that is to be written later, and a file in it.

    Raises:
        RunError: the path is a folder; OSError: nothing can be written there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise RunError(f"{path}: is a folder, and a file of this name is to be written.")
    temporary = path.with_name(f".writing-{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        temporary.write_bytes(b"")
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def check_space(folder: Path, needed: int) -> None:
    """Refuse to begin what would end on a full disk.

    Args:
        folder: where files are to be written; those that are there are replaced.
        needed: how many bytes they will have.

    Raises:
        RunError: that many bytes are not free there.
    """
    needed -= sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RunError(
            f"{folder}: {free / 1e6:.0f} MB are free, and up to {needed / 1e6:.0f} MB are to be written. Free some "
            "space, or choose a folder on another disk."
        )


# ---------------------------------------------------------------- whose files these are


def numbered(path: Path) -> Iterator[Path]:
    """The path, then with -2, -3, ... behind its name: places to try until one is free."""
    path = path if path.name.strip(".") else path.resolve()  # "." and ".." have no name
    yield path
    for number in count(2):
        yield path.with_name(f"{path.name}-{number}")


def comparable(name: str) -> str:
    """A name as disks compare it: to some, A and a are one, and so are two ways of writing an umlaut."""
    return unicodedata.normalize("NFC", name).casefold()


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
