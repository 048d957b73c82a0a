"""Folders as people have them: from every file below a folder to samples with a class, and a line for every file that
cannot be one."""

import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import dataset
import segmentation.pictures.dicom  # noqa: F401  adds the endings of DICOM to READERS
from dataset import CLASSES, READERS, SUFFIXES, DataError, Sample
from segmentation.importing.data_table import TABLES, add_table
from segmentation.importing.mask_values import Understood, understand_masks
from segmentation.importing.pairing import (
    Layout,
    bare_name,
    class_of,
    folders_of,
    natural_order,
    place_of,
    plain_name,
    understand_layout,
    without_number,
)
from segmentation.pictures.picture_files import shown
from segmentation.pictures.pixel_depth import understand_depth

PHANTOM_MARKER = "phantoms.json"  # a folder that holds this file holds simulated pictures
MAX_DEPTH = 8  # folders within folders
SYSTEM = (".", "__MACOSX", "@", "$")  # how the folders begin that systems leave behind


# ---------------------------------------------------------------- list


def list_pictures(root: Path, is_picture: Callable | None = None) -> tuple[list[Path], list[Path]]:
    """Every picture below a folder, sorted, and what is passed over. A folder that links lead to is listed once.

    Args:
        root: the folder.
        is_picture: whether a regular file is one; without it the ending says so.

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
            if PHANTOM_MARKER in names and here != root:  # drawn by an earlier run, for want of data
                strays.append(here)
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
            for path in (here / name for name in names if name not in (PHANTOM_MARKER, ".lock")):  # of corrections.py
                (pictures if _is_picture(path, is_picture) else strays).append(path)
    return sorted(pictures, key=natural_order), sorted(strays)


def _is_picture(path: Path, says: Callable | None) -> bool:
    if path.name.startswith(".") or (not says and path.suffix.lower() not in (*SUFFIXES, *READERS)):
        return False
    try:
        return stat.S_ISREG(path.stat().st_mode) and (not says or says(path))  # a pipe would be waited for, for ever
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
    others = [path for path in others if path.name.casefold() not in TABLES]
    layout = understand_layout(pictures, root)
    if not layout:
        if not pictures:
            return None
        raise DataError(f"{root}: {describe_pictures(pictures, others, root)}")
    places = {path: place_of(folders_of(path, root)) for path in layout.images}
    _print_notes(layout, others, places, root)
    paired = [mask for masks in layout.masks.values() for mask in masks]
    understood = understand_masks(paired, mask_values)
    white = understand_depth(layout.images, paired)
    samples, problems = _make_samples(layout, places, understood, white)
    return add_table(samples, root), problems


def describe_pictures(pictures: Sequence[Path], others: Sequence[Path], root: Path) -> str:
    """What a folder holds that has no masks, and what to do."""
    folders = Counter(str(path.parent.relative_to(root)) for path in pictures)
    held = [f"{n} in {folder}/" for folder, n in folders.most_common(4)]
    endings = Counter(path.suffix for path in others if path.suffix and not path.name.startswith("."))
    passed = [f"{n} {ending} files, which are not read" for ending, n in endings.most_common(1)]
    return (
        f"holds {len(pictures)} pictures ({', '.join(held + passed)}), {shown(pictures[:1])} first, but none is the "
        "mask of another. Give the folder that holds images and masks, the masks in masks/ or called x_mask."
    )


def _print_notes(layout: Layout, others: Sequence[Path], places: dict, root: Path) -> None:
    """Says what was passed over, and what was paired without being sure."""
    paired = [(image, mask, mask.parent) for image, masks in layout.masks.items() for mask in masks]
    masks = [mask for _, mask, _ in paired]
    there = {folder: place_of(folders_of(folder / "x", root)) for _, _, folder in paired}
    apart = [
        mask for image, mask, folder in paired if places[image] != there[folder] and places[image] and there[folder]
    ]
    merged = [image for image, found in layout.masks.items() if len({mask.parent for mask in found}) > 1]
    further = [
        mask for image, mask, _ in paired
        if plain_name(mask) != plain_name(image) == without_number(plain_name(mask)) and len(layout.masks[image]) > 1
    ]  # fmt: skip
    bare = [path for path in layout.images if path not in layout.masks and class_of(places[path]) == "lesion"]
    names = Counter(map(plain_name, layout.images))
    again = [(path, path.stat().st_size) for path in layout.images if names[plain_name(path)] > 1 and path.exists()]
    sizes = Counter((plain_name(path), size) for path, size in again)
    twice = [path for path, size in again if sizes[plain_name(path), size] > 1]
    for paths, words in (
        (masks if layout.guessed else [], "pictures are taken for masks by what they hold, as no name says so"),
        (others, f"other files in {root} are passed over"),
        (layout.strays, "pictures outside the folders of images are passed over"),
        (bare, "images have no mask, and count as images without a lesion"),
        (apart, "masks lie in folders of other names than their images"),
        (twice, "images have the name and the size of another; the same picture may be there twice"),
        (further, "numbered masks were treated as extra masks of one image"),
        (merged, "images have masks in several folders; they are merged"),
    ):
        if paths:
            print(f"note: {len(paths)} {words} ({shown(paths)})")


def _make_samples(layout: Layout, places: dict, understood: Understood, white: float | None):
    """Samples, and a line for every file that cannot be one."""
    problems = [
        f"{path}: mask without exactly one image of its name. Add the image, or remove it." for path in layout.lone
    ]
    counts = Counter(map(plain_name, layout.images))
    lost, unsure = lost_firsts(layout)
    if unsure:
        print(f"note: {len(unsure)} images have numbered masks and none without a number ({shown(unsure)})")
    owners = {(places[path], plain_name(path)) for path in layout.masks}
    owned = set(map(plain_name, layout.masks))
    samples = []
    for path in layout.images:
        name, masks = unicodedata.normalize("NFC", path.stem), layout.masks.get(path, [])
        label = class_of(places[path])
        lesions = [understood.lesion[mask] for mask in masks]
        if problem := name_problem(path, name, label):
            problems.append(problem)
        elif path in lost or (not masks and label in ("benign", "malignant")):
            problems.append(f"{path}: has no mask file. Add it, or remove the image.")
        elif (
            not masks and label == "lesion" and (plain_name(path) in owned or _named_after(path, places[path], owners))
        ):
            problems.append(f"{path}: has no mask, and is named after an image that has one. Move it away.")
        elif unreadable := [line for line in lesions if isinstance(line, str)]:
            problems += unreadable
        else:
            name = " ".join([*places[path], name]) if counts[plain_name(path)] > 1 else name
            label = "normal" if label == "lesion" and not any(lesions) else label
            samples.append(Sample(name, label, path, tuple(masks), understood.reading, white))
    twice = {name for name, count in Counter(s.name for s in samples).items() if count > 1}
    problems += [f"{s.image}: the name {s.name!r} occurs twice. Rename one." for s in samples if s.name in twice]
    return samples, problems


def _named_after(path: Path, place: tuple, owners: set) -> bool:
    """Whether an image is called as another, and a word more: x_overlay."""
    name = plain_name(path)
    return any((place, name[: match.start()]) in owners for match in re.finditer(r"[ _.-]+(?=[^\W\d])", name))


def lost_firsts(layout: Layout) -> tuple[set[Path], list[Path]]:
    """Images whose further masks, x_mask_1, are there without the first, x_mask, which others have.

    Where no image has both, x_mask_1 and x_mask_2 may be all of it; these images come second.
    """
    numbers: dict[Path, dict[str, set]] = {}
    for path, masks in layout.masks.items():
        for mask in masks:
            _, word, number = bare_name(plain_name(mask))
            numbers.setdefault(path, {}).setdefault(word, set()).add(number)
    lost, unsure = set(), []
    for word in {word for found in numbers.values() for word in found if word}:
        held = {path: found[word] for path, found in numbers.items() if word in found}
        alone = [path for path, found in held.items() if "" not in found]
        if len(alone) == len(held):
            continue
        both = any("" in found and len(found) > 1 for found in held.values())
        lost |= {path for path in alone if both or len(held[path]) == 1}
        unsure += [path for path in alone if path not in lost]
    return lost, unsure


def name_problem(path: Path, name: str, label: str) -> str:
    """What is wrong with an image's name; "" if nothing is."""
    try:
        name.encode()
    except UnicodeEncodeError:  # as another system may have left it: no figure could show it
        return f"{path}: its name holds bytes that are no text. Rename it."
    called = next((c for c in CLASSES if name.casefold().startswith(f"{c} (")), label)
    if label != "lesion" and called != label:
        return f"{path}: lies in {label}/, but is named {called}. Rename or move it."
    return ""


dataset.LAYOUTS.append(find_layout)
