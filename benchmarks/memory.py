"""How much memory does a training need for its pictures? Simulated folders of pictures of 600x500, read at 224x224.

    python benchmarks/memory.py 2000 10000

Reading, the search for near-copies and the split are measured, without the network and its batches. Needs Linux.
"""

import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from near_copies import memory

from segmentation.data.splits import Division
from segmentation.runs.parts import load_data, split_data


def write_folder(root: Path, count: int) -> None:
    """So many pictures in the plain form, none like another."""
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    (root / "meta.csv").write_text("image,class\n" + "".join(f"{k:05},lesion\n" for k in range(count)))
    for k in range(count):
        picture = cv2.resize(rng.integers(0, 256, (63, 75), np.uint8), (600, 500), interpolation=cv2.INTER_CUBIC)
        mask = cv2.circle(np.zeros((500, 600), np.uint8), (150 + k % 300, 200 + k % 97), 50, 255, -1)
        for part, values in (("images", picture), ("masks", mask)):
            cv2.imwrite(str(root / part / f"{k:05}.png"), values, (cv2.IMWRITE_PNG_COMPRESSION, 1))


def measure(folder: Path) -> tuple[float, float]:
    """Peak of the memory that is added, in MB, and seconds."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, start = memory("VmRSS"), time.perf_counter()
    split_data(load_data([folder], 224), Division(), [])
    return (memory("VmHWM") - before) * 2**20 / 1e6, time.perf_counter() - start


def main() -> None:
    """One reading for each number on the command line, each in a process of its own."""
    for count in map(int, sys.argv[1:]):
        with tempfile.TemporaryDirectory() as temporary:
            write_folder(Path(temporary), count)
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                added, seconds = pool.submit(measure, Path(temporary)).result()
        print(f"{count} pictures: {added:.0f} MB, {added / count:.3f} MB a picture, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
