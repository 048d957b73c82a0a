"""Where the data comes from: a folder, a zip of pictures in it, or a download of BUSI."""

import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from pathlib import Path

from dataset import READERS, SUFFIXES, DataError
from segmentation.importing.layouts import SYSTEM, describe_pictures, list_pictures
from segmentation.importing.pairing import class_of, place_of, said_by, understand_layout

KAGGLE_HANDLE = "aryashah2k/breast-ultrasound-images-dataset"
BUSI_FOLDER = "Dataset_BUSI_with_GT"
MAX_ARCHIVE_BYTES, MAX_FILES = 2_000_000_000, 20_000  # of an archive; BUSI: 0.3 GB, 1578 files
MAX_RATIO, SMALL = 100, 20_000_000  # how far a file may be compressed, but for an empty mask of so many bytes


def find_data(data_dir: Path | None) -> Path | None:
    """Folder that holds images with masks, in any layout of data/README.md; a zip of them is unpacked first.

    Args:
        data_dir: a folder named by the user, or None for `data/`, then a download from Kaggle.

    Returns:
        The folder, or None if `data_dir` is None, `data/` is empty and the download failed.

    Raises:
        DataError: the named folder holds no data, or several archives. A folder that was named is never replaced.
    """
    if data_dir is not None:
        if data_dir.is_file():
            raise DataError(f"{data_dir}: is a file. Give --data-dir the folder that it lies in.")
        if not data_dir.is_dir():
            raise DataError(
                f"{data_dir}: no such folder. Give --data-dir the folder that holds the images and their masks."
            )
        if (root := _find_root(data_dir)) is None:
            raise DataError(f"{data_dir}: {_describe(data_dir)} data/README.md says which layouts are read.")
        if root != data_dir:
            print(f"reading {root}")
        return root
    if (root := _find_root(Path("data"), deep=False)) is not None:
        return root
    try:
        import kagglehub  # only needed once, and slow to import

        print(f"data/ holds no BUSI: downloading {KAGGLE_HANDLE} from Kaggle", flush=True)
        return _find_root(Path(kagglehub.dataset_download(KAGGLE_HANDLE)))
    except Exception as error:  # kagglehub raises many kinds; whatever it is, the run goes on and says why
        print(
            f"The download failed ({type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''})."
        )
        return None


def unpack_source(path: Path, temporary: Path) -> Path:
    """A folder as it is; an archive, or the one in a folder without pictures, is unpacked into `temporary`.

    Raises:
        DataError: there is no such folder, or the archive cannot be unpacked.
    """
    if path.is_dir():
        held = [] if list_pictures(path)[0] else _archives(path)
        if len(held) != 1:
            return path
        path = held[0]
    if not path.is_file():
        raise DataError(f"{path}: no such folder or archive.")
    if path.suffix.lower() != ".zip":
        raise DataError(f"{path}: is no folder and no zip. Give the folder of images and masks; unpack other archives.")
    unpack_archive(path, temporary)
    return temporary


def _find_root(folder: Path, deep: bool = True) -> Path | None:
    """The data's folder in this one, or this one; not `deep`: this one only if its own folders say that it is data."""
    if (root := _find_folder(folder, deep)) or not folder.is_dir():
        return root
    held = {archive: _list_archive(archive) for archive in _archives(folder)}
    archives = [path for path, names in held.items() if names and understand_layout(names, Path(), look_inside=False)]
    if len(archives) > 1:
        names = ", ".join(path.name for path in archives)
        raise DataError(f"{folder}: holds several archives of images with masks ({names}). Unpack the one to use.")
    damaged = [path for path, names in held.items() if names is None]
    if not archives and damaged:
        raise DataError(f"{damaged[0]}: cannot be unpacked. Download it again.")
    if not archives:
        return None
    print(f"unpacking {archives[0]}")
    unpack_archive(archives[0], folder)
    return _find_folder(folder)


def _find_folder(folder: Path, deep: bool = True) -> Path | None:
    for root in (folder / BUSI_FOLDER / BUSI_FOLDER, folder / BUSI_FOLDER):
        if root.is_dir() and _holds_data(root):
            return root
    here = [(path.name,) for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    says = any(said_by(name) or class_of(place_of(name)) != "lesion" for name in here)
    return folder if (deep or says) and _holds_data(folder) else None


def _holds_data(folder: Path) -> bool:
    return understand_layout(list_pictures(folder)[0], folder) is not None


def _describe(folder: Path) -> str:
    """What a folder holds in which no data was found."""
    pictures, others = list_pictures(folder)
    if pictures:
        return describe_pictures(pictures, others, folder)
    archives = ", ".join(path.name for path in _archives(folder))
    return f"found no images with masks here{f', nor in {archives}' if archives else ''}."


def _archives(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() == ".zip" and path.is_file())


def _list_archive(archive: Path) -> list[Path] | None:
    """The pictures in an archive; None if it is damaged."""
    try:
        with zipfile.ZipFile(archive) as opened:
            names = [Path(member.filename.replace("\\", "/")) for member in _members(opened)]
    except (zipfile.BadZipFile, OSError):
        return None
    return [name for name in names if name.suffix.lower() in (*SUFFIXES, *READERS) and not name.is_absolute()]


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
            tops = {Path(m.filename).parts[0] for m in members if m.filename.lower().endswith((*SUFFIXES, *READERS))}
            if here := sorted(top for top in tops if (folder / top).exists()):
                raise DataError(f"{archive}: holds {here[0]}, which is in {folder} already. Move one of them away.")
            # Beside the target, so that a kill leaves nothing that looks like the data.
            with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as temporary:
                for member in members:
                    opened.extract(member, temporary)
                for top in Path(temporary).iterdir():
                    if not (folder / top.name).exists():
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
