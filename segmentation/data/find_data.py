"""Where the data of a training lie: a folder, BUSI's zip in it, a download of BUSI, or the sample."""

import zipfile
from pathlib import Path

from dataset import CLASSES, DataError, how_to_import, is_busi, is_plain
from segmentation.importing.archives import list_archives, unpack_archive

KAGGLE_HANDLE = "aryashah2k/breast-ultrasound-images-dataset"
BUSI_FOLDER = "Dataset_BUSI_with_GT"
SAMPLE = Path(__file__).parents[2] / "data" / "sample"  # images of BUS-BRA that come with the repository


def find_data(data_dir: Path | None) -> Path:
    """Folder that `dataset.find_samples` reads; BUSI's zip is unpacked first.

    Args:
        data_dir: a folder named by the user; or None for BUSI in `data/`, then a download from Kaggle, then `SAMPLE`.

    Raises:
        DataError: the named folder holds no such data. A folder that was named is never replaced.
    """
    if data_dir is None:
        return _find_root(Path("data")) or _download() or _take_sample()
    if data_dir.is_file():
        raise DataError(f"{data_dir}: is a file. Give --data-dir the folder that it lies in.")
    if not data_dir.is_dir():
        raise DataError(f"{data_dir}: no such folder. Give --data-dir the folder that holds the images.")
    if is_plain(data_dir):
        return data_dir
    if (root := _find_root(data_dir)) is None:
        raise DataError(f"{data_dir}: {how_to_import(data_dir)}")
    if root != data_dir:
        print(f"reading {root}")
    return root


def _find_root(folder: Path) -> Path | None:
    """BUSI in a folder, or in its zip."""
    if (root := _find_busi(folder)) or not folder.is_dir():
        return root
    held = {path: _holds_busi(path) for path in list_archives(folder)}
    # One that is damaged is unpacked if there is no other, which says what is wrong.
    archives = [path for path, holds in held.items() if holds] or [p for p, holds in held.items() if holds is None][:1]
    if len(archives) > 1:
        names = ", ".join(path.name for path in archives)
        raise DataError(f"{folder}: holds several archives of BUSI ({names}). Unpack the one to use.")
    if not archives:
        return None
    print(f"unpacking {archives[0]}")
    unpack_archive(archives[0], folder)
    return _find_busi(folder)


def _find_busi(folder: Path) -> Path | None:
    roots = (folder / BUSI_FOLDER / BUSI_FOLDER, folder / BUSI_FOLDER, folder)
    return next(filter(is_busi, roots), None)


def _holds_busi(archive: Path) -> bool | None:
    """Whether an archive holds folders of BUSI's classes; None if it is damaged."""
    try:
        with zipfile.ZipFile(archive) as opened:
            return any(set(Path(name).parts[:-1]) & set(CLASSES) for name in opened.namelist())
    except (zipfile.BadZipFile, OSError):
        return None


def _download() -> Path | None:
    try:
        import kagglehub  # only needed once, and slow to import

        print(f"data/ holds no BUSI: downloading {KAGGLE_HANDLE} from Kaggle", flush=True)
        return _find_root(Path(kagglehub.dataset_download(KAGGLE_HANDLE)))
    except Exception as error:  # kagglehub raises many kinds; whatever it is, the run goes on and says why
        told = str(error).splitlines()[0][:160] if str(error) else ""
        print(f"The download failed ({type(error).__name__}: {told}).")
        return None


def _take_sample() -> Path:
    images = len(list((SAMPLE / "images").glob("*.png")))
    print(f"NO BUSI: training on {images} lesion images of BUS-BRA in data/sample, for a first look.")
    print("To use BUSI, see data/README.md, then: python train_model.py --data-dir FOLDER", flush=True)
    return SAMPLE
