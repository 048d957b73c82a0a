"""What is in a folder of data, and what is wrong with it.

    python benchmarks/audit.py --data-dir data

It prints how the folder is read, writes audit.json and a contact sheet of its near-copies, audit.png, and ends with 1
if it found a problem that makes training wrong.
"""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tyro
from PIL import Image
from tqdm.contrib.concurrent import thread_map

sys.path.insert(0, str(Path(__file__).parent.parent))

from dataset import LABELS, READERS, DataError, Sample, list_samples, read_sample, resize_image, resize_mask
from segmentation.common.checks import AnyPath, GreyValues, checked
from segmentation.common.errors import one_clear_line
from segmentation.common.files import check_output, json_holds, write_json, write_picture
from segmentation.data.collection import data_source
from segmentation.data.near_copies import FINE, SLIDING, WHOLE, Pair, group_pairs, near_copies
from segmentation.importing.find_data import find_data
from segmentation.importing.mask_values import describe_reading
from segmentation.scoring.scores import overlap

SAME_FRAME = 0.98  # whole-picture correlation from which two masks should agree
COLOUR_DIFFERENCE, COLOUR_SHARE = 40, 0.0005  # a pixel is coloured / a picture has an overlay from here on
SHEET_PAIRS = 40


@checked
class AuditConfig:
    """Where to look, and where to write."""

    data_dir: AnyPath  # folder with images and their masks, or with an archive of them
    mask_values: GreyValues = ()  # grey values that are lesion; without them the masks are understood together
    output: AnyPath = Path(".")  # gets audit.json and audit.png


@dataclass
class Reading:
    """One sample read, or the reason why not."""

    sample: Sample
    problem: str | None = None
    image: np.ndarray | None = None
    mask: np.ndarray | None = None
    mask_modes: tuple[str, ...] = ()
    coloured: float = 0.0


def read(sample: Sample) -> Reading:
    """Read a sample; whatever is wrong with it stands in `problem`."""
    try:
        image, mask = read_sample(sample)
    except DataError as error:
        return Reading(sample, str(error))
    modes = tuple(look(path)[0] for path in sample.masks)
    return Reading(sample, None, image, mask, modes, look(sample.image)[1])


def look(path: Path) -> tuple[str, float]:
    """A picture's mode, and which share of it is coloured; of formats that Pillow does not read, the ending and 0."""
    if path.suffix.lower() in READERS:
        return path.suffix.lower(), 0.0
    with Image.open(path) as picture:
        if picture.mode.startswith(("1", "L", "I", "F")) and picture.mode != "LAB":
            return picture.mode, 0.0
        colours = np.asarray(picture.convert("RGB")).astype(np.int16)
    return picture.mode, float((np.ptp(colours, axis=2) > COLOUR_DIFFERENCE).mean())


def mask_agreement(a: np.ndarray, b: np.ndarray) -> float:
    """Dice between the masks of two near-copies, compared on one grid of 256x256."""
    return overlap(resize_mask(a, (256, 256)), resize_mask(b, (256, 256)))["dice"]


def audit(root: Path, mask_values: Sequence[float] = ()) -> tuple[dict, list[Reading], list[Pair]]:
    """Read everything below `root` and describe it: the content of audit.json, and what it was made from."""
    samples, problems = list_samples(root, mask_values)
    readings = thread_map(read, samples, max_workers=os.cpu_count(), desc="reading", unit="image", leave=False)
    problems += [r.problem for r in readings if r.problem]
    good = [r for r in readings if not r.problem]
    pairs = near_copies([r.image for r in good])
    groups = group_pairs(len(good), pairs)
    members = [
        [good[i].sample for i in np.flatnonzero(groups == g)] for g, n in Counter(groups.tolist()).items() if n > 1
    ]
    lesions = [r for r in good if r.sample.label != "normal"]
    # In another crop or frame the lesion has moved: only copies of one frame can be compared.
    agreement = {
        (p.a, p.b): mask_agreement(good[p.a].mask, good[p.b].mask)
        for p in pairs
        if p.whole > SAME_FRAME and good[p.a].mask.any() and good[p.b].mask.any()
    }
    name = [r.sample.name for r in good]
    heights, widths = ([r.image.shape[k] for r in good] for k in (0, 1))
    report = {
        "folder": str(root),
        "source": data_source(root, samples),
        "problems": problems,
        "images": dict(Counter(s.label for s in samples)),
        "mask_files": sum(len(s.masks) for s in samples),
        "size": {
            "smallest": [min(heights), min(widths)],
            "median": [int(np.median(heights)), int(np.median(widths))],
            "largest": [max(heights), max(widths)],
        }
        if good
        else {},
        "masks_read_as": sorted({describe_reading(s.reading) for s in samples}),
        "white": sorted({s.white for s in samples if s.white}),
        "mask_modes": dict(Counter(mode for r in good for mode in r.mask_modes)),
        "several_masks": [r.sample.name for r in good if len(r.sample.masks) > 1],
        "colour_overlay": [r.sample.name for r in good if r.coloured > COLOUR_SHARE],
        "lesion_area_percent": {
            label: [round(float(v), 2) for v in np.percentile(areas, [5, 50, 95])]
            for label in LABELS
            if (areas := [100 * r.mask.mean() for r in lesions if r.sample.label == label])
        },
        "identical": [[name[p.a], name[p.b]] for p in pairs if np.array_equal(good[p.a].image, good[p.b].image)],
        "near_copies": {
            "thresholds": {"whole": WHOLE, "fine": FINE, "sliding": SLIDING},
            "pairs": len(pairs),
            "groups": len(members),
            "images": sum(map(len, members)),
        },
        "groups_across_classes": [[s.name for s in group] for group in members if len({s.label for s in group}) > 1],
        "near_copy_masks": {
            "pairs": len(agreement),
            "mean_dice": _round(np.mean, agreement),
            "median_dice": _round(np.median, agreement),
            "below_0.5": [[name[a], name[b], round(d, 3)] for (a, b), d in agreement.items() if d < 0.5],
        },
        "pairs": [[name[p.a], name[p.b], round(p.whole, 3), round(p.fine, 3), round(p.sliding, 3)] for p in pairs],
    }
    return report, good, pairs


def _round(statistic, agreement: dict) -> float | None:
    return round(float(statistic(list(agreement.values()))), 3) if agreement else None


def contact_sheet(good: Sequence[Reading], pairs: Sequence[Pair]) -> np.ndarray:
    """The least certain near-copies and those with two labels, side by side with their masks' outlines."""

    def margin(pair: Pair) -> float:
        return max(pair.whole - WHOLE, pair.fine - FINE, pair.sliding - SLIDING)

    across = [p for p in pairs if good[p.a].sample.label != good[p.b].sample.label]
    chosen = (across + [p for p in sorted(pairs, key=margin) if p not in across])[:SHEET_PAIRS]
    tiles = []
    for pair in chosen:
        sides = []
        for reading in (good[pair.a], good[pair.b]):
            side = cv2.cvtColor(resize_image(reading.image, (150, 180)), cv2.COLOR_GRAY2BGR)
            outline, _ = cv2.findContours(
                resize_mask(reading.mask, (150, 180)), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
            )
            cv2.drawContours(side, outline, -1, (0, 200, 255), 1)
            side = cv2.copyMakeBorder(side, 16, 2, 1, 1, cv2.BORDER_CONSTANT)
            cv2.putText(
                side, reading.sample.name, (3, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA
            )
            sides.append(side)
        tile = cv2.copyMakeBorder(np.hstack(sides), 0, 18, 4, 4, cv2.BORDER_CONSTANT)
        text = f"whole {pair.whole:.2f}  fine {pair.fine:.2f}  sliding {pair.sliding:.2f}"
        cv2.putText(tile, text, (7, tile.shape[0] - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (160, 220, 160), 1, cv2.LINE_AA)
        tiles.append(tile)
    if not tiles:
        return np.zeros((40, 400, 3), np.uint8)
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % 4)
    return np.vstack([np.hstack(tiles[k : k + 4]) for k in range(0, len(tiles), 4)])


def describe(report: dict) -> str:
    """The report as a person reads it."""
    copies, masks = report["near_copies"], report["near_copy_masks"]
    across = [" = ".join(group) for group in report["groups_across_classes"]]
    lines = [
        f"{report['folder']} ({report['source']})",
        f"images          {report['images']}, {report['mask_files']} mask files",
        f"height x width  {report['size']}",
        f"mask modes      {report['mask_modes']}",
        f"masks read as   {'; '.join(report['masks_read_as'])}",
        *[f"pixel depth     {white:g} is white in pictures of more than 8 bits" for white in report["white"]],
        f"several masks   {len(report['several_masks'])}: {', '.join(report['several_masks'])}",
        f"colour overlay  {len(report['colour_overlay'])}: {', '.join(report['colour_overlay'])}",
        f"lesion area %   {report['lesion_area_percent']} (5th, 50th, 95th percentile)",
        f"identical       {'; '.join(' = '.join(pair) for pair in report['identical']) or 'none'}",
        f"near-copies     {copies['pairs']} pairs tie {copies['images']} images into {copies['groups']} groups",
        f"across classes  {len(across)} groups: {'; '.join(across)}",
        f"their masks     {masks['pairs']} pairs of one frame agree with Dice {masks['mean_dice']} (mean), "
        f"{masks['median_dice']} (median), {len(masks['below_0.5'])} below 0.5: about the most a network can score",
    ]
    problems = report["problems"]
    lines += [f"{len(problems)} problems make training wrong:", *problems] if problems else ["no problem found"]
    return "\n".join(lines)


def main(config: AuditConfig) -> int:
    """Print the audit, write audit.json and audit.png.

    Returns:
        1 if something makes training wrong, else 0.
    """
    description, sheet = config.output / "audit.json", config.output / "audit.png"
    is_audit = json_holds("folder", "mask_modes", "near_copies", "problems")
    check_output(description, is_audit)
    check_output(sheet, lambda _: is_audit(description))  # a picture says of itself nothing
    root = find_data(config.data_dir)
    report, good, pairs = audit(root, config.mask_values)
    write_picture(sheet, contact_sheet(good, pairs))
    write_json(description, report)
    print(describe(report))
    print(f"written: {description}, {sheet}")
    return 1 if report["problems"] else 0


if __name__ == "__main__":
    with one_clear_line():
        sys.exit(main(tyro.cli(AuditConfig, description=__doc__)))
