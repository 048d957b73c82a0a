"""What the masks of a folder mean, understood for the folder as a whole.

A mask may hold 0 and 255, 0 and 1, colours, or the in-between values of compression and soft edges. Lesion is what
forms areas that differ from the background; what lies between the two at their edges goes to the nearer one.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm.contrib.concurrent import thread_map

from dataset import DataError, try_reading
from segmentation.pictures.listing import shown

ALIKE = 0.06  # of a mask's range: neighbours that differ by no more lie inside an area, not on an edge
CLEAR = 0.25  # of a mask's range: what differs more from the background is no compression noise
OUTLINE = 0.85  # of a curve's inside; below, the mask is the curve and not the area: no lesion of BUSI has a hole
LEVELS = 8  # so many values of areas are classes of lesion; more are no mask
NOISE = 0.1  # of a mask's range: what differs less from the background is compression noise
SAME = 0.04  # of a mask's range: values that differ by no more are one
FAINT = 0.001  # of a mask: above this share of faint pixels the mask uses another encoding
EDGES = 0.35  # of a lesion's pixels may be in between where these make a tenth of the mask, else ten times as many
MOST = 0.5  # share of the picture from which a lesion is worth a note
BORDERED = 0.9  # of the borders of so many masks are one value: it is background, even if it is not black
CHROMA = 16  # pixels that compression may colour alike, as colours are stored at half the size
FEW = 4  # pixels that mean nothing
NO_MASK = (
    "That is no mask of background and lesion. Export areas of one value, or name the lesion's with --mask-values."
)


class MaskReading(NamedTuple):
    """How the masks of a folder encode lesions: as the pixels that differ enough from the background."""

    background: tuple[float, ...] = (0.0,)  # grey value, or red, green and blue
    difference: float = 127.0  # more than this, in any colour, is lesion; half range tolerates JPEG and soft edges
    values: tuple[tuple[float, ...], ...] = ()  # if the user gives any: only these grey values or colours are lesion


class Levels(NamedTuple):
    """What one mask holds: pixels of each value, a number or a colour of three."""

    path: Path
    pixels: dict
    border: dict  # along the picture's border alone
    exact: bool  # not compressed by leaving something out
    areas: dict = {}  # inside areas: all neighbours are alike
    apart: dict = {}  # in between, and far from what differs most
    closed: bool = False  # a closed curve with little in it
    thin: bool = False  # thin lines, far apart


def find_reading(masks: Sequence[Path], values: Sequence, read: Callable) -> tuple[MaskReading, dict, list[str]]:
    """How the masks of a folder are to be read; of each, whether it holds a lesion, or the line that says why it cannot
    be read; and lines that a person should know.

    Args:
        masks: every mask file.
        values: grey values or colours that are lesion, from the user; the masks are then not asked what they mean. Or
            ("all",): several classes in one file are all lesion, which is refused otherwise.
        read: a mask's pixels, or a DataError.

    Raises:
        DataError: the masks cannot be understood; the message names a file and the values found.
    """
    look = partial(try_reading, partial(list_levels, read=read))
    found = list(thread_map(look, masks, max_workers=os.cpu_count(), desc="masks", leave=False))
    files = [item for item in found if isinstance(item, Levels)]
    if values and values != ("all",):
        reading = MaskReading(values=tuple(tuple(np.atleast_1d(np.float32(v)).tolist()) for v in values))
        lines = _check_values(files, reading.values)
    else:
        reading, lines = _find_reading(files, merge=bool(values))
    lines += _note_most(files, reading)
    lesion = (item if isinstance(item, str) else _lesion(item.pixels, reading) > 0 for item in found)
    return reading, dict(zip(masks, lesion, strict=True)), lines


def find_lesion(values: np.ndarray, reading: MaskReading) -> np.ndarray:
    """Which pixels of a mask are lesion, (H, W) bool, from (H, W) or (H, W, 3); named colours are told apart."""
    values = values.reshape(*values.shape[:2], -1)
    if reading.values:
        return np.any([(values == np.float32(level)).all(axis=2) for level in reading.values], axis=0)
    return (np.abs(values - np.float32(reading.background)) > reading.difference).any(axis=2)


def _difference(level: tuple, background: tuple) -> float:
    return float(np.abs(np.subtract(level, background)).max())


def _lesion(pixels: dict, reading: MaskReading) -> int:
    """How many of the pixels are lesion."""
    if reading.values:
        return sum(pixels.get(level, 0) for level in set(reading.values))
    return sum(n for level, n in pixels.items() if _difference(level, reading.background) > reading.difference)


def _named(levels: Sequence[tuple]) -> str:
    """Levels as a person writes them: 0 and 255, or colours as (255, 0, 0)."""
    words = [f"{level[0]:g}" if len(level) == 1 else "(" + ", ".join(f"{v:g}" for v in level) + ")" for level in levels]
    if len(words) > 6:
        words = [*words[:3], f"{len(words) - 4} more", words[-1]]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _check_values(files: Sequence[Levels], named: Sequence[tuple]) -> list[str]:
    """What the masks hold beside the values that the user named; refuses what no mask holds."""
    levels = set().union(*(file.pixels for file in files))
    if files and (absent := sorted(set(named) - levels)):
        raise DataError(f"{files[0].path}: no mask holds {_named(absent)}, which you named as lesion; they hold "
                        f"{_named(sorted(levels))}.")  # fmt: skip
    return [f"masks hold {_named(sorted(levels))}; {_named(named)} is lesion, as you said"]


def _find_reading(files: Sequence[Levels], merge: bool) -> tuple[MaskReading, list[str]]:
    """The reading that the areas in the masks give: lesion is nearer to the faintest of them than to the background.

    Raises:
        DataError: as `find_reading`.
    """
    pixels, areas = set().union(*(file.pixels for file in files)), Counter()
    if not pixels:
        return MaskReading(), []
    background = _background(files)
    if len(pixels) == 1:
        return MaskReading(background), []
    for file in files:
        areas.update(_areas(file, background))
    if not areas:  # lesions so small that they have no inside
        areas[max(pixels, key=partial(_difference, background=background))] = 1
    far = {level: _difference(level, background) for level in areas}
    reading = MaskReading(background, min(far.values()) / 2)
    alike = max(far.values()) * (SAME if all(file.exact for file in files) else NOISE)
    classes: list[tuple] = []  # the commonest value of each area: compression spreads one over several
    for level, _ in areas.most_common():
        if all(_difference(level, other) > alike for other in classes):
            classes.append(level)
    lines = _refuse_masks(files, reading, far, classes)
    if not merge and len(classes) > 1:
        _refuse_classes(files, background, classes, alike)
    return reading, [_line(sorted(pixels), sorted(classes), background), *lines]


def _refuse_classes(files: Sequence[Levels], background: tuple, classes: Sequence[tuple], alike: float) -> None:
    """Several classes in one file may be lesion and gland, or two lesions: only a person knows."""
    for file in files:
        held = {next((c for c in classes if _difference(level, c) <= alike), level): None
                for level in _areas(file, background)}  # fmt: skip
        if len(held) > 1:
            last = max(held)
            value = f"{last[0]:g}" if len(last) == 1 else "#" + bytes(map(int, last)).hex()
            raise DataError(f"{file.path}: holds areas of {_named(sorted(held))}. Say which are lesion: --mask-values "
                            f"{value}, or --mask-values all.")  # fmt: skip


def _line(levels: Sequence[tuple], classes: Sequence[tuple], background: tuple) -> str:
    """How the masks are read."""
    if len(levels) <= len(classes) + 1:
        line = f"masks hold {_named(levels)}; {_named(classes)} {'is' if len(classes) == 1 else 'are'} lesion"
    else:
        line = f"masks hold {len(levels)} values, as soft edges and compression make; what is near {_named(classes)} "
        line += f"and not {_named([background])} is lesion"
    if any(background):
        line += f"\nnote: {_named([background])} fills the borders of the masks and is read as background"
    return line


def _background(files: Sequence[Levels]) -> tuple:
    """The value along the borders: black, unless nearly all masks are bordered by another (a lesion may fill one)."""
    black, drawn = (0.0,), [file for file in files if len(file.pixels) > 1] or files
    common = Counter(max(file.border, key=file.border.get) for file in drawn).most_common(1)[0][0]
    if not any(black in file.pixels for file in files):
        return common
    noise = NOISE * max(_difference(level, common) for file in files for level in file.pixels)
    near = [sum(n for level, n in file.border.items() if _difference(level, common) <= noise) for file in drawn]
    alike = [n >= BORDERED * sum(file.border.values()) for n, file in zip(near, drawn, strict=True)]
    return common if sum(alike) >= BORDERED * len(drawn) else black


def _areas(file: Levels, background: tuple) -> dict:
    """Pixels inside the areas of a mask that are no background, by their value."""
    far = {level: _difference(level, background) for level in file.pixels}
    peak = max(far.values())
    areas = {level: n for level, n in file.areas.items() if far[level] >= max(NOISE * peak, 1e-9)}
    enough = max(FEW, sum(areas.values()) / 100)
    noise = {level for level in areas if not file.exact and far[level] < CLEAR * peak}
    return {level: n for level, n in areas.items() if n >= enough * (10 if level in noise else 1)}


# ---------------------------------------------------------------- what is refused


def _refuse_masks(files: Sequence[Levels], reading: MaskReading, areas: dict, classes: Sequence[tuple]) -> list[str]:
    """Refuses masks that cannot be read, or not in one way; returns lines about what is odd.

    Args:
        areas: how far from the background the values of all areas are.
        classes: the values, without those that compression adds.

    Raises:
        DataError: with a file's name and the values found.
    """
    faintest, strongest = min(areas, key=areas.get), max(areas, key=areas.get)
    many = f"the masks hold {len(classes)} different areas. {NO_MASK}" if len(classes) > LEVELS else ""
    for file in sorted(files, key=lambda file: -len(file.areas)):
        if problem := many or _no_mask(file, reading, areas):
            raise DataError(f"{file.path}: holds {_named(sorted(file.pixels))}; {problem}")
    if areas[faintest] < areas[strongest] / 4 and any(_is_soft(file, reading, areas) for file in files):
        faint = next(file for file in files if faintest in _areas(file, reading.background))
        raise DataError(f"{faint.path}: holds {_named(sorted(faint.pixels))}, where other masks hold "
                        f"{_named([strongest])} with soft edges. Export all masks alike.")  # fmt: skip
    closed, thin = [file.path for file in files if file.closed], [file.path for file in files if file.thin]
    if closed or len(thin) > sum(len(file.pixels) > 1 for file in files) / 2:
        raise DataError(f"{(closed or thin)[0]}: holds an outline and not an area, as {len(closed or thin)} of "
                        f"{len(files)} masks do. Fill them.")  # fmt: skip
    return [f"note: {len(thin)} masks hold thin lines alone ({shown(thin)}). Are these areas?"] if thin else []


def _no_mask(file: Levels, reading: MaskReading, areas: dict) -> str:
    """What makes one mask impossible to read; "" if nothing does."""
    far = {level: _difference(level, reading.background) for level in file.pixels}
    peak, top, total = max(far.values()), max(areas.values()), sum(file.pixels.values())
    sure = {level for level in far if far[level] >= 0.8 * peak or level in areas}
    between = sum(n for level, n in file.pixels.items() if far[level] > 0.2 * peak and level not in sure)
    clear = sum(n for level, n in file.pixels.items() if far[level] and level in sure)
    if between > 10 * EDGES * clear or between > max(EDGES * clear, total / 10):
        return f"{between} pixels are in between. {NO_MASK}"
    # Without noise near the top there is none near the background.
    noisy = not file.exact or len(far) > LEVELS or any((1 - NOISE) * peak < d < peak for d in far.values())
    least, most = NOISE * peak * noisy, max(reading.difference, (NOISE if file.exact else CLEAR) * peak)
    flat, loose = file.areas, file.apart
    if peak <= reading.difference:
        flat, loose, least = {}, file.pixels, NOISE * top * (not file.exact)
    blurred = 0 if file.exact else max(clear / 30, CHROMA * any(len(level) > 1 for level in far))
    for held, limit in ((flat, blurred), (loose, FAINT * total)):
        unsure = {level: n for level, n in held.items() if least < far[level] <= most}
        if (count := sum(unsure.values())) > max(FEW, limit):
            return (f"{count} pixels of {_named(sorted(unsure))} are neither background nor lesion. Export areas of "
                    "one value, all masks alike, or name the lesion's with --mask-values.")  # fmt: skip
    return ""


def _is_soft(file: Levels, reading: MaskReading, areas: dict) -> bool:
    """Whether pixels at the edge of what a mask holds would be taken for a faint lesion of another mask."""
    far = {level: _difference(level, reading.background) for level in file.pixels}
    peak = max(far.values())
    between = [level for level in far if reading.difference < far[level] < 0.4 * peak]
    return any(level not in areas or far[level] < NOISE * peak for level in between)


def _note_most(files: Sequence[Levels], reading: MaskReading) -> list[str]:
    """Says where most of the picture is lesion: such masks may be inverted."""
    shares = {file.path: _lesion(file.pixels, reading) / sum(file.pixels.values()) for file in files}
    filled = sum(share > 0 for share in shares.values())
    most = [path for path, share in shares.items() if share > MOST]
    if len(most) > filled / 2:
        return [f"note: in {len(most)} of {filled} masks most of the picture is lesion. Are they inverted?"]
    if around := [f.path for f in files if _lesion(f.border, reading) > BORDERED * sum(f.border.values())]:
        raise DataError(f"{around[0]}: lesion fills the border, as in {len(around)} of {filled} masks. Invert these "
                        "masks, or leave their images out.")  # fmt: skip
    return []


# ---------------------------------------------------------------- what one mask holds


def _index(values: np.ndarray) -> tuple[list[tuple], np.ndarray]:
    """The levels that a mask may hold, never far more than 32,768, and the number of each pixel's level, (H, W)."""
    if values.dtype == np.uint8 and values.ndim == 2:
        return [(float(level),) for level in range(256)], values
    weights = np.array([65536, 256, 1] if values.ndim == 3 else [1], np.float32)
    values = values.reshape(*values.shape[:2], -1).astype(np.float32)
    found, codes = np.unique(values @ weights, return_inverse=True)
    if len(found) > 256:
        step = 255 / 31 if len(weights) == 3 else np.abs(values).max() / 255
        values = np.round(values / step) * step
        found, codes = np.unique((values.round() if len(weights) == 3 else values) @ weights, return_inverse=True)
    if len(weights) == 1:
        return [(float(level),) for level in found], codes
    colours = [tuple(float(int(code) >> shift & 255) for shift in (16, 8, 0)) for code in found]
    return [colour[:1] if len(set(colour)) == 1 else colour for colour in colours], codes.reshape(values.shape[:2])


def list_levels(path: Path, read: Callable) -> Levels:
    """What a mask holds."""
    values = read(path)
    levels, codes = _index(values)

    def count(part: np.ndarray) -> dict:
        pixels = np.bincount(part.ravel(), minlength=len(levels))
        return {levels[i]: int(pixels[i]) for i in np.flatnonzero(pixels)}

    border = count(np.concatenate([codes[0], codes[-1], codes[:, 0], codes[:, -1]]))
    held = Levels(path, count(codes), border, path.suffix.lower() not in (".jpg", ".jpeg"))
    ground = max(border, key=border.get)
    differs = np.abs(values.reshape(*values.shape[:2], -1) - np.float32(ground)).max(axis=2)
    if not differs.any():
        return held
    rows, columns = (np.flatnonzero(differs.any(axis=axis)) for axis in (1, 0))
    part = slice(max(rows[0] - 1, 0), rows[-1] + 2), slice(max(columns[0] - 1, 0), columns[-1] + 2)
    inside, peak = differs[part], differs.max()
    alike = cv2.dilate(inside, np.ones((3, 3))) - cv2.erode(inside, np.ones((3, 3))) <= ALIKE * peak
    strong = (inside > peak / 2).astype(np.uint8)
    apart = (inside >= CLEAR * peak) & (cv2.dilate(strong, np.ones((9, 9))) == 0)
    closed, thin = _curve((inside > CLEAR * peak).astype(np.uint8))
    areas = count(codes[part][alike & (inside > 0)])
    return held._replace(areas=areas, apart=count(codes[part][apart]), closed=closed, thin=thin)


def _curve(lesion: np.ndarray) -> tuple[bool, bool]:
    """Whether a mask, (H, W) uint8 in {0, 1}, is a closed curve, and whether it is made of thin lines far apart."""
    if lesion.sum() >= OUTLINE * lesion.size:
        return False, False
    outline, _ = cv2.findContours(lesion, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(np.zeros_like(lesion), outline, -1, 1, cv2.FILLED)
    hull = cv2.contourArea(cv2.convexHull(np.concatenate(outline)))
    thickness = cv2.distanceTransform(np.pad(lesion, 1), cv2.DIST_C, 3).max()
    return lesion.sum() < OUTLINE * filled.sum(), thickness <= 2 and lesion.sum() < hull / 4
