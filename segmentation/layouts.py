"""Folders as people have them: which files are images, which are their masks, and of what class.

The naming is not looked up in a list of layouts. A file is a mask if it lies in a folder of masks or its name says so;
then the renaming is taken that gives every mask exactly one image. data/README.md lists what that covers.
"""

import os
import re
import stat
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import dataset
from dataset import CLASSES, READERS, SUFFIXES, Sample, label_samples
from segmentation.mask_values import understand_depth, understand_masks

_MASK_WORD = r"masks?|labels?|annotations?|ground[ _-]?truths?|gts?|segmentations?|segs?"
_LESION_WORD = rf"{_MASK_WORD}|tumou?rs?|lesions?|others?"  # BrEaST calls a second lesion other
_MASK_FOLDER = re.compile(rf"(.*[ _-])?({_MASK_WORD})", re.IGNORECASE)
_IMAGE_FOLDER = re.compile(r"(.*[ _-])?(images?|imgs?|originals?|scans?|pictures?)", re.IGNORECASE)
_MASK_NAME = re.compile(
    rf"(?:{_MASK_WORD})[ _.-]+(?P<after>.+)|(?P<before>.+?)[ _.-]*(?:{_LESION_WORD})[ _.-]?(?P<number>\d*)",
    re.IGNORECASE,
)
MAX_DEPTH = 8  # folders within folders; a link to its own parent would go on for ever


class Files(NamedTuple):
    """The pictures below a folder, each list sorted."""

    images: list[Path]
    masks: list[Path]
    strays: list[Path]  # passed over


def natural_order(path: Path) -> list:
    """Sort key that puts 9 before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def list_files(root: Path) -> Files:
    """Images and masks below a folder. Where there is a folder of images, no other folder has any."""
    pictures, strays = [], []
    for folder, folders, names in os.walk(root, followlinks=True):
        deep = len(Path(folder).relative_to(root).parts) >= MAX_DEPTH
        folders[:] = [] if deep else sorted(f for f in folders if not f.startswith((".", "__MACOSX")))
        for path in (Path(folder, name) for name in names):
            (pictures if _is_picture(path) else strays).append(path)
    pictures.sort(key=natural_order)
    masks = [path for path in pictures if any(map(_MASK_FOLDER.fullmatch, path.relative_to(root).parts[:-1]))]
    if not masks:
        masks = [path for path in pictures if _MASK_NAME.fullmatch(path.stem)]
    chosen = set(masks)
    images = [path for path in pictures if path not in chosen]
    named = [path for path in images if any(map(_IMAGE_FOLDER.fullmatch, path.relative_to(root).parts[:-1]))]
    if named:
        strays += [path for path in images if path not in set(named)] if len(named) < len(images) else []
    return Files(named or images, masks, sorted(strays))


def _is_picture(path: Path) -> bool:
    if path.name.startswith(".") or path.suffix.lower() not in (*SUFFIXES, *READERS):
        return False
    try:
        return stat.S_ISREG(path.stat().st_mode)  # a pipe would be waited for, for ever
    except OSError:
        return True  # a link to nothing: reading it says so


# ---------------------------------------------------------------- pair


def _place(path: Path, root: Path) -> tuple[str, ...]:
    """Folders of a file below the root but those that only say image or mask: its class, or its part of the data."""
    parts = path.relative_to(root).parts[:-1]
    in_masks = any(map(_MASK_FOLDER.fullmatch, parts))  # masks/0/ is the mask of class 0
    kept = [
        p for p in parts if not (_MASK_FOLDER.fullmatch(p) or _IMAGE_FOLDER.fullmatch(p) or (in_masks and p == "0"))
    ]
    return tuple(part.casefold() for part in kept)


def _plain(path: Path) -> str:
    """The file's name; an accent is one character to some systems and two to others."""
    return unicodedata.normalize("NFC", path.stem).casefold()


def _bare(stem: str) -> str:
    """A mask's name without the word that says mask, and without a number behind that word."""
    match = _MASK_NAME.fullmatch(stem)
    return (match["after"] or match["before"]) if match else stem


def _without_common(stems: Sequence[str]) -> list[str]:
    """The names without what all of them begin or end with, such as "bus_"."""
    start = re.sub(r"\d+$", "", os.path.commonprefix(list(stems)))
    end = re.sub(r"\d+$", "", os.path.commonprefix([stem[::-1] for stem in stems]))
    long = len(start) + len(end)
    return [stem[len(start) : len(stem) - len(end)] if len(stem) > long else stem for stem in stems]


def pair_files(images: Sequence[Path], masks: Sequence[Path], root: Path) -> tuple[dict[Path, list[Path]], list[Path]]:
    """Masks of each image, and the masks without one, by the renaming that gives most masks exactly one image."""
    plain = [[_plain(path) for path in paths] for paths in (images, masks)]
    bare = [plain[0], [_bare(stem) for stem in plain[1]]]
    cut = [_without_common(plain[0]), _without_common(bare[1])] if len(images) > 1 else bare
    places = [[_place(path, root) for path in paths] for paths in (images, masks)]
    anywhere = [[()] * len(paths) for paths in (images, masks)]
    best: tuple[dict, list] = ({}, list(masks))
    for place in (places, anywhere):
        for names in (plain, bare, cut):
            owners, found, lone = defaultdict(list), defaultdict(list), []
            for path, key in zip(images, zip(place[0], names[0], strict=True), strict=True):
                owners[key].append(path)
            for path, key in zip(masks, zip(place[1], names[1], strict=True), strict=True):
                owner = owners.get(key, ())
                (found[owner[0]] if len(owner) == 1 else lone).append(path)
            if len(lone) < len(best[1]):
                best = found, lone
    return best


# ---------------------------------------------------------------- samples


def find_layout(root: Path, mask_values: Sequence[float] = ()) -> tuple[list[Sample], list[str]] | None:
    """Samples and problems of any folder, for `dataset.LAYOUTS`; None where it holds no image with a mask.

    Prints how the masks and pictures of more than 8 bits are read, and how many files are passed over.

    Raises:
        DataError: the masks cannot be understood; the message names a file and the values found.
    """
    images, masks, strays = list_files(root)
    found, lone = pair_files(images, masks, root)
    if not found:
        return None
    if strays:
        shown = ", ".join(sorted({path.name for path in strays})[:3])
        print(
            f"note: {len(strays)} other files in {root} are passed over ({shown}{', ...' if len(strays) > 3 else ''})"
        )
    problems = [f"{path}: mask without an image of its name. Add the image, or remove the mask." for path in lone]
    reading = understand_masks([path for path in masks if path not in set(lone)] if lone else masks, mask_values)
    white = understand_depth(images)
    counts = Counter(map(_plain, images))
    numbered = {path for path in masks if (m := _MASK_NAME.fullmatch(path.stem)) and m["number"]}
    firsts = len(numbered) < sum(map(len, found.values()))  # the first mask of an image has no number
    samples = []
    for path in images:
        name, place, paths = unicodedata.normalize("NFC", path.stem), _place(path, root), found.get(path, [])
        label = next((c for c in CLASSES if c in place), "lesion")
        if problem := _problem(path, name, label, paths, firsts and bool(paths) and numbered.issuperset(paths)):
            problems.append(problem)
        else:
            name = f"{place[-1]} {name}" if counts[_plain(path)] > 1 and place else name
            samples.append(Sample(name, label, path, tuple(paths), reading, white))
    twice = [name for name, count in Counter(s.name for s in samples).items() if count > 1]
    problems += [f"{s.image}: the name {s.name!r} occurs twice. Rename one." for s in samples if s.name in twice]
    return label_samples(samples, problems)


def _problem(path: Path, name: str, label: str, masks: Sequence[Path], first_is_lost: bool) -> str:
    """What is wrong with an image's name or masks; "" if nothing is."""
    try:
        name.encode()
    except UnicodeEncodeError:  # as another system may have left it: no figure could show it
        return f"{path}: its name holds bytes that are no text. Rename it."
    called = next((c for c in CLASSES if name.casefold().startswith(f"{c} (")), label)
    if label != "lesion" and called != label:
        return f"{path}: lies in {label}/, but is named {called}. Rename or move it."
    if first_is_lost or (label in ("benign", "malignant") and not masks):
        return f"{path}: has no mask file {name}_mask{path.suffix}. Add it, or remove the image."
    return ""


dataset.LAYOUTS.append(find_layout)
