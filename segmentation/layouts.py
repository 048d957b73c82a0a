"""Folders as people have them: from every file below a folder to samples with a class, and a line for every file that
cannot be one."""

import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import dataset
from dataset import CLASSES, READERS, SUFFIXES, DataError, Sample
from segmentation.mask_values import Understood, understand_masks
from segmentation.pairing import (
    Layout,
    bare_name,
    class_of,
    folders_of,
    natural_order,
    place_of,
    plain_name,
    shown,
    understand_layout,
)
from segmentation.pixel_depth import understand_depth

MAX_DEPTH = 8  # folders within folders
SYSTEM = (".", "__MACOSX", "@", "$")  # how the folders begin that systems leave behind


# ---------------------------------------------------------------- list


def list_pictures(root: Path) -> tuple[list[Path], list[Path]]:
    """Every picture below a folder, sorted, and what is passed over. A folder that links lead to is listed once.

    Raises:
        DataError: a folder cannot be listed, or lies too deep.
    """

    def refuse(error: OSError):
        raise DataError(f"{error.filename}: cannot be listed ({error.strerror}).")

    pictures, strays, tops, seen = [], [], [root], set()
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
            strays += [path for path in found if path.name.startswith(SYSTEM)]
            tops += [path for path in found if path.is_symlink() and not path.name.startswith(SYSTEM)]
            folders[:] = [p.name for p in found if not (p.is_symlink() or p.name.startswith(SYSTEM))]
            for path in (here / name for name in names):
                (pictures if _is_picture(path) else strays).append(path)
    return sorted(pictures, key=natural_order), sorted(strays)


def _is_picture(path: Path) -> bool:
    if path.name.startswith(".") or path.suffix.lower() not in (*SUFFIXES, *READERS):
        return False
    try:
        return stat.S_ISREG(path.stat().st_mode)  # a pipe would be waited for, for ever
    except OSError:
        return True  # a link to nothing: reading it says so


# ---------------------------------------------------------------- samples


def find_layout(root: Path, mask_values: Sequence[float] = ()) -> tuple[list[Sample], list[str]] | None:
    """Samples and problems of any folder, for `dataset.LAYOUTS`; None where it holds no picture at all.

    Prints how the masks and pictures of more than 8 bits are read, and how many files are passed over.

    Raises:
        DataError: no picture is the mask of another, or the masks cannot be understood; the message names a file.
    """
    pictures, others = list_pictures(root)
    layout = understand_layout(pictures, root)
    if not layout:
        if not pictures:
            return None
        raise DataError(f"{root}: {describe_pictures(pictures, root)}")
    if layout.guessed:
        masks = [mask for found in layout.masks.values() for mask in found]
        print(f"note: no name says what is a mask; {len(masks)} pictures are, by what they hold ({shown(masks)})")
    if others:
        print(f"note: {len(others)} other files in {root} are passed over ({shown(others)})")
    if layout.strays:
        print(f"note: {len(layout.strays)} pictures outside the folders of images are passed over "
              f"({shown(layout.strays)})")  # fmt: skip
    places = {path: place_of(folders_of(path, root)) for path in layout.images}
    apart = [
        mask for path, masks in layout.masks.items() for mask in masks
        if places[path] != (there := place_of(folders_of(mask, root))) and places[path] and there
    ]  # fmt: skip
    if apart:
        print(f"note: {len(apart)} masks lie in folders of other names than their images ({shown(apart)})")
    paired = [mask for masks in layout.masks.values() for mask in masks]
    understood = understand_masks(paired, mask_values)
    white = understand_depth(layout.images, paired)
    return _make_samples(layout, places, understood, white)


def describe_pictures(pictures: Sequence[Path], root: Path) -> str:
    """What a folder holds that has no masks, and what to do."""
    counts = Counter(str(path.parent.relative_to(root)) for path in pictures)
    held = ", ".join(f"{n} in {folder}/" for folder, n in counts.most_common(4))
    more = ", ..." if len(counts) > 4 else ""
    return (
        f"holds {len(pictures)} pictures ({held}{more}), {shown(pictures[:1])} first, but none is the mask of another. "
        "Name the masks as their images, in masks/, or with _mask behind the name."
    )


def _make_samples(layout: Layout, places: dict, understood: Understood, white: float | None):
    """Samples, and a line for every file that cannot be one."""
    problems = [
        f"{path}: mask without exactly one image of its name. Add the image, or remove it." for path in layout.lone
    ]
    counts = Counter(map(plain_name, layout.images))
    lost = _lost_firsts(layout)
    samples = []
    for path in layout.images:
        name, masks = unicodedata.normalize("NFC", path.stem), layout.masks.get(path, [])
        label = class_of(places[path])
        lesions = [understood.lesion[mask] for mask in masks]
        if problem := _problem(path, name, label, bool(masks) and path not in lost):
            problems.append(problem)
        elif unreadable := [line for line in lesions if isinstance(line, str)]:
            problems += unreadable
        else:
            name = " ".join([*places[path], name]) if counts[plain_name(path)] > 1 else name
            label = "normal" if label == "lesion" and not any(lesions) else label
            samples.append(Sample(name, label, path, tuple(masks), understood.reading, white))
    twice = [name for name, count in Counter(s.name for s in samples).items() if count > 1]
    problems += [f"{s.image}: the name {s.name!r} occurs twice. Rename one." for s in samples if s.name in twice]
    return samples, problems


def _lost_firsts(layout: Layout) -> set[Path]:
    """Images whose further masks, x_mask_1, are there without the first, x_mask, that others have beside them."""
    numbers = {
        path: [(word, number) for _, word, number in (bare_name(plain_name(mask)) for mask in masks) if word]
        for path, masks in layout.masks.items()
    }
    further = set()
    for found in numbers.values():
        further |= {word for word, number in found if number} & {word for word, number in found if not number}
    return {
        path for path, found in numbers.items() if any((word, "") not in found for word, _ in found if word in further)
    }


def _problem(path: Path, name: str, label: str, has_mask: bool) -> str:
    """What is wrong with an image; "" if nothing is."""
    try:
        name.encode()
    except UnicodeEncodeError:  # as another system may have left it: no figure could show it
        return f"{path}: its name holds bytes that are no text. Rename it."
    called = next((c for c in CLASSES if name.casefold().startswith(f"{c} (")), label)
    if label != "lesion" and called != label:
        return f"{path}: lies in {label}/, but is named {called}. Rename or move it."
    if not has_mask and label in ("benign", "malignant"):
        return f"{path}: has no mask file. Add it, or remove the image."
    return ""


dataset.LAYOUTS.append(find_layout)
