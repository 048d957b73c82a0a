"""How long an import takes, and how much memory: simulated folders of pictures of 600x500.

python benchmarks/importing.py 2000 10000
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
FRAMES = 40  # drawn once; every picture is one of them, mirrored, brighter and with its number


def write_folder(root: Path, count: int) -> None:
    """images/ and masks/ of so many pictures, none equal to another."""
    rng = np.random.default_rng(0)
    frames = [cv2.GaussianBlur(rng.rayleigh(60, (500, 600)).astype(np.float32), (0, 0), 1.2) for _ in range(FRAMES)]
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for k in range(count):
        mask = cv2.ellipse(
            np.zeros((500, 600), np.uint8), (150 + k % 300, 200 + k % 97), (60, 40), k % 90, 0, 360, 255, -1
        )
        picture = (np.roll(frames[k % FRAMES], 13 * k // FRAMES, axis=(0, 1)) * np.where(mask, 0.5, 1.2)).clip(0, 255)
        picture = picture.astype(np.uint8)
        cv2.putText(picture, str(k), (10, 480), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255)
        cv2.imwrite(str(root / "images" / f"{k:05}.png"), picture)
        cv2.imwrite(str(root / "masks" / f"{k:05}.png"), mask)


def main() -> None:
    """One import for each number on the command line."""
    for count in map(int, sys.argv[1:]):
        with tempfile.TemporaryDirectory() as temporary:
            root = Path(temporary)
            write_folder(root / "d", count)
            before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            command = [
                sys.executable,
                str(REPOSITORY / "import_data.py"),
                str(root / "d"),
                "--output",
                str(root / "plain"),
            ]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"{count} pictures: {time.perf_counter() - start:.0f} s, {cpu:.0f} s of CPU, {after.ru_maxrss >> 10} MB")


if __name__ == "__main__":
    main()
