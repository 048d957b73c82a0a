"""Predict on a user's own pictures: overlay, mask, probability, and a table."""

import csv
import os
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import cv2
import keras
import numpy as np
from tqdm import tqdm

from dataset import SUFFIXES, DataError, read_gray, try_reading
from segmentation.decision import Decision, to_mask
from segmentation.figures import draw_overlay
from segmentation.files import write_picture
from segmentation.predict import BATCH, predict_pictures, unlike_training


def list_images(paths: Sequence[Path]) -> list[Path]:
    """Files as named, and the pictures in folders."""
    files = []
    for path in paths:
        files += sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{', '.join(map(str, paths))}: no picture here ({', '.join(SUFFIXES)}).")
    return files


def predict_images(model: keras.Model, stored: dict, paths: Sequence[Path], output: Path, decision: Decision) -> int:
    """Overlay, mask and probability of each picture, and one CSV; a bad file is named and skipped.

    Args:
        model: the run's network.
        stored: the run's config.json.
        paths: files and folders.
        output: folder for the results.
        decision: how a probability becomes a mask.

    Returns:
        1 if a file was skipped, else 0.

    Raises:
        DataError: there is no picture at all.
    """
    files = list_images(paths)
    names = unique_names(files)
    output.mkdir(parents=True, exist_ok=True)
    rows, problems = [], []
    batch = min(BATCH, len(files))
    chunks = [slice(start, start + batch) for start in range(0, len(files), batch)]
    writing: list[Future] = []
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(files), desc="predicting", unit="image") as progress,
    ):
        reading = [pool.submit(try_reading, read_gray, path) for path in files[chunks[0]]]
        for chunk, following in zip(chunks, [*chunks[1:], slice(0)], strict=True):
            pictures = [job.result() for job in reading]
            # While the network is busy, the next pictures are read and the last results drawn.
            reading = [pool.submit(try_reading, read_gray, path) for path in files[following]]
            problems += [p for p in pictures if isinstance(p, str)]
            good = [
                (f, n, p)
                for f, n, p in zip(files[chunk], names[chunk], pictures, strict=True)
                if not isinstance(p, str)
            ]
            probability = predict_pictures(model, [p for _, _, p in good], decision, batch) if good else ()
            rows += [job.result() for job in writing]  # no more than two batches are in memory
            writing = [
                pool.submit(write_prediction, *g, p, decision, stored.get("appearance"), output)
                for g, p in zip(good, probability, strict=True)
            ]
            progress.update(len(pictures))
        rows += [job.result() for job in writing]
    if rows:
        # backslashreplace: a file may be named by bytes that are no text.
        with (output / "predictions.csv").open("w", newline="", encoding="utf-8", errors="backslashreplace") as lines:
            writer = csv.DictWriter(lines, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    _say_what_was_found(rows, problems, output, decision.lesion_given)
    return 1 if problems else 0


def _say_what_was_found(rows: Sequence[dict], problems: Sequence[str], output: Path, lesion_given: bool) -> None:
    for row in filter(lambda row: row["warning"], rows):
        print(f"warning: {row['file']} looks unlike the training data ({row['warning']}): do not trust its mask")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if lesion_given:
        print("every picture was taken to hold a lesion, as you said: an outline is no sign that there is one")
    elif nothing := sum(not row["area_px"] for row in rows):
        print(f"no lesion in {nothing} of {len(rows)} pictures; where you know that there is one: --lesion-given")
    print(f"{len(rows)} predictions in {output}" + (f"; {len(problems)} files skipped" if problems else ""))


def unique_names(files: Sequence[Path]) -> list[str]:
    """A name for the outputs of each file; two files of one name are told apart."""
    names, taken = [], set()
    for path in files:
        # Bytes that are no text are left out, and what would be too long for a file name with an ending.
        stem = os.fsencode(path.stem)[:200].decode(errors="ignore")
        name, number = stem, 2
        while name.casefold() in taken:  # to some disks, A and a are one
            name, number = f"{stem}-{number}", number + 1
        taken.add(name.casefold())
        names.append(name)
    return names


def write_prediction(
    path: Path,
    name: str,
    image: np.ndarray,
    probability: np.ndarray,
    decision: Decision,
    limits: dict | None,
    output: Path,
) -> dict:
    """Three files for one picture, and its row of predictions.csv."""
    mask = to_mask(probability, image.shape, decision)
    full = cv2.resize(probability, image.shape[::-1], interpolation=cv2.INTER_LINEAR)
    # The overlay is to be looked at and not measured: JPEG is 3 times faster to write and 8 times smaller.
    pictures = {
        "overlay.jpg": draw_overlay(image, mask)[..., ::-1],
        "mask.png": mask.astype(np.uint8) * 255,
        "probability.png": (full * 255).round().astype(np.uint8),
    }
    for ending, pixels in pictures.items():
        write_picture(output / f"{name}_{ending}", pixels)
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return {
        "file": str(path),
        "width": image.shape[1],
        "height": image.shape[0],
        "lesions": cv2.connectedComponents(mask.astype(np.uint8))[0] - 1,
        "area_px": int(mask.sum()),
        "area_percent": round(100 * float(mask.mean()), 3),
        "box_x": x,
        "box_y": y,
        "box_width": width,
        "box_height": height,
        "mean_probability": round(float(full[mask].mean()), 4) if mask.any() else "",
        "warning": " ".join(unlike_training(image, limits)) if limits else "",
    }
