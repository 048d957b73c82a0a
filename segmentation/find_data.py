"""Where the data comes from: a folder, BUSI's archive as Kaggle ships it, a download, or simulated pictures."""

import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from dataset import CLASSES, SUFFIXES, DataError, Sample
from segmentation.layouts import list_files
from segmentation.phantoms import MARKER, write_phantoms

KAGGLE_HANDLE = "aryashah2k/breast-ultrasound-images-dataset"
BUSI_FOLDER = "Dataset_BUSI_with_GT"
FEWEST_PICTURES = 20  # of a zip that is taken for data
BUSI_COUNTS = {"benign": (437, 454), "malignant": (210, 211), "normal": (133, 133)}  # images, mask files
PHANTOM_IMAGES = 160  # how many pictures are simulated where BUSI cannot be had
MAX_BYTES, MAX_FILES, MAX_RATIO = 2_000_000_000, 20_000, 100  # BUSI: 0.3 GB, 1578 files


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
        if not data_dir.is_dir():
            raise DataError(f"{data_dir}: no such folder. Give --data-dir the folder that holds Dataset_BUSI_with_GT.")
        if (root := _find_root(data_dir)) is None:
            raise DataError(
                f"{data_dir}: found no images with masks here, in {BUSI_FOLDER}/ or in a zip. data/README.md says "
                "which layouts are read."
            )
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


def find_or_draw(data_dir: Path | None, seed: int) -> tuple[Path, bool]:
    """As `find_data`, but where no data can be had, phantoms are drawn in `data/` with that seed, and a banner says so.

    Returns:
        The folder, and whether it holds such phantoms.
    """
    root = find_data(data_dir)
    if root is not None:
        return root, False
    line = "!" * 100
    print(
        f"{line}\nNO BREAST ULTRASOUND DATA: training on SIMULATED images (segmentation/phantoms.py). The result says\n"
        "nothing about patients. To use BUSI, see data/README.md, then: python train_model.py --data-dir FOLDER\n"
        f"{line}",
        flush=True,
    )
    root = Path("data") / f"phantoms-{PHANTOM_IMAGES}-seed{seed}"
    if not (root / MARKER).exists():  # written last: the folder is whole
        write_phantoms(root, PHANTOM_IMAGES, seed)
    return root, True


def data_source(root: Path, samples: Sequence[Sample]) -> str:
    """ "phantom", "busi" (the published counts) or "custom": stands in every file of a run."""
    if any((folder / MARKER).exists() for folder in {root, *(s.image.parent.parent for s in samples)}):
        return "phantom"
    counts = {label: [len(s.masks) for s in samples if s.label == label] for label in CLASSES}
    if {label: (len(masks), sum(masks)) for label, masks in counts.items()} == BUSI_COUNTS:
        return "busi"
    if any(s.name == "benign (1)" for s in samples):
        images, masks = (sum(n) for n in zip(*BUSI_COUNTS.values(), strict=True))
        here = f"{len(samples)} images and {sum(len(s.masks) for s in samples)} masks"
        print(f"note: {root} holds {here}; BUSI has {images} and {masks}.")
    return "custom"


def _find_root(folder: Path, deep: bool = True) -> Path | None:
    """BUSI's folder in this one, or this one; not `deep`: this one only if it holds images/ or classes itself."""
    for root in (folder / BUSI_FOLDER / BUSI_FOLDER, folder / BUSI_FOLDER):
        if root.is_dir() and list_files(root).masks:
            return root
    here = {path.name.casefold() for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()
    if (deep or here & {"images", *CLASSES}) and list_files(folder).masks:
        return folder
    archives = [path for path in sorted(folder.glob("*.zip")) if _holds_pictures(path)]
    if len(archives) > 1:
        raise DataError(
            f"{folder}: holds several archives of pictures, {archives[0].name} first. Unpack the one to use."
        )
    if archives:
        print(f"unpacking {archives[0]}")
        unpack_archive(archives[0], folder)
        return _find_root(folder) if any(path.is_dir() for path in folder.iterdir()) else None
    return None


def _holds_pictures(archive: Path) -> bool:
    try:
        with zipfile.ZipFile(archive) as opened:
            return sum(name.lower().endswith(SUFFIXES) for name in opened.namelist()) >= FEWEST_PICTURES
    except (zipfile.BadZipFile, OSError):
        return archive.stat().st_size > 0  # unpacking says what is wrong with it


def unpack_archive(archive: Path, folder: Path) -> None:
    """Unpack the PNG files of BUSI's zip into `folder`, or nothing at all.

    Raises:
        DataError: a member would leave the folder, is a link, or the archive unpacks to far more
            than BUSI; or it is no zip.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [m for m in opened.infolist() if not m.is_dir()]
            _check_members(archive, members)
            # Beside the target, so that a kill leaves nothing that looks like the data.
            with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as temporary:
                for member in members:
                    opened.extract(member, temporary)
                for top in Path(temporary).iterdir():
                    if not (folder / top.name).exists():
                        shutil.move(top, folder / top.name)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise DataError(f"{archive}: cannot be unpacked ({error}). Download it again.") from error


def _check_members(archive: Path, members: list[zipfile.ZipInfo]) -> None:
    if len(members) > MAX_FILES or sum(m.file_size for m in members) > MAX_BYTES:
        raise DataError(f"{archive}: unpacks to far more than BUSI. Refused.")
    for member in members:
        parts = re.split(r"[\\/]", member.filename)
        if ".." in parts or member.filename.startswith(("/", "\\")) or ":" in parts[0]:
            raise DataError(f"{archive}: member {member.filename!r} would be written outside the folder. Refused.")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise DataError(f"{archive}: member {member.filename!r} is a link. Refused.")
        if member.file_size > MAX_RATIO * max(member.compress_size, 1) and member.file_size > 1_000_000:
            raise DataError(f"{archive}: member {member.filename!r} is compressed more than {MAX_RATIO}:1. Refused.")
