"""What does prediction on own pictures cost beside the network? 100 pictures of 600x500, five times.

python benchmarks/own_images.py --run models/attention_unet_hospitals
"""

import contextlib
import io
import resource
import shutil
import statistics
import tempfile
from pathlib import Path

import cv2
import tyro
from shared import seconds

from segmentation.common import startup  # noqa: F401  # isort: skip
from segmentation.inference.own_images import Found, Wish, predict_images, write_prediction
from segmentation.pictures.picture_files import Picture, read_picture
from segmentation.runs.run_folder import load_run
from segmentation.scoring.decision import load_decision
from segmentation.scoring.prediction import predict_pictures
from tests.phantoms import make_phantom

PICTURES, REPEATS = 100, 5


def seconds_in_silence(call) -> float:
    """Wall time of one call, which prints nothing."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return seconds(call)


def peak() -> float:
    """Largest memory so far, in MiB (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main(run: Path) -> None:
    """Print a table.

    Args:
        run: folder of a finished run.
    """
    model, stored = load_run(run)
    decision = load_decision(run / "decision.json")
    with tempfile.TemporaryDirectory() as temporary:
        folder, wish = Path(temporary) / "in", Wish(Path(temporary) / "out", decision)
        folder.mkdir()
        for i in range(PICTURES):
            cv2.imwrite(str(folder / f"{i}.png"), cv2.resize(make_phantom("benign", i)[0], (600, 500)))
        files = sorted(folder.iterdir())
        images = [read_picture(Picture(file))[0] for file in files]
        prediction = predict_pictures(model, images, decision)  # traces and warms up
        (drawn := Path(temporary) / "drawn").mkdir()

        def draw() -> None:
            for file, image, found in zip(files, images, prediction.each(), strict=True):
                write_prediction(drawn / file.stem, Found(image, None, *found), wish, stored.get("appearance"))

        work = {
            "reading, one thread": lambda: [read_picture(Picture(file))[0] for file in files],
            "network": lambda: predict_pictures(model, images, decision),
            "drawing and writing, one thread": draw,
            "all of it, as the script does it": lambda: predict_images(model, stored, [folder], wish),
        }
        times = {name: [] for name in work}
        for _ in range(REPEATS):
            for name, call in work.items():
                times[name].append(seconds_in_silence(call))
        before = peak()
        copies = [Path(shutil.copytree(folder, folder.with_name(f"in{k}"))) for k in range(5)]
        five = seconds_in_silence(lambda: predict_images(model, stored, copies, wish))
        print(f"| {PICTURES} pictures of 600x500 | seconds, median of {REPEATS} |\n|---|---|")
        for name, values in times.items():
            print(f"| {name} | {statistics.median(values):.2f} |")
        print(f"| all of it, {5 * PICTURES} pictures | {five:.2f} |")
        print(f"| peak memory, MiB, at {PICTURES} and at {5 * PICTURES} | {before:.0f}, {peak():.0f} |")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
