"""Predict on the user's own pictures: overlay, mask and probability map of each, and a table."""

import csv
import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from dataset import DataError, try_reading
from segmentation.common.files import comparable, encode_picture, numbered, write_atomic
from segmentation.data.appearance import unlike_training
from segmentation.inference.dicom_seg import SEGMENTATION_ENDING, write_segmentations
from segmentation.pictures.listing import PREDICTIONS, RESULT_ENDINGS, list_pictures, shown
from segmentation.pictures.picture_files import PICTURES, Picture, list_pages, read_picture
from segmentation.pictures.pixel_depth import find_range
from segmentation.reports.overlays import draw_overlay
from segmentation.scoring.decision import Decision, doubtful_mask, to_mask
from segmentation.scoring.doubt import find_doubt
from segmentation.scoring.measure import measure
from segmentation.scoring.prediction import BATCH, Network, predict_pictures
from segmentation.scoring.score_table import text_to_cell

MAX_FILE_BYTES = 1_000_000_000  # an uncompressed picture of dataset.MAX_PIXELS has at most 0.4 GB
# Axes of the largest lesion and area of all lesions; in mm only if the size of a pixel is known.
SIZES = ("longest_px", "across_px", "area_mm2", "longest_mm", "across_mm")
TABLE_COLUMNS = ("file", "page", "name", "width", "height", "lesions", "area_px", "area_percent")
TABLE_COLUMNS += ("box_x", "box_y", "box_width", "box_height", *SIZES, "mean_probability", "lesion_score")
TABLE_COLUMNS += ("finding", "doubt", "warning")
MOST_DOUBTFUL = 10  # named at the end


class Wish(NamedTuple):
    """The user's settings for the predictions."""

    output: Path  # folder for the results
    decision: Decision  # how a probability becomes a mask
    spacing: float | None = None  # mm between pixels, for files that do not contain it
    segmented_by: str | None = None  # version that DICOM Segmentations name; None: none are written


class Found(NamedTuple):
    """A picture and the network's outputs for it."""

    image: np.ndarray  # (H, W) uint8
    spacing: tuple[float, float] | None  # mm between rows and between columns, from the picture's file
    probability: np.ndarray  # (S, S) float32, calibrated
    score: float | None  # lesion score, calibrated; None if the network has none


# ---------------------------------------------------------------- find the pictures


def list_images(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """List the named files and the pictures in the named folders and below, each once, without results of earlier
    predictions; one line says what is passed over.

    Returns:
        The pictures, and one line for each file that cannot be read as a picture.

    Raises:
        DataError: there is neither, or a folder cannot be listed.
    """
    found, passed = {}, []
    for path in paths:
        inside, others = list_pictures(path) if path.is_dir() else ([path], [])
        found |= {os.path.abspath(p): p for p in inside}
        passed += [p for p in others if p.name != PREDICTIONS and not _is_result(p)]
    pictures = [path for path in found.values() if not _is_result(path)]
    if earlier := len(found) - len(pictures):
        print(f"{earlier} files are results of earlier predictions, and are left out")
    if passed:
        print(f"{len(passed)} other files are passed over ({shown(passed)})")
    if not pictures:
        raise DataError(f"{', '.join(map(str, paths))}: no picture here ({', '.join(PICTURES)}).")
    problems = {path: problem for path in pictures if (problem := _not_a_picture(path))}
    return [path for path in pictures if path not in problems], list(problems.values())


def _is_result(path: Path) -> bool:
    return path.name.endswith((*RESULT_ENDINGS, SEGMENTATION_ENDING)) and (path.parent / PREDICTIONS).exists()


def _not_a_picture(path: Path) -> str:
    """Why a file must not be opened; "" if it can be. Reading a pipe or a device might never end."""
    if not path.exists():
        return f"{path}: {'is a link to nothing' if path.is_symlink() else 'no such file'}."
    if not path.is_file():
        return f"{path}: is a {'folder' if path.is_dir() else 'pipe or a device'}, not a picture."
    too_large = path.stat().st_size > MAX_FILE_BYTES
    return f"{path}: larger than {MAX_FILE_BYTES // 10**9} GB. Shrink it first." if too_large else ""


# ---------------------------------------------------------------- predict


def predict_images(model: Network, stored: dict, paths: Sequence[Path], wish: Wish) -> int:
    """Write overlay, mask and probability map of each picture, and one CSV table; unreadable files are skipped.

    No file is replaced: if the output folder is not empty, output-2 is made.

    Args:
        model: the run's network.
        stored: the run's config.json.
        paths: files and folders.
        wish: the output folder, and how a probability becomes a mask.

    Returns:
        1 if a file was skipped, else 0.

    Raises:
        DataError: no picture can be opened.
    """
    files, problems = list_images(paths)
    white = range_of(files)
    found = [try_reading(list_pages, path) for path in files]
    problems += [line for line in found if isinstance(line, str)]
    pictures = [picture for pages in found if not isinstance(pages, str) for picture in pages]
    if not pictures:
        raise DataError("\n".join(problems))
    folder = _claim_folder(wish.output)
    names = _name_results(pictures)
    write = partial(write_prediction, wish=wish, limits=stored.get("appearance"))
    done: list[dict] = []
    try:
        rows = predict_each(model, pictures, wish.decision, partial(read_picture, white=white),
                            lambda picture, found: write(folder / names[picture], found))  # fmt: skip
        for picture, row in zip(pictures, rows, strict=True):
            if isinstance(row, str):
                problems.append(row)
            else:
                page = "" if picture.page is None else picture.page + 1
                done.append({"file": str(picture.path), "page": page, "name": names[picture], **row})
    finally:
        _write_table(folder / PREDICTIONS, done)
    skipped = len(problems)
    if wish.segmented_by is not None:
        problems += write_segmentations(folder, done, wish.segmented_by)
    _print_warnings(done, problems, wish.decision)
    print(f"{len(done)} predictions in {folder}" + (f"; {skipped} files skipped" if skipped else ""))
    if len(done) > 1:
        first = sorted(done, key=lambda row: -row["doubt"])[:MOST_DOUBTFUL]
        print("look at these first (doubt): " + ", ".join(f"{row['name']} {row['doubt']:.2f}" for row in first))
    return 1 if problems else 0


def _claim_folder(output: Path) -> Path:
    """Make the folder, or the first of output-2, output-3, ... that is empty; an empty table marks it as taken."""
    for folder in numbered(output):
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            folder.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):  # another process has taken the folder at the same moment
                (folder / PREDICTIONS).touch(exist_ok=False)
                return folder


def _name_results(pictures: Sequence[Picture]) -> dict[Picture, str]:
    """Names of the pictures' results, without endings: the files' names, numbered if two are the same."""
    taken: set[str] = set()
    names = {}
    for picture in pictures:
        # The last number of a DICOM file's name is no ending.
        stem = picture.path.name if picture.path.suffix[1:].isdigit() else picture.path.stem
        # Without bytes that are not UTF-8, and short enough for a file name with an ending.
        stem = os.fsencode(stem)[:200].decode(errors="ignore") or "picture"
        stem = stem if picture.page is None else f"{stem}_page{picture.page + 1}"
        names[picture] = next(path.name for path in numbered(Path(stem)) if comparable(path.name) not in taken)
        taken.add(comparable(names[picture]))
    return names


def _write_table(path: Path, rows: Sequence[Mapping]) -> None:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, TABLE_COLUMNS)
    table.writeheader()
    table.writerows({key: text_to_cell(v) if isinstance(v, str) else v for key, v in row.items()} for row in rows)
    # backslashreplace: a file name may contain bytes that are not UTF-8.
    content = text.getvalue().encode("utf-8", "backslashreplace")
    write_atomic(path, lambda temporary: temporary.write_bytes(content))


def range_of(files: Sequence[Path]) -> float | None:
    """The value of white in a folder's pictures of more than 8 bits whose files do not say; None without any."""
    white, lines = find_range(files, several_are_read=True)
    for line in lines:
        print(line)
    return white


def predict_each(
    model: Network, pictures: Sequence[Picture], decision: Decision, read: Callable, write: Callable
) -> Iterator[dict | str]:
    """Read, predict and write all pictures, at most two batches at a time.

    Args:
        model: the network.
        pictures: the file and page of each.
        decision: calibration, and whether to average with the mirrored picture.
        read: returns image and spacing of a picture, or raises a DataError.
        write: called with a picture and its `Found`.

    Yields:
        For each picture in order, what `write` returns, or why the picture could not be read.
    """
    batch = min(BATCH, len(pictures))
    chunks = [slice(start, start + batch) for start in range(0, len(pictures), batch)]
    writing: list[Future | str] = []
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(pictures), desc="predicting", unit="image") as progress,
    ):
        reading = [pool.submit(try_reading, read, picture) for picture in pictures[:batch]]
        for chunk, following in zip(chunks, [*chunks[1:], slice(0)], strict=True):
            images = [job.result() for job in reading]
            # While the network computes, the next pictures are read and the last results are written.
            reading = [pool.submit(try_reading, read, picture) for picture in pictures[following]]
            good = [item[0] for item in images if not isinstance(item, str)]
            found = iter(predict_pictures(model, good, decision, batch).each() if good else ())
            yield from _results(writing)  # no more than two batches are in memory
            writing = [
                item if isinstance(item, str) else pool.submit(write, picture, Found(*item, *next(found)))
                for picture, item in zip(pictures[chunk], images, strict=True)
            ]
            progress.update(len(images))
        yield from _results(writing)


def _results(jobs: Sequence[Future | str]) -> list[dict | str]:
    return [job if isinstance(job, str) else job.result() for job in jobs]


def write_prediction(base: Path, found: Found, wish: Wish, limits: dict | None) -> dict | str:
    """Write the three files of one picture. Returns its row of predictions.csv, or why they cannot be written.

    Args:
        base: path of the files, without their endings.
        found: the picture and the network's outputs.
        wish: how a probability becomes a mask.
        limits: range of the training images' statistics.
    """
    image, own_spacing, probability, score = found
    mask = to_mask(probability, image.shape, wish.decision, score)
    doubtful = doubtful_mask(probability, image.shape, wish.decision, score)
    full = cv2.resize(probability, image.shape[::-1], interpolation=cv2.INTER_LINEAR)
    # The overlay is only looked at, so JPEG will do: it is 3 times faster to write and 8 times smaller.
    pictures = {
        "_overlay.jpg": draw_overlay(image, mask, doubtful=doubtful)[..., ::-1],
        "_mask.png": mask.astype(np.uint8) * 255,
        "_probability.png": (full * 255).round().astype(np.uint8),
    }
    paths = [base.with_name(f"{base.name}{ending}") for ending in RESULT_ENDINGS]
    try:
        contents = [encode_picture(path, pictures[ending]) for path, ending in zip(paths, RESULT_ENDINGS, strict=True)]
    except DataError as error:
        return str(error)
    for path, content in zip(paths, contents, strict=True):
        write_atomic(path, lambda temporary, content=content: temporary.write_bytes(content), sync=False)
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    sizes = measure(mask, pixel := own_spacing or (wish.spacing and (wish.spacing, wish.spacing)))
    if pixel:
        sizes["area_mm2"] = int(mask.sum()) * pixel[0] * pixel[1]  # of all lesions, like area_px
    return {
        "width": image.shape[1],
        "height": image.shape[0],
        "lesions": cv2.connectedComponents(mask.astype(np.uint8))[0] - 1,
        "area_px": int(mask.sum()),
        "area_percent": round(100 * float(mask.mean()), 3),
        "box_x": x,
        "box_y": y,
        "box_width": width,
        "box_height": height,
        **{name: round(sizes[name], 2) for name in SIZES if name in sizes},
        "mean_probability": round(float(full[mask].mean()), 4) if mask.any() else "",
        "lesion_score": "" if score is None else round(score, 4),
        "finding": "none" if not mask.any() else "lesion" if doubtful is None else "doubtful",
        "doubt": round(find_doubt(full, mask, None if wish.decision.lesion_given else score, doubtful is not None), 4),
        "warning": " ".join(unlike_training(image, limits)) if limits else "",
    }


def _print_warnings(done: Sequence[Mapping], problems: Sequence[str], decision: Decision) -> None:
    for row in done:
        if row["warning"]:
            print(f"warning: {row['file']} looks unlike the training data ({row['warning']}): do not trust its mask")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if decision.lesion_given:
        print("a lesion was assumed in every picture (--lesion-given): an outline does not show that there is one")
    elif empty := sum(row["finding"] == "none" for row in done):
        print(f"no lesion found in {empty} of {len(done)} pictures; if you know that there is one: --lesion-given")
    if doubtful := sum(row["finding"] == "doubtful" for row in done):
        print(f"doubtful, with a dashed outline: {doubtful} of {len(done)} pictures, as their lesion score is low")
