"""Every picture below a folder, and what is passed over."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from dataset import DataError, natural_order
from segmentation.pictures.picture_files import is_picture

MAX_DEPTH = 8  # folders within folders
PREDICTIONS = "predictions.csv"  # the table beside the results of `visualize_results.py --images`
RESULT_ENDINGS = ("_overlay.jpg", "_mask.png", "_probability.png")  # of a picture's results
SYSTEM = (".", "__MACOSX", "@", "$")  # how the folders begin that systems leave behind


def list_pictures(root: Path) -> tuple[list[Path], list[Path]]:
    """Every picture below a folder, sorted, and what is passed over. A folder that links lead to is listed once.

    Raises:
        DataError: a folder cannot be listed, or lies too deep.
    """

    def refuse(error: OSError):
        raise DataError(f"{error.filename}: cannot be listed ({error.strerror}).")

    pictures, strays, tops, seen = [], [], [root], set()
    home = {root.resolve(), *root.resolve().parents}  # a link back would lead to other people's pictures
    for top in tops:  # links come last, so that a folder is found under its own name
        for folder, folders, names in os.walk(top, onerror=refuse):
            here, state = Path(folder), os.stat(folder)
            found = [here / name for name in sorted(folders)]
            if (state.st_dev, state.st_ino) in seen:
                folders.clear()
                continue
            if len(here.relative_to(root).parts) > MAX_DEPTH:
                raise DataError(f"{here}: lies more than {MAX_DEPTH} folders deep. Name a folder nearer to the data.")
            seen.add((state.st_dev, state.st_ino))
            links = [path for path in found if path.is_symlink()]
            around = {path for path in links if path.resolve() in home}
            strays += [path for path in found if path in around or path.name.startswith(SYSTEM)]
            tops += [path for path in links if not (path in around or path.name.startswith(SYSTEM))]
            folders[:] = [p.name for p in found if not (p in links or p.name.startswith(SYSTEM))]
            for path in (here / name for name in names if name != ".lock"):  # of corrections.py
                (pictures if _may_be_read(path) else strays).append(path)
    return sorted(pictures, key=natural_order), sorted(strays)


def _may_be_read(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    try:
        return stat.S_ISREG(path.stat().st_mode) and is_picture(path)  # a pipe would be waited for, for ever
    except OSError:
        return True  # a link to nothing: reading it says so


def shown(paths: Sequence[Path]) -> str:
    """A few names, in text that can be printed."""
    names = [path.name.encode(errors="backslashreplace").decode() for path in paths[:3]]
    return ", ".join(names) + (", ..." if len(paths) > 3 else "")
