"""JSON, pictures and other small files, written whole or not at all."""

import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from segmentation.errors import RunError

MAX_JSON_BYTES = 20_000_000


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then put it in place: `path` is never half-written."""
    temporary = path.with_name(f".writing-{uuid.uuid4().hex[:8]}-{path.name}")  # two processes may write at once
    try:
        write(temporary)
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


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file, whole or not at all; NaN is refused, since it is no JSON."""
    text = json.dumps(content, indent=1, allow_nan=False, default=_path_as_text) + "\n"
    write_atomic(path, lambda temporary: temporary.write_text(text))


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """Write an (H, W) or (H, W, 3) BGR uint8 picture in the format of the path's ending.

    Not by `cv2.imwrite`, which says nothing of a full disk, and cannot open a non-ASCII path on Windows.
    """
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())


def read_json(path: Path) -> dict:
    """Read a JSON object.

    Raises:
        RunError: the file is missing, too large, or no JSON object.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise RunError(f"{path}: larger than {MAX_JSON_BYTES // 10**6} MB. Refused.")
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise RunError(f"{path}: no such file. Is {path.parent} the folder of a run?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: cannot be read as JSON ({error}).") from None
    if not isinstance(content, dict):
        raise RunError(f"{path}: holds no JSON object.")
    return content
