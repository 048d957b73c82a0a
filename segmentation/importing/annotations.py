"""Outlines in JSON files: LabelMe's shapes, and COCO's polygons and run lengths."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from dataset import DataError
from segmentation.importing.data_table import find_file, index_files, stem_of

LESIONS = ("benign", "malignant", "lesion", "tumor", "tumour", "mass", "nodule", "cancer", "cyst", "fibroadenoma")


class Outline(NamedTuple):
    """One area that a person drew."""

    path: Path  # of the JSON file
    label: str
    size: tuple[int, int] | None  # height and width of its picture, as the file says
    draw: Callable[[tuple[int, int]], np.ndarray]  # its pixels in a picture of this height and width


def read_outlines(files: Sequence[Path], images: Sequence[Path], wanted: Sequence[str]) -> tuple[dict, list, list]:
    """The outlines of every image that a file names, an empty list where nothing is drawn; lines that a person should
    know; and the JSON files of another kind.

    Args:
        files: JSON files.
        images: pictures that they may name.
        wanted: labels that are lesion; the others are then left out.

    Raises:
        DataError: a file is damaged, or holds several labels of which none is wanted.
    """
    index, found, others, missing = index_files(images), defaultdict(list), [], []
    for path in files:
        content = _read(path)
        if isinstance(content.get("shapes"), list):
            drawn = [_from_labelme(path, content, shape) for shape in content["shapes"]]
            pictures = [((f"{stem_of(path.name)}.png", str(content.get("imagePath", ""))), drawn)]
        elif isinstance(content.get("images"), list) and isinstance(content.get("annotations"), list):
            pictures = _from_coco(path, content)
        else:
            others.append(path)
            continue
        for names, drawn in pictures:
            if image := next(filter(None, (_find_image(path, name, index) for name in names)), None):
                found[image] += drawn
            else:
                missing.append(f"{path.name}: {names[-1]}")
    lines = [f"note: {len(missing)} images that JSON files name are not here ({missing[0]})"] if missing else []
    labels = Counter(outline.label for outlines in found.values() for outline in outlines)
    words = {word.strip().casefold() for word in wanted}
    if words and labels and not words & set(labels):
        raise DataError(f"{files[0]}: no outline is labelled {', '.join(wanted)} (--segment); found {_say(labels)}.")
    if not words and len(labels) > 1 and set(labels) - set(LESIONS):
        raise DataError(f"{files[0]}: the labels are {_say(labels)}. Say which are lesions: --segment LABEL.")
    kept = {image: [o for o in outlines if not words or o.label in words] for image, outlines in found.items()}
    lines += [f"outlines in {len(files) - len(others)} JSON files: {_say(labels)}"] if labels else []
    return kept, lines, others


def _find_image(path: Path, name: str, index: dict[str, list[Path]]) -> Path | None:
    """The image that a JSON file names: the nearest."""
    here = find_file(name, index)
    near = [p for p in here if p.parent == path.parent] or [p for p in here if path.parent in p.parents] or here
    if len(near) > 1:
        raise DataError(f"{path}: {name} may be {near[0]} or {near[1]}. Write its folder into the file.")
    return near[0] if near else None


def _say(labels: Counter) -> str:
    return ", ".join(f"{label or 'without a label'} ({n})"[:60] for label, n in labels.most_common(6))


def _read(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        raise DataError(f"{path}: cannot be read as JSON. Replace or remove it.") from None
    return content if isinstance(content, dict) else {}


def _from_labelme(path: Path, content: dict, shape: dict) -> Outline:
    size = content.get("imageHeight"), content.get("imageWidth")
    kind, points = str(shape.get("shape_type") or "polygon"), shape.get("points")
    try:
        points = [(float(x), float(y)) for x, y in points]
        (left, top), (right, bottom) = points[:2]
        if kind == "rectangle":
            points = [(left, top), (right, top), (right, bottom), (left, bottom)]
        elif kind == "circle":  # its centre, and a point on it
            radius, turns = np.hypot(left - right, top - bottom), np.linspace(0, 2 * np.pi, 100)
            points = [(left + radius * np.cos(turn), top + radius * np.sin(turn)) for turn in turns]
        elif kind != "polygon" or len(points) < 3:
            raise ValueError
    except Exception:
        raise DataError(f"{path}: holds a shape of kind {kind!r:.40} that is no area. Draw polygons.") from None
    label = str(shape.get("label") or "").strip().casefold()
    return Outline(path, label, size if all(size) else None, partial(_draw_polygon, points))


def _from_coco(path: Path, content: dict) -> list[tuple[tuple[str], list[Outline]]]:
    try:
        labels = {c["id"]: str(c["name"]).strip().casefold() for c in content.get("categories", [])}
        images = {i["id"]: (str(i["file_name"]), (int(i["height"]), int(i["width"]))) for i in content["images"]}
        drawn = {number: [] for number in images}
        for item in content["annotations"]:
            if not item.get("segmentation"):
                raise DataError(f"{path}: annotation {item.get('id')} has a box and no outline. Export segmentations.")
            label = labels.get(item.get("category_id"), "")
            size = images[item["image_id"]][1]
            drawn[item["image_id"]].append(Outline(path, label, size, partial(_draw_coco, item["segmentation"])))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError(f"{path}: is no COCO file as its images and annotations promise. Export it again.") from None
    return [((name,), drawn[number]) for number, (name, _) in images.items()]


def draw_outlines(outlines: Sequence[Outline], shape: tuple[int, int]) -> np.ndarray:
    """Everything inside the outlines, (H, W) bool, as LabelMe and pycocotools draw it.

    Raises:
        DataError: the file says another size than the picture has, or an outline cannot be drawn.
    """
    union = np.zeros(shape, bool)
    for outline in outlines:
        if outline.size and tuple(outline.size) != shape:
            height, width = outline.size
            raise DataError(f"{outline.path}: outlines a picture of {width}x{height}, but its image has "
                            f"{shape[1]}x{shape[0]}{exif_hint((height, width), shape)}.")  # fmt: skip
        try:
            union |= outline.draw(shape)
        except ImportError:
            needed = "is read with pycocotools: pip install -r requirements-import.txt"
            raise DataError(f"{outline.path}: {needed}") from None
        except Exception:
            raise DataError(f"{outline.path}: holds an outline that cannot be drawn. Export it again.") from None
    return union


def exif_hint(size: tuple[int, int], shape: tuple[int, int]) -> str:
    """What to try where two sizes differ by a quarter turn."""
    turned = tuple(size) == shape[::-1]
    return "; EXIF turns it: try --ignore-exif" if turned else ""


def _draw_polygon(points: Sequence[tuple[float, float]], shape: tuple[int, int]) -> np.ndarray:
    canvas = Image.new("1", shape[::-1])
    ImageDraw.Draw(canvas).polygon(points, fill=1, outline=1)
    return np.asarray(canvas)


def _draw_coco(segmentation: Any, shape: tuple[int, int]) -> np.ndarray:
    from pycocotools import mask

    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str):
        lengths = {"size": list(shape), "counts": segmentation["counts"].encode()}
    else:
        if isinstance(segmentation, dict) and (segmentation["size"] != list(shape) or
                                               sum(segmentation["counts"]) != shape[0] * shape[1]):  # fmt: skip
            raise ValueError("another size")
        lengths = mask.frPyObjects(segmentation, *shape)
    return mask.decode(mask.merge(lengths) if isinstance(lengths, list) else lengths).astype(bool)
