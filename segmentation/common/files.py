"""Reading and writing files: atomically, with size limits, without replacing foreign files, and with a folder lock."""

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

MAX_BYTES = 40_000_000  # largest table or JSON file that is read


def write_atomic(path: Path, write: Callable[[Path], object], sync: bool = True) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: `path` is never half-written.

    A symbolic link at `path` is replaced; its target is not changed.

    Args:
        sync: wait until the file is on the disk (fsync), so that it survives a power cut; False for many files.
    """
    with _beside(path) as temporary:
        write(temporary)
        if sync:
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())
        os.replace(temporary, path)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """The path of a temporary file beside `path`, which is removed afterwards; errors name `path`."""
    temporary = path.with_name(f".writing-{uuid.uuid4().hex[:8]}-{path.name}")  # two processes may write at once
    try:
        yield temporary
    except OSError as error:
        # The error of a full disk names no file, and other errors name the temporary one.
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _path_as_text(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r} cannot be written as JSON")


def to_json(content: dict) -> str:
    """The text of a JSON file; NaN raises a ValueError, since JSON has none."""
    return json.dumps(content, indent=1, allow_nan=False, default=_path_as_text) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 atomically."""
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="backslashreplace"))


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file atomically."""
    write_text(path, to_json(content))


def encode_picture(path: Path, pixels: np.ndarray) -> bytes:
    """Encode an (H, W) or (H, W, 3) BGR uint8 picture in the format of the path's ending.

    `cv2.imwrite` is not used: it does not report a full disk, and cannot open a non-ASCII path on Windows.

    Raises:
        DataError: the format does not allow a picture of this size.
    """
    encoded, content = cv2.imencode(path.suffix, pixels)
    if not encoded:
        raise DataError(f"{path}: {pixels.shape[1]}x{pixels.shape[0]} pixels cannot be written in this format.")
    return content.tobytes()


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """Write a picture in the format of the path's ending, atomically."""
    content = encode_picture(path, pixels)
    write_atomic(path, lambda temporary: temporary.write_bytes(content), sync=False)


# ---------------------------------------------------------------- read


def check_file(path: Path, limit: int = MAX_BYTES) -> None:
    """Refuse a path that is not safe to read whole.

    Raises:
        RunError: the file is missing, larger than `limit` bytes, or not a regular file but a folder, pipe or device.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        hint = f"Is {path.parent} the folder of a run? train_model.py makes one."
        raise RunError(f"{path}: no such file. {hint}") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}).") from None
    if not stat.S_ISREG(status.st_mode):
        raise RunError(f"{path}: is not a regular file.")
    if status.st_size > limit:
        raise RunError(f"{path}: larger than {limit // 10**6} MB, which is the limit.")


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not a finite number")


def read_json(path: Path) -> dict:
    """Read a JSON object.

    Raises:
        RunError: the file is missing, too large, or does not hold a JSON object.
    """
    check_file(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: cannot be read as JSON ({error}).") from None
    if not isinstance(content, dict):
        raise RunError(f"{path}: holds no JSON object.")
    return content


def content_hash(content: bytes) -> str:
    """First 16 hexadecimal digits of the SHA-256."""
    return hashlib.sha256(content).hexdigest()[:16]


# ---------------------------------------------------------------- checks before a long computation


def try_writing(path: Path) -> None:
    """Check that a file can be written later: make its folder, and write and remove a temporary file there.

    Raises:
        RunError: the path is a folder; OSError: a file cannot be written there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise RunError(f"{path}: is a folder, but a file of this name is to be written.")
    with _beside(path) as temporary:
        temporary.write_bytes(b"")


def check_space(folder: Path, needed: int) -> None:
    """Check that the disk has enough free space.

    Args:
        folder: where files are to be written; the files that it holds are going to be replaced.
        needed: total size of the new files in bytes.

    Raises:
        RunError: there is less free space.
    """
    needed -= sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RunError(
            f"{folder}: {free / 1e6:.0f} MB are free, and up to {needed / 1e6:.0f} MB are to be written. Free some "
            "space, or choose a folder on another disk."
        )


# ---------------------------------------------------------------- names, owners and locks


def numbered(path: Path) -> Iterator[Path]:
    """The path itself, then the path with -2, -3, ... appended: candidates until one is free."""
    path = path if path.name.strip(".") else path.resolve()  # "." and ".." have no name of their own
    yield path
    for number in count(2):
        yield path.with_name(f"{path.name}-{number}")


def comparable(name: str) -> str:
    """A normalised name: some file systems ignore case, and the Unicode form of accented letters."""
    return unicodedata.normalize("NFC", name).casefold()


def check_output(path: Path, is_ours: Callable[[Path], bool]) -> None:
    """As `try_writing`; an existing file must also be one that the same script wrote earlier.

    Args:
        path: the file.
        is_ours: tells whether the existing file is such a file.

    Raises:
        RunError, OSError: the file cannot be written, or would replace a foreign file.
    """
    try_writing(path)
    if os.path.lexists(path) and not is_ours(path):
        raise RunError(f"{path}: exists already, and was not written by this script. Move it, or choose another place.")


def json_holds(*keys: str) -> Callable[[Path], bool]:
    """Make an `is_ours` for `check_output`: the file is a JSON object with all of these keys."""

    def holds(path: Path) -> bool:
        try:
            return set(keys) <= set(read_json(path))
        except RunError:
            return False

    return holds


@contextmanager
def lock_folder(folder: Path, holder: str) -> Iterator[int]:
    """Lock a folder; the operating system releases the lock when the process ends, even if it is killed.

    Args:
        folder: an existing folder.
        holder: what locks it, such as "training", for the message.

    Yields:
        The descriptor of the lock file: the folder stays locked as long as any process has it open.

    Raises:
        RunError: another process has locked it.
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
        if error.errno != errno.ENOSYS:  # some network file systems have no locks
            raise
        return True
