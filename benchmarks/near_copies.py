"""How long does the search for near-copies take, how much memory does it add, and does it find all that was planted?

    python benchmarks/near_copies.py
    python benchmarks/near_copies.py --counts 780 2000

The pictures are phantoms, each of its own seed, and in memory before the search starts. Every tenth is made from the
picture five before it: another gain, crop, size or overlay, or several of these. Drawing them takes most of the time,
0.05 s each on a core, and is not counted. Needs Linux and 4 GiB.
"""

import multiprocessing
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import tyro
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent))

from segmentation.data import near_copies as search
from tests.phantoms import make_phantom

SEED = 31
LABELS = ["benign"] * 11 + ["malignant"] * 5 + ["normal"] * 4  # about BUSI's shares


def change_gain(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return cv2.convertScaleAbs(picture, alpha=rng.uniform(0.8, 1.2), beta=rng.uniform(-15, 15))


def crop(picture: np.ndarray, rng: np.random.Generator, least: float, most: float) -> np.ndarray:
    """Cut this share off the height and the width, anywhere."""
    cut = (rng.uniform(least, most, 2) * picture.shape).astype(int)
    top, left = rng.integers(0, cut + 1)
    return picture[top : picture.shape[0] - cut[0] + top, left : picture.shape[1] - cut[1] + left]


def resize(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    factor = rng.choice([rng.uniform(0.6, 0.9), rng.uniform(1.1, 1.5)])
    return cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


def annotate(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw calipers, the line between them and a label."""
    picture = picture.copy()
    ends = rng.integers(20, np.array(picture.shape[::-1]) - 20, (2, 2)).tolist()
    for end in ends:
        cv2.drawMarker(picture, end, 255, cv2.MARKER_CROSS, 15, 2)
    cv2.line(picture, *ends, 220, 1)
    cv2.putText(picture, "LT BREAST 3:00", (int(rng.integers(0, 150)), 30), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 230, 1)
    return picture


COPIES = {
    "gain": change_gain,
    "gain, crop up to 2.5 %": lambda p, rng: change_gain(crop(p, rng, 0, 0.025), rng),
    "gain, crop 10 to 25 %": lambda p, rng: change_gain(crop(p, rng, 0.1, 0.25), rng),
    "gain, size": lambda p, rng: change_gain(resize(p, rng), rng),
    "gain, overlay": lambda p, rng: annotate(change_gain(p, rng), rng),
    "gain, crop 10 to 25 %, overlay": lambda p, rng: annotate(change_gain(crop(p, rng, 0.1, 0.25), rng), rng),
}


def copied(index: int) -> str:
    """What was done to the picture five before to make this one; "" if this is no copy."""
    return list(COPIES)[index // 10 % len(COPIES)] if index % 10 == 9 else ""


def draw(index: int) -> np.ndarray:
    if change := copied(index):
        return COPIES[change](draw(index - 5), np.random.default_rng((SEED, index)))
    return make_phantom(LABELS[index % len(LABELS)], (SEED, index))[0]


def memory(field: str) -> float:
    """VmRSS (now) or VmHWM (peak) of this process, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 2**10 for line in lines if line.startswith(field))


def measure(count: int) -> dict:
    """Search the first `count` pictures of the parent process."""
    slide, searched = search._slide, []
    search._slide = lambda spectra, pairs: searched.append(len(pairs)) or slide(spectra, pairs)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, cpu, wall = memory("VmRSS"), time.process_time(), time.perf_counter()
    pairs = search.near_copies(pictures[:count])
    row = {"seconds": time.perf_counter() - wall, "CPU seconds": time.process_time() - cpu}
    row["MiB added"] = memory("VmHWM") - before
    planted = {(i - 5, i) for i in range(count) if copied(i)}
    found = {(p.a, p.b) for p in pairs}
    row |= {"slid over, a picture": sum(searched) / count, "planted": len(planted), "found": len(planted & found)}
    row |= {"others tied": len(found - planted), "missed": Counter(copied(b) for _, b in planted - found)}
    return row


def main(counts: tuple[int, ...] = (780, 2000, 5000, 10000)) -> None:
    """Print a table.

    Args:
        counts: how many pictures.
    """
    global pictures
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        drawn = pool.map(draw, range(max(counts)), chunksize=20)
        pictures = list(tqdm(drawn, total=max(counts), desc="drawing phantoms", unit="image", leave=False))
    print("| pictures | seconds | CPU seconds | MiB added | slid over, a picture | planted | found | others tied |")
    print("|---|---|---|---|---|---|---|---|")
    for count in counts:
        # A process each, so that one's memory is not counted in the next; a fork, so that it has the pictures.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
            row = pool.submit(measure, count).result()
        cells = [f"{row[key]:.0f}" for key in list(row)[:-1]]
        print("|", " | ".join([str(count), *cells]), "|", flush=True)
        for change, number in row["missed"].items():
            print(f"missed: {number} of {change}")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
