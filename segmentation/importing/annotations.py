"""Outlines in JSON files: LabelMe's shapes, and COCO's polygons and run lengths."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from dataset import DataError
from segmentation.importing.data_table import find_file, index_files, stem_of

MAX_JSON_BYTES = 200_000_000
LESIONS = ("benign", "malignant", "lesion", "tumor", "tumour", "mass", "nodule", "cancer", "cyst", "fibroadenoma")


class Outline(NamedTuple):
    """One area that a person drew."""

    path: Path  # of the JSON file
    label: str
    size: tuple[int, int] | None  # height and width of its picture, as the file says
    kind: str  # coco, or a shape of LabelMe
    data: Any  # COCO's segmentation, or LabelMe's points


class Outlines(NamedTuple):
    """What the JSON files of a folder hold."""

    of: dict[Path, list[Outline]]  # of each image that a file names; an empty list where nothing is drawn
    lines: list[str]  # what a person should know
    others: list[Path]  # JSON files of another kind


def read_outlines(files: Sequence[Path], images: Sequence[Path], wanted: Sequence[str] = ()) -> Outlines:
    """The outlines of every image.

    Args:
        files: JSON files.
        images: pictures that they may name.
        wanted: labels that are lesion; the others are then left out.

    Raises:
        DataError: a file is damaged, or holds several labels of which none is wanted.
    """
    index, found, others = index_files(images), defaultdict(list), []
    missing: list[str] = []
    for path in files:
        content = _read(path)
        if isinstance(content.get("shapes"), list):
            images_of = [(f"{stem_of(path.name)}.png", 0), (str(content.get("imagePath", "")), 0)]
            drawn = {0: [_from_labelme(path, content, shape) for shape in content["shapes"]]}
        elif isinstance(content.get("images"), list) and isinstance(content.get("annotations"), list):
            images_of, drawn = _from_coco(path, content)
        else:
            others.append(path)
            continue
        for name, number in images_of:
            here = find_file(name, index)
            near = [p for p in here if p.parent == path.parent] or [p for p in here if path.parent in p.parents] or here
            if len(near) > 1:
                raise DataError(f"{path}: {name} may be {near[0]} or {near[1]}. Write its folder into the file.")
            if near:
                found[near[0]] += drawn.pop(number, [])
                if "shapes" in content:
                    break
        else:
            missing += [f"{path.name}: {name}" for name, number in images_of if number in drawn]
    lines = [f"note: {len(missing)} images that JSON files name are not here ({missing[0]})"] if missing else []
    labels = Counter(outline.label for outlines in found.values() for outline in outlines)
    words = {word.strip().casefold() for word in wanted}
    if words and labels and not words & set(labels):
        raise DataError(f"{files[0]}: no outline is labelled {', '.join(wanted)} (--segment); found {_say(labels)}.")
    if not words and len(labels) > 1 and set(labels) - set(LESIONS):
        raise DataError(f"{files[0]}: the labels are {_say(labels)}. Say which are lesions: --segment LABEL.")
    kept = {image: [o for o in outlines if not words or o.label in words] for image, outlines in found.items()}
    lines += [f"outlines in {len(files) - len(others)} JSON files: {_say(labels)}"] if labels else []
    return Outlines(kept, lines, others)


def _say(labels: Counter) -> str:
    return ", ".join(f"{label or 'without a label'} ({n})"[:60] for label, n in labels.most_common(6))


def _read(path: Path) -> dict:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise DataError(f"{path}: larger than {MAX_JSON_BYTES // 10**6} MB. Refused.")
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        raise DataError(f"{path}: cannot be read as JSON. Replace or remove it.") from None
    return content if isinstance(content, dict) else {}


def _from_labelme(path: Path, content: dict, shape: dict) -> Outline:
    size = content.get("imageHeight"), content.get("imageWidth")
    kind, points = str(shape.get("shape_type") or "polygon"), shape.get("points")
    try:
        points = [(float(x), float(y)) for x, y in points]
        assert len(points) >= {"polygon": 3, "rectangle": 2, "circle": 2}[kind]
    except Exception:
        raise DataError(f"{path}: holds a shape of kind {kind!r:.40} that is no area. Draw polygons.") from None
    return Outline(path, str(shape.get("label") or "").strip().casefold(), size if all(size) else None, kind, points)


def _from_coco(path: Path, content: dict) -> tuple[list[tuple[str, Any]], dict]:
    try:
        labels = {c["id"]: str(c["name"]).strip().casefold() for c in content.get("categories", [])}
        images = {i["id"]: (str(i["file_name"]), (int(i["height"]), int(i["width"]))) for i in content["images"]}
        drawn = {number: [] for number in images}
        for item in content["annotations"]:
            if not item.get("segmentation"):
                raise DataError(f"{path}: annotation {item.get('id')} has a box and no outline. Export segmentations.")
            label = labels.get(item.get("category_id"), "")
            size = images[item["image_id"]][1]
            drawn[item["image_id"]].append(Outline(path, label, size, "coco", item["segmentation"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError(f"{path}: is no COCO file as its images and annotations promise. Export it again.") from None
    return [(name, number) for number, (name, _) in images.items()], drawn


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
            union |= _draw_coco(outline.data, shape) if outline.kind == "coco" else _draw_shape(outline, shape)
        except ImportError:
            raise DataError(
                f"{outline.path}: is read with pycocotools: pip install -r requirements-import.txt"
            ) from None
        except Exception:
            raise DataError(f"{outline.path}: holds an outline that cannot be drawn. Export it again.") from None
    return union


def exif_hint(size: tuple[int, int], shape: tuple[int, int]) -> str:
    """What to try where two sizes differ by a quarter turn."""
    turned = tuple(size) == shape[::-1]
    return "; EXIF turns it: try --ignore-exif" if turned else ""


def _draw_shape(outline: Outline, shape: tuple[int, int]) -> np.ndarray:
    canvas = Image.new("1", shape[::-1])
    pen, points = ImageDraw.Draw(canvas), outline.data
    if outline.kind == "circle":
        (x, y), (edge_x, edge_y) = points
        radius = np.hypot(x - edge_x, y - edge_y)
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=1, outline=1)
    elif outline.kind == "rectangle":
        (left, right), (top, bottom) = map(sorted, zip(*points[:2], strict=True))
        pen.rectangle([left, top, right, bottom], fill=1, outline=1)
    else:
        pen.polygon(points, fill=1, outline=1)
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
