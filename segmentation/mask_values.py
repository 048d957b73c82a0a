"""What the masks of a folder mean, understood for the folder as a whole, and what is white in its pictures."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from tqdm.contrib.concurrent import thread_map

from dataset import READERS, DataError, MaskReading, find_lesion, read_values, try_reading

LEVELS = 8  # up to so many grey values or colours are classes; more are compression, soft edges, or no mask at all
IN_BETWEEN = 0.35  # of the lesion's pixels may be neither background nor lesion: edges that were smoothed
FAINT = 0.001  # of a mask; more pixels that differ a little, and none that differs enough: another convention
OUTLINE = 0.4  # of a closed curve's area; below, the mask is the curve and not the area
SAMPLE = 64  # masks that are looked at for that
MOST = 0.5  # share of the picture from which a lesion is worth a note


class Levels(NamedTuple):
    """What one mask holds."""

    path: Path
    counts: dict  # pixels of each value, a number or a colour of three
    border: dict  # the same along the picture's border


def _count(values: np.ndarray) -> dict:
    """Pixels of each grey value or colour, from (N,) or (N, 3)."""
    if values.ndim == 1 and values.dtype == np.uint8:
        return {(float(level),): int(n) for level, n in enumerate(np.bincount(values)) if n}
    if values.ndim == 1:
        levels, counts = np.unique(values, return_counts=True)
        return {(float(level),): int(n) for level, n in zip(levels, counts, strict=True)}
    codes, counts = np.unique(values.astype(np.int64) @ [65536, 256, 1], return_counts=True)
    colours = [tuple(float(code >> shift & 255) for shift in (16, 8, 0)) for code in codes.tolist()]
    return {_as_grey(colour): int(n) for colour, n in zip(colours, counts, strict=True)}


def _as_grey(colour: tuple) -> tuple:
    return colour[:1] if len(set(colour)) == 1 else colour


def _levels(path: Path) -> Levels:
    values = read_values(path, as_mask=True)
    frame = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    return Levels(path, _count(values.reshape(-1, *values.shape[2:])), _count(frame))


def _difference(level: tuple, background: tuple) -> float:
    return float(np.abs(np.subtract(level, background)).max())


def _named(levels: Sequence[tuple]) -> str:
    """Levels as a person writes them: 0 and 255, or colours as (255, 0, 0)."""
    words = [f"{level[0]:g}" if len(level) == 1 else "(" + ", ".join(f"{v:g}" for v in level) + ")" for level in levels]
    if len(words) > 6:
        words = [*words[:3], f"{len(words) - 4} more", words[-1]]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def understand_masks(masks: Sequence[Path], values: Sequence[float] = ()) -> MaskReading:
    """How the masks of a folder are to be read; one printed line says it.

    Background is the value that most pixels along the borders have. With up to `LEVELS` values, each of the others is
    lesion. With more, those nearer to the lesion's usual value than to the background's are, if few lie between.

    Args:
        masks: every mask file; unreadable ones are left to whoever reads them.
        values: grey values that are lesion, from the user; nothing is then asked of the files.

    Raises:
        DataError: more values than compression or smoothing makes, or outlines in place of areas.
    """
    if values:
        print(f"masks: {_named([(float(v),) for v in values])} is lesion, as you said")
        return MaskReading(values=tuple(map(float, values)))
    read = thread_map(lambda path: try_reading(_levels, path), masks, max_workers=os.cpu_count(), leave=False)
    files = [item for item in read if isinstance(item, Levels)]
    border, counts = Counter(), Counter()
    for file in files:
        border.update(file.border)
        counts.update(file.counts)
    if not files or not border:
        return MaskReading()
    background = border.most_common(1)[0][0]
    others = sorted(level for level in counts if level != background)
    if not others:
        return MaskReading(background)
    ordered = sorted(counts)
    if len(counts) <= LEVELS:
        reading = MaskReading(background, min(_difference(level, background) for level in others) / 2)
        print(f"masks hold {_named(ordered)}; {_named(others)} {'is' if len(others) == 1 else 'are'} lesion")
    else:
        reading = _with_edges(files, counts, background)
        print(
            f"masks hold {len(counts)} values, as compression and soft edges make; lesion is what is nearer to "
            f"{_named([max(counts, key=lambda level: _difference(level, background))])} than to {_named([background])}"
        )
    _refuse_outlines(files, reading)
    return reading


def _with_edges(files: Sequence[Levels], counts: Counter, background: tuple) -> MaskReading:
    """The limit halfway to the lesion's usual value, if few enough pixels lie between.

    Raises:
        DataError: they are no edges; the message names the worst file.
    """
    top = max(_difference(level, background) for level in counts)
    usual = Counter()
    for level, count in counts.items():
        if (difference := _difference(level, background)) > top / 2:
            usual[difference] += count
    peak = usual.most_common(1)[0][0]

    def between(file: Levels) -> float:
        near = [0.2 < _difference(level, background) / peak < 0.8 for level in file.counts]
        far = [_difference(level, background) / peak >= 0.8 for level in file.counts]
        pixels = list(file.counts.values())
        return float(np.dot(near, pixels) / max(np.dot(far, pixels), 1))

    for file in files:
        faint = [level for level in file.counts if level != background]
        share = sum(file.counts[level] for level in faint) / sum(file.counts.values())
        if share > FAINT and all(_difference(level, background) < peak / 2 for level in faint):
            raise DataError(f"{file.path}: holds {_named(sorted(file.counts))}, where lesion is {peak:g} from the "
                            "background in other masks. Export all masks alike.")  # fmt: skip
    worst = max(files, key=between)
    shares = sorted(map(between, files))
    if shares[len(shares) // 2] > IN_BETWEEN or between(worst) > 10 * IN_BETWEEN:
        raise DataError(
            f"{worst.path}: is no mask of background and lesion: the masks hold {len(counts)} values, "
            f"{_named(sorted(worst.counts))} here. Export areas of one value, or name the lesion's with --mask-values."
        )
    return MaskReading(background, peak / 2)


def _refuse_outlines(files: Sequence[Levels], reading: MaskReading) -> None:
    """A curve around the lesion is refused, and most of the picture being lesion is worth a note.

    Raises:
        DataError: most masks are the curve around an area.
    """
    shares = [_share(file, reading) for file in files]
    filled = [file for file, share in zip(files, shares, strict=True) if share]
    looked_at = filled[:: -(-len(filled) // SAMPLE) or 1]
    thin = [file for file in looked_at if _is_outline(file.path, reading)]
    if len(thin) > len(looked_at) / 2:
        raise DataError(f"{thin[0].path}: holds an outline and not an area, and so do most masks. Fill them.")
    if filled and (most := sum(share > MOST for share in shares)) > len(filled) / 2:
        print(f"note: in {most} of {len(filled)} masks most of the picture is lesion. Are they inverted?")


def _share(file: Levels, reading: MaskReading) -> float:
    """Share of a mask that is lesion."""
    lesion = [n for level, n in file.counts.items() if _difference(level, reading.background) > reading.difference]
    return sum(lesion) / sum(file.counts.values())


def _is_outline(path: Path, reading: MaskReading) -> bool:
    lesion = find_lesion(read_values(path, as_mask=True), reading).astype(np.uint8)
    outline, _ = cv2.findContours(lesion, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return lesion.sum() < OUTLINE * cv2.drawContours(np.zeros_like(lesion), outline, -1, 1, cv2.FILLED).sum()


def understand_depth(images: Sequence[Path]) -> float | None:
    """The value that is white in a folder's pictures of more than 8 bits, said in one line; None without such."""

    def deepest(path: Path) -> float | None:
        if path.suffix.lower() in READERS:
            return None
        try:
            with Image.open(path) as picture:
                if getattr(picture, "n_frames", 1) > 1:
                    pages.append(path)
                if not picture.mode.startswith(("I", "F")):
                    return None
        except Exception:  # whoever reads it says what is wrong
            return None
        values = try_reading(read_values, path)
        return None if isinstance(values, str) else float(values.max(initial=0))

    pages: list[Path] = []
    found = [v for v in thread_map(deepest, images, max_workers=os.cpu_count(), leave=False) if v is not None]
    if pages:
        print(f"note: {len(pages)} files hold several pictures, {pages[0].name} first; only the first of each is read")
    if not found:
        return None
    top = max(found)
    white = next(limit for limit in (1.0, 255.0, 4095.0, 65535.0, float("inf")) if top <= limit)
    white = top if white == float("inf") else white
    print(f"{len(found)} pictures of more than 8 bits hold values up to {top:g}; {white:g} is white")
    return white
