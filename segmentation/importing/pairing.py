"""Which pictures of a folder are masks, and of which image.

The naming is not looked up in a list of layouts. A file is a mask if its folder or its name says so; of the ways to
read these words, and of the ways to compare names, those are taken that leave the fewest files without a partner.
data/README.md lists what that covers.
"""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm.contrib.concurrent import thread_map

from dataset import CLASSES, natural_order, try_reading
from segmentation.importing.data_table import image_key
from segmentation.pictures.picture_files import read_raw

_MASK_WORD = "masks?|labels?|annotations?|annots?|ground[ _-]?truths?|truths?|gts?|segmentations?|segs?"
_LESION_WORD = "tumou?rs?|lesions?|others?|objects?|obj|instances?"  # BrEaST calls a second lesion other
_IMAGE_WORD = "images?|imgs?|originals?|scans?|pictures?"
_OF_PICTURES = "im|us|bus|ultrasounds?|breasts?|photos?|frames?|raw|source|orig|0000"  # nothing of which picture it is
_PREFIX = re.compile(rf"(?P<word>{_MASK_WORD})(?:[ _.-]+|(?=\d))(?P<bare>.+)", re.IGNORECASE)
_SUFFIX = re.compile(
    rf"(?P<bare>.+?)[ _.-]*(?P<word>{_MASK_WORD}|{_LESION_WORD})[ _.-]*\(?(?P<number>\d*)\)?", re.IGNORECASE
)


class Layout(NamedTuple):
    """What the pictures of a folder are."""

    images: list[Path]
    masks: dict[Path, list[Path]]  # of each image that has any
    lone: list[Path]  # masks without an image, or with several
    strays: list[Path]  # pictures outside the folders of images
    guessed: bool = False  # by what the files hold, as no name says it


# ---------------------------------------------------------------- words


@lru_cache(maxsize=10_000)
def _words(folder: str) -> tuple[str, ...]:
    """A folder's name in words: "trainMasks_2" is train, masks and 2."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", unicodedata.normalize("NFC", folder))
    return tuple(word.casefold() for word in re.findall(r"[^\W\d_]+|\d+", spaced))


@lru_cache(maxsize=10_000)
def _says(folder: str, lesion: bool = False) -> str:
    """What a folder's name says its files are: "mask", "image" or nothing; `lesion` counts as mask if asked to."""
    words = _words(folder)
    mask, image = (any(re.fullmatch(x, word) for word in words) for x in (_MASK_WORD, _IMAGE_WORD))
    mask = mask or (lesion and any(re.fullmatch(_LESION_WORD, word) for word in words))
    if mask and {"and", "with"} & set(words):  # Dataset_BUSI_with_GT
        return ""
    return "mask" if mask else "image" if image else ""


@lru_cache(maxsize=10_000)
def said_by(folders: tuple[str, ...], lesion: bool = False) -> str:
    """What the nearest folder says that says anything: masks/0/ holds masks, segmentation/images/ holds images."""
    return next((said for folder in reversed(folders) if (said := _says(folder, lesion))), "")


@lru_cache(maxsize=10_000)
def place_of(folders: tuple[str, ...]) -> tuple[str, ...]:
    """Folders without the words that only say image or mask: a class, a hospital, a part of the data."""
    in_masks = said_by(folders) == "mask"
    kept = []
    for folder in folders:
        words = [w for w in _words(folder) if not re.fullmatch(f"{_MASK_WORD}|{_IMAGE_WORD}|ground", w)]
        kept.append(" ".join(w for w in words if not (in_masks and words == ["0"])))  # masks/0/, of class 0
    return tuple(filter(None, kept))


PARTS = {"train": "train|training|tr|trn", "val": "val|valid|validation|dev", "test": "test|testing|ts|tst"}


def part_of(folders: Sequence[str]) -> str:
    """The part of a split that a folder names: train/, imagesTs/, valid_set/; "" if none does."""
    neutral = f"{_MASK_WORD}|{_IMAGE_WORD}|sets?|data|datasets?|splits?|folders?|\\d+"
    for folder in reversed(folders):
        words = [word for word in _words(folder) if not re.fullmatch(neutral, word)]
        if len(words) == 1 and (part := next((p for p, x in PARTS.items() if re.fullmatch(x, words[0])), "")):
            return part
    return ""


def words_of(place: Sequence[str]) -> frozenset[str]:
    """What folders say beside image and mask, classes, parts and lesions: a hospital, a reader, an organ."""
    formats = "jpe?gs?|pngs?|bmps?|tiffs?|dicoms?|dcm|us|files"
    no_news = "|".join([*CLASSES, *PARTS.values(), "tumou?rs?|lesions?", formats])
    kept = (" ".join(w for w in folder.split() if not re.fullmatch(no_news, w)) for folder in place)
    return frozenset(words for words in kept if not words.replace(" ", "").isdigit() and words)


def class_of(place: Sequence[str]) -> str:
    """The class that the nearest folder names; "lesion" if none does."""
    for words in (set(folder.split()) for folder in reversed(place)):
        named = words & set(CLASSES)
        if len(named) == 1 and not words & {"non", "not", "no"}:
            return named.pop()
    return "lesion"


def bare_name(stem: str, images: Container[str] = ()) -> tuple[str, str, str]:
    """A mask's name without the word that says mask, that word, and the number behind it; "" where there is none.

    Where the word may be the first or the last, it is the one that leaves the name of one of `images`.
    """
    first, last = _PREFIX.fullmatch(stem), _SUFFIX.fullmatch(stem)
    if first and (not last or (first["bare"] in images and last["bare"] not in images)):
        return first["bare"], f"{first['word']} before", ""
    return (last["bare"], last["word"], last["number"]) if last else (stem, "", "")


# ---------------------------------------------------------------- pair


def understand_layout(pictures: Sequence[Path], root: Path) -> Layout | None:
    """Which pictures are masks, and of which image; None if no picture is the mask of another."""
    tops, beside = {path: folders_of(path, root)[:1] for path in pictures}, []
    if {"image", "mask"} <= set(map(said_by, tops.values())):  # the folder's own images and masks, and nobody else's
        beside = [path for path, top in tops.items() if not said_by(top) and class_of(place_of(top)) == "lesion"]
        pictures = [path for path, top in tops.items() if said_by(top) or class_of(place_of(top)) != "lesion"]
    layout = _choose_layout(pictures, root)
    return layout and layout._replace(strays=[*layout.strays, *beside])


def _choose_layout(pictures: Sequence[Path], root: Path) -> Layout | None:
    layouts = [with_masks(pictures, masks, root) for masks in _possible_masks(pictures, root)]
    if any(layouts):
        return min(filter(None, layouts), key=partial(_count_missing, root=root))
    said = [path for path in pictures if said_by(folders_of(path, root), lesion=True) == "mask"]
    if layout := with_masks(pictures, said, root):
        return layout
    looks = thread_map(_holds_areas, pictures, max_workers=os.cpu_count(), leave=False)
    held = [path for path, look in zip(pictures, looks, strict=True) if look]
    layout = with_masks(pictures, held, root)
    return layout and layout._replace(guessed=True)


def folders_of(path: Path, root: Path) -> tuple[str, ...]:
    """The folders that lead from the root to a file."""
    return path.relative_to(root).parts[:-1]


def _possible_masks(pictures: Sequence[Path], root: Path) -> Iterator[list[Path]]:
    """The masks by what folders and names say, by names that go back to another picture, and by any name."""
    stems = {image_key(path.name) for path in pictures}
    split = {path: bare_name(image_key(path.name), stems) for path in pictures}
    proven = {word for bare, word, _ in split.values() if word and bare in stems}
    said = {path: said_by(folders_of(path, root)) for path in pictures}
    yield [path for path in pictures if said[path] == "mask" or (not said[path] and split[path][1] in proven)]
    yield [path for path in pictures if split[path][1] in proven]
    yield [path for path in pictures if split[path][1]]


def _holds_areas(path: Path) -> bool:
    """Whether a picture looks like a mask: two values fill it."""
    raw = try_reading(read_raw, path)
    counts = [] if isinstance(raw, str) else np.unique(raw.values, return_counts=True)[1]
    return sum(sorted(counts)[-2:]) > 0.8 * sum(counts)


def _count_missing(layout: Layout, root: Path) -> int:
    """How many files have no partner but should."""
    bare = [path for path in layout.images if path not in layout.masks]
    alone = [path for path in bare if class_of(place_of(folders_of(path, root))) != "normal"]
    return len(layout.lone) + len(layout.strays) + len(alone)


def with_masks(pictures: Sequence[Path], masks: Sequence[Path], root: Path) -> Layout | None:
    """The layout with these masks; None if none of them finds an image. Images are the rest, but where there is a
    folder of images (or of a class), no other folder has any."""
    chosen, strays = set(masks), []
    places = {path: place_of(folders_of(path, root)) for path in pictures}
    images = [path for path in pictures if path not in chosen]
    if named := {path for path in images if said_by(folders_of(path, root)) == "image"}:
        strays = [path for path in images if path not in named and class_of(places[path]) == "lesion"]
        images = [path for path in images if path in named or class_of(places[path]) != "lesion"]
    found, lone = _pair(images, masks, _names_in_places(images, masks, places))
    if strays and lone:  # two sets in one folder, of which one has no folder of images
        more, lone = _pair(strays, lone, _names_in_places(strays, lone, places))
        found, images = found | more, sorted([*images, *more], key=natural_order)
        strays = [path for path in strays if path not in more]
    if lone:
        more, lone = _pair(images, lone, _names_anywhere(images, lone, places, not found))
        for image, others in more.items():  # an image that has a mask gets none from elsewhere
            alike = [p for p in others if image not in found or not (places[image] and places[p])]
            lone += [path for path in others if path not in alike]
            found |= {image: sorted([*found.get(image, []), *alike], key=natural_order)} if alike else {}
    return Layout(images, found, lone, strays) if found else None


def _common(stems: Sequence[str]) -> tuple[str, str]:
    """What all names begin and end with, such as "bus_", without digits."""
    start = re.sub(r"\d+$", "", os.path.commonprefix(list(stems)))
    return start, re.sub(r"\d+$", "", os.path.commonprefix([stem[::-1] for stem in stems]))[::-1]


def _without_common(stems: Sequence[str]) -> list[str]:
    """The names without what all of them begin or end with."""
    start, end = _common(stems)
    long = len(start) + len(end)
    return [stem[len(start) : len(stem) - len(end)] if len(stem) > long else stem for stem in stems]


def _other_words(images: Sequence[str], masks: Sequence[str]) -> list[str]:
    """Words that all names of images have and those of masks have not, or the other way, and that do not say image or
    mask: scans of hospA and masks of hospB belong together by their numbers alone."""
    differing: set[str] = set()
    for image, mask in zip(_common(images), _common(masks), strict=True):
        differing |= set(_words(image)) ^ set(_words(mask))
    known = f"{_MASK_WORD}|{_LESION_WORD}|{_IMAGE_WORD}|{_OF_PICTURES}"
    return [word for word in differing if not re.fullmatch(known, word)]


def _names(images: Sequence[Path], masks: Sequence[Path], cut: bool = True) -> list[tuple[list, list]]:
    """Ways to name images and masks, (names of the images, names of the masks), that may give them the same names.

    Args:
        cut: also without what all names begin or end with, where that says image or mask and nothing else.
    """
    plain = [[image_key(path.name) for path in paths] for paths in (images, masks)]
    stems = set(plain[0])
    bare = [bare_name(stem, stems)[0] for stem in plain[1]]
    short = [bare_name(stem, stems)[0] for stem in bare]  # x_lesion_mask
    further = [re.sub(r"[ _.-]+\(?\d+\)?$", "", stem) for stem in plain[1]]  # x_2, x (2)
    names = [(plain[0], stems) for stems in (plain[1], bare, short, further)]
    if cut and len(images) > 1:
        both = [stems for stems in (bare, plain[1]) if not _other_words(plain[0], stems)]
        names += [(_without_common(plain[0]), _without_common(stems)) for stems in both]
    return names


def _names_in_places(images: Sequence[Path], masks: Sequence[Path], places: dict) -> Iterator[tuple[list, list]]:
    """Names within folders that say the same, but for the words for images and masks."""
    there = [[places[path] for path in paths] for paths in (images, masks)]
    for names in _names(images, masks):
        yield tuple(list(zip(place, stems, strict=True)) for place, stems in zip(there, names, strict=True))
    if all(there[0]):  # id7/images/a.png, id7/masks/b.png: one image a place
        yield tuple(there)


def _names_anywhere(images: Sequence[Path], masks: Sequence[Path], places: dict, cut: bool):
    """Names in whatever folder. Where both are in folders of some name, numbers alone would pair two sets."""
    apart = any(places[path] for path in images) and any(places[path] for path in masks)
    yield from _names(images, masks, cut and not apart)
    folders = [unicodedata.normalize("NFC", path.parent.name).casefold() for path in masks]  # masks/x/1.png
    yield [image_key(path.name) for path in images], folders


def _pair(images: Sequence[Path], masks: Sequence[Path], ways: Iterable) -> tuple[dict[Path, list[Path]], list[Path]]:
    """Masks of each image, and the masks without one, by the names that give most masks exactly one image."""
    best: tuple[dict, list] = ({}, list(masks))
    for image_names, mask_names in ways:
        owners, found, lone = defaultdict(list), defaultdict(list), []
        for path, name in zip(images, image_names, strict=True):
            owners[name].append(path)
        for path, name in zip(masks, mask_names, strict=True):
            owner = owners.get(name, ())
            (found[owner[0]] if len(owner) == 1 else lone).append(path)
        if (len(lone), -len(found)) < (len(best[1]), -len(best[0])):
            best = dict(found), lone
    return best


def lost_firsts(layout: Layout) -> set[Path]:
    """Images whose further masks, x_mask_1, are there without the first, x_mask, which others have."""
    numbers: dict[Path, dict[str, set]] = {}
    for path, masks in layout.masks.items():
        for mask in masks:
            _, word, number = bare_name(image_key(mask.name))
            numbers.setdefault(path, {}).setdefault(word, set()).add(number)
    lost = set()
    for word in {word for found in numbers.values() for word in found if word}:
        held = {path: found[word] for path, found in numbers.items() if word in found}
        alone = [path for path, found in held.items() if "" not in found]
        both = any("" in found and len(found) > 1 for found in held.values())
        if len(alone) < len(held):
            lost |= {path for path in alone if both or len(held[path]) == 1}
    return lost
