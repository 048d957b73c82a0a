"""Archives of pictures: unpacked whole or not at all, and never over anything."""

import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from pathlib import Path

from dataset import DataError
from segmentation.pictures.listing import SYSTEM, list_pictures

MAX_ARCHIVE_BYTES, MAX_FILES = 2_000_000_000, 20_000  # of an archive; BUSI: 0.3 GB, 1578 files
MAX_RATIO, SMALL = 100, 20_000_000  # how far a file may be compressed, but for an empty mask of so many bytes


def unpack_source(path: Path, temporary: Path) -> Path:
    """A folder as it is; an archive, or the one in a folder without pictures, is unpacked into `temporary`.

    Raises:
        DataError: there is no such folder, or the archive cannot be unpacked.
    """
    if path.is_dir():
        held = [] if list_pictures(path)[0] else list_archives(path)
        if len(held) != 1:
            return path
        path = held[0]
    if not path.is_file():
        raise DataError(f"{path}: no such folder or archive.")
    if path.suffix.lower() != ".zip":
        raise DataError(f"{path}: is no folder and no zip. Give the folder of images and masks; unpack other archives.")
    unpack_archive(path, temporary)
    return temporary


def list_archives(folder: Path) -> list[Path]:
    """The zip files in a folder."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() == ".zip" and path.is_file())


def _members(opened: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """An archive's files, without what systems leave behind."""
    return [m for m in opened.infolist() if not (m.is_dir() or m.filename.startswith(SYSTEM[1:]))]


def unpack_archive(archive: Path, folder: Path) -> None:
    """Unpack a zip into `folder`, or nothing at all. What is there already is never replaced.

    Raises:
        DataError: a member would leave the folder, is a link, is there already, or the archive unpacks to far more
            than BUSI; or it is no zip.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _members(opened)
            _check_members(archive, members)
            for member in members:
                member.filename = member.filename.replace("\\", "/")
            if here := sorted(top for top in {Path(m.filename).parts[0] for m in members} if (folder / top).exists()):
                raise DataError(f"{archive}: holds {here[0]}, which is in {folder} already. Move one of them away.")
            # Beside the target, so that a kill leaves nothing that looks like the data.
            with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as temporary:
                for member in members:
                    opened.extract(member, temporary)
                for top in Path(temporary).iterdir():
                    shutil.move(top, folder / top.name)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise DataError(f"{archive}: cannot be unpacked ({error}). Download it again.") from error
    except OSError as error:
        raise DataError(f"{archive}: cannot be unpacked ({error}). Unpack it yourself.") from error


def _check_members(archive: Path, members: list[zipfile.ZipInfo]) -> None:
    if len(members) > MAX_FILES or sum(m.file_size for m in members) > MAX_ARCHIVE_BYTES:
        raise DataError(f"{archive}: unpacks to far more than BUSI. Refused; unpack it yourself if you trust it.")
    for member in members:
        parts = re.split(r"[\\/]", member.filename)
        if ".." in parts or member.filename.startswith(("/", "\\")) or ":" in parts[0]:
            raise DataError(f"{archive}: member {member.filename!r} would be written outside the folder. Refused.")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise DataError(f"{archive}: member {member.filename!r} is a link. Refused.")
        if member.file_size > MAX_RATIO * max(member.compress_size, 1) and member.file_size > SMALL:
            raise DataError(f"{archive}: member {member.filename!r} is compressed more than {MAX_RATIO}:1. Refused.")
