"""Archives of pictures: unpacked whole or not at all, and never over anything."""

import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path

from dataset import DataError
from segmentation.pictures.listing import SYSTEM, list_pictures

MAX_ARCHIVE_BYTES, MAX_FILES = 2_000_000_000, 20_000  # of an archive; BUSI: 0.3 GB, 1578 files


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


def unpack_archive(archive: Path, folder: Path) -> None:
    """Unpack a zip into `folder`, or nothing at all. What is there already is never replaced.

    Raises:
        DataError: a member is there already, the archive unpacks to far more than BUSI, or it is no zip.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [m for m in opened.infolist() if not (m.is_dir() or m.filename.startswith(SYSTEM[1:]))]
            if len(members) > MAX_FILES or sum(m.file_size for m in members) > MAX_ARCHIVE_BYTES:
                raise DataError(f"{archive}: unpacks to far more than BUSI. If you trust it, unpack it yourself.")
            # Beside the target, so that a kill leaves nothing that looks like the data.
            with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as temporary:
                for member in members:
                    member.filename = member.filename.replace("\\", "/")  # as old tools for Windows write
                    opened.extract(member, temporary)  # which leaves no folder, and makes no links
                tops = sorted(Path(temporary).iterdir())
                if here := [top.name for top in tops if (folder / top.name).exists()]:
                    raise DataError(f"{archive}: holds {here[0]}, which is in {folder} already. Move one of them away.")
                for top in tops:
                    shutil.move(top, folder / top.name)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise DataError(f"{archive}: cannot be unpacked ({error}). Download it again.") from error
    except OSError as error:
        raise DataError(f"{archive}: cannot be unpacked ({error}). Unpack it yourself.") from error
