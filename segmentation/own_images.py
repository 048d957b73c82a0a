"""Predict on a user's own pictures: overlay, mask, probability, and a table."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from dataset import READERS, SUFFIXES, DataError, try_reading
from segmentation.decision import Decision, doubtful_mask, to_mask
from segmentation.dicom import is_dicom
from segmentation.files import content_hash, encode_picture, write_atomic
from segmentation.measure import measure
from segmentation.outputs import lock_folder
from segmentation.overlays import draw_overlay
from segmentation.picture_files import Picture, list_pages, read_picture
from segmentation.pixel_depth import understand_depth
from segmentation.predict import BATCH, Network, predict_pictures, unlike_training
from segmentation.prediction_table import ENDINGS, SIZES, TABLE, PredictionTable, is_result, read_table
from segmentation.score_table import cell_to_text

MAX_FILE_BYTES = 1_000_000_000  # a picture of dataset.MAX_PIXELS, uncompressed, has 0.4 GB at most


def list_images(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Files as named and the pictures in folders, each once, without the results of earlier predictions.

    Returns:
        The pictures, and one line for each file that cannot be one.

    Raises:
        DataError: there is neither.
    """
    found = {}
    for path in paths:
        inside = sorted(p for p in path.iterdir() if _looks_like_a_picture(p)) if path.is_dir() else [path]
        found |= {os.path.abspath(p): p for p in inside}
    results = {folder: read_table(folder) or {} for folder in {path.parent for path in found.values()}}
    pictures = [path for path in found.values() if not is_result(path, results[path.parent])]
    earlier = len(found) - len(pictures)
    if earlier:
        print(f"{earlier} files are results of earlier predictions, and not taken for pictures")
    if not pictures:
        raise DataError(f"{', '.join(map(str, paths))}: no picture here ({', '.join((*SUFFIXES, *READERS))}).")
    problems = {path: problem for path in pictures if (problem := _not_a_picture(path))}
    return [path for path in pictures if path not in problems], list(problems.values())


def _looks_like_a_picture(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    return path.suffix.lower() in (*SUFFIXES, *READERS) or (not path.suffix and path.is_file() and is_dicom(path))


def _not_a_picture(path: Path) -> str:
    """Why a file is not even opened; "" if it can be. A pipe would be waited for, a device may never end."""
    if not path.exists():
        return f"{path}: {'is a link to nothing' if path.is_symlink() else 'no such file'}."
    if not path.is_file():
        return f"{path}: is a {'folder' if path.is_dir() else 'pipe or a device'}, and no picture."
    too_large = path.stat().st_size > MAX_FILE_BYTES
    return f"{path}: larger than {MAX_FILE_BYTES // 10**9} GB. Shrink it first." if too_large else ""


def predict_images(
    model: Network, stored: dict, paths: Sequence[Path], output: Path, decision: Decision, spacing: float | None = None
) -> int:
    """Overlay, mask and probability of each picture, and one CSV; a bad file is named and skipped.

    Args:
        model: the run's network.
        stored: the run's config.json.
        paths: files and folders.
        output: folder for the results; what others left there is not touched.
        decision: how a probability becomes a mask.
        spacing: mm from pixel to pixel, of pictures whose file does not say.

    Returns:
        1 if a file was skipped, else 0.

    Raises:
        DataError: there is no picture at all.
        RunError: the folder's predictions.csv is not ours, or another call writes there.
    """
    files, problems = list_images(paths)
    white = range_of(files, stored.get("white"))
    found = [try_reading(list_pages, path) for path in files]
    problems += [line for line in found if isinstance(line, str)]
    pictures = [picture for pages in found if not isinstance(pages, str) for picture in pages]
    output.mkdir(parents=True, exist_ok=True)
    with lock_folder(output, "prediction"):
        table = PredictionTable(output)
        names, replaced = {}, 0
        for picture in pictures:
            try:
                names[picture], again = table.claim(*picture)
                replaced += again
            except OSError as error:
                problems.append(f"{picture.path}: cannot be read ({error.strerror}).")
        kept = len(table.rows) - len(names)
        table.write()
        try:
            write = partial(write_prediction, decision=decision, limits=stored.get("appearance"), spacing=spacing)
            bases = [output / name for name in names.values()]
            rows = predict_each(model, list(names), bases, white, decision, write)
            for base, row in zip(bases, rows, strict=True):
                if isinstance(row, str):
                    problems.append(row)
                    del table.rows[base.name]
                else:
                    table.rows[base.name] |= row
        finally:
            table.write()
    done = {name: table.rows[name] for name in names.values() if name in table.rows}
    _print_warnings(done, problems, decision)
    earlier = f" ({replaced} replaced, {kept} of other pictures kept)" if replaced or kept else ""
    _print_end(len(done), len(problems), f"{output}{earlier}", table.renamed)
    return 1 if problems else 0


def _print_end(done: int, skipped: int, where: str, renamed: int) -> None:
    if renamed:
        print(f"{renamed} results have a number in their name, which was taken; {TABLE} says of which picture")
    print(f"{done} predictions in {where}" + (f"; {skipped} files skipped" if skipped else ""))


def range_of(files: Sequence[Path], trained_on: float | None) -> float | None:
    """The value that is white in pictures of more than 8 bits: as in training, unless these go beyond it."""
    white = understand_depth(files, several_are_read=True)
    if white and trained_on and white < trained_on:
        print(f"{trained_on:g} is white, as in the pictures that the network was trained on")
        return trained_on
    return white


def predict_each(
    model: Network,
    files: Sequence[Picture],
    bases: Sequence[Path],
    white: float | None,
    decision: Decision,
    write: Callable,
) -> Iterator[dict | str]:
    """Read, predict and write picture by picture.

    Args:
        bases: path of each picture's results, without their endings.
        white: value that is white in pictures of more than 8 bits.
        write: `write_prediction` but for the base, the picture and what the network says of it.

    Yields:
        In the order of the files, what `write` returns, or why the file cannot be read or its results not written.
    """
    batch = max(min(BATCH, len(files)), 1)
    chunks = [slice(start, start + batch) for start in range(0, len(files), batch)]
    writing: list[Future | str] = []
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(files), desc="predicting", unit="image") as progress,
    ):
        read = partial(try_reading, partial(read_picture, white=white))
        reading = [pool.submit(read, picture) for picture in files[:batch]]
        for chunk, following in zip(chunks, [*chunks[1:], slice(0)], strict=True):
            pictures = [job.result() for job in reading]
            # While the network is busy, the next pictures are read and the last results drawn.
            reading = [pool.submit(read, picture) for picture in files[following]]
            good = [picture[0] for picture in pictures if not isinstance(picture, str)]
            found = iter(predict_pictures(model, good, decision, batch).each() if good else ())
            yield from _results(writing)  # no more than two batches are in memory
            writing = [
                picture if isinstance(picture, str) else pool.submit(write, base, *picture, *next(found))
                for base, picture in zip(bases[chunk], pictures, strict=True)
            ]
            progress.update(len(pictures))
        yield from _results(writing)


def _results(jobs: Sequence[Future | str]) -> list[dict | str]:
    return [job if isinstance(job, str) else job.result() for job in jobs]


def write_prediction(
    base: Path,
    image: np.ndarray,
    own_spacing: tuple[float, float] | None,
    probability: np.ndarray,
    score: float | None,
    decision: Decision,
    limits: dict | None,
    spacing: float | None = None,
) -> dict | str:
    """Three files for one picture. Returns what predictions.csv says of them, or why they cannot be written.

    Args:
        base: path of the files, without their endings.
        own_spacing: mm from row to row and from column to column, from the picture's file.
        score: the picture's lesion score, of a network that has one.
        spacing: the same in both directions, where the file does not say.
    """
    mask = to_mask(probability, image.shape, decision, score)
    doubtful = doubtful_mask(probability, image.shape, decision, score)
    full = cv2.resize(probability, image.shape[::-1], interpolation=cv2.INTER_LINEAR)
    # The overlay is to be looked at and not measured: JPEG is 3 times faster to write and 8 times smaller.
    pictures = {
        "overlay.jpg": draw_overlay(image, mask, doubtful=doubtful)[..., ::-1],
        "mask.png": mask.astype(np.uint8) * 255,
        "probability.png": (full * 255).round().astype(np.uint8),
    }
    paths = [base.with_name(f"{base.name}_{ending}") for ending in ENDINGS]
    try:
        contents = [encode_picture(path, pictures[ending]) for path, ending in zip(paths, ENDINGS, strict=True)]
    except DataError as error:
        return str(error)
    for path, content in zip(paths, contents, strict=True):
        write_atomic(path, lambda temporary, content=content: temporary.write_bytes(content), sync=False)
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    sizes = measure(mask, pixel := own_spacing or (spacing and (spacing, spacing)))
    if pixel:
        sizes["area_mm2"] = int(mask.sum()) * pixel[0] * pixel[1]  # of all lesions, as area_px
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
        "warning": " ".join(unlike_training(image, limits)) if limits else "",
        "result_hashes": " ".join(map(content_hash, contents)),
    }


def _print_warnings(done: Mapping[str, Mapping], problems: Sequence[str], decision: Decision) -> None:
    for row in done.values():
        if row["warning"]:
            file, reason = cell_to_text(row["file"]), row["warning"]
            print(f"warning: {file} looks unlike the training data ({reason}): do not trust its mask")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if decision.lesion_given:
        print("every picture was taken to hold a lesion, as you said: an outline is no sign that there is one")
    elif nothing := sum(not row["area_px"] for row in done.values()):
        print(f"no lesion in {nothing} of {len(done)} pictures; where you know that there is one: --lesion-given")
