"""Predictions on a user's own pictures: only our own files are replaced, and nothing hangs."""

import csv
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import dicom_files
import numpy as np
import pytest
from conftest import REPOSITORY, assert_one_clear_line
from PIL import Image
from segmentation.inference.prediction_table import COLUMNS, PredictionTable

from dataset import DataError
from segmentation.common.errors import RunError, one_clear_line
from segmentation.inference import own_images
from segmentation.scoring.decision import Decision

ENDINGS = {"overlay.jpg", "mask.png", "probability.png"}


class Brightness:
    """A network that takes bright for lesion."""

    input_shape = (None, 32, 32, 1)

    def predict_on_batch(self, x):
        return x / 255


def draw(path: Path, bright: int, shape=(40, 60)) -> Path:
    """A picture whose left part, `bright` columns wide, is white."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(shape, np.uint8)
    pixels[:, :bright] = 255
    Image.fromarray(pixels).save(path)
    return path


def predict(*paths: Path, output: Path, model=None) -> int:
    return own_images.predict_images(model or Brightness(), {}, paths, output, Decision())


def table(output: Path) -> list[dict]:
    with (output / "predictions.csv").open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def marked(output: Path, name: str) -> int:
    """Columns that a result takes for lesion."""
    return int((read(output / f"{name}_mask.png") > 0).any(axis=0).sum())


# ---------------------------------------------------------------- only our own files are replaced


def test_pictures_and_masks_in_the_output_folder_are_kept_and_results_never_read(tmp_path, capsys):
    """--images X --output X, where X holds x.png and the user's own x_mask.png, three times."""
    draw(tmp_path / "x.png", 20), draw(tmp_path / "x_mask.png", 33)
    before = contents(tmp_path)
    for call in range(3):
        # The second time as a shell writes it: X/*.
        paths = sorted(tmp_path.glob("*.*g")) if call == 1 else [tmp_path]
        assert predict(*paths, output=tmp_path) == 0
        said = capsys.readouterr().out
        assert len(table(tmp_path)) == 2 and len(contents(tmp_path)) == 2 + 2 * 3 + 2, said  # .lock and the table
        assert contents(tmp_path).items() >= before.items()
        assert ("1 results have a number in their name" in said) == (call == 0)
        assert ("2 replaced, 0 of other" in said, "6 files are results" in said) == (call > 0, call > 0)
    assert {row["name"] for row in table(tmp_path)} == {"x-2", "x_mask"} and abs(marked(tmp_path, "x-2") - 20) <= 1


def test_pictures_of_one_name_in_two_calls_keep_both_results(tmp_path, capsys):
    first, second = draw(tmp_path / "a" / "scan.png", 10), draw(tmp_path / "b" / "scan.png", 40)
    output = tmp_path / "out"
    predict(first, output=output), predict(second, output=output)
    assert "0 replaced, 1 of other pictures kept" in capsys.readouterr().out
    assert [(row["file"], row["name"]) for row in table(output)] == [(str(first), "scan"), (str(second), "scan-2")]
    assert [abs(marked(output, name) - wide) <= 1 for name, wide in (("scan", 10), ("scan-2", 40))] == [True, True]
    predict(second, output=output)  # its own result again, not scan-3
    assert len(table(output)) == 2


def test_another_picture_in_the_place_of_an_earlier_one_is_another_picture(tmp_path):
    """The next patient's stick, where the last one's was."""
    for bright in (10, 40):
        predict(draw(tmp_path / "stick" / "scan.png", bright), output=tmp_path / "out")
    assert [abs(marked(tmp_path / "out", n) - w) <= 1 for n, w in (("scan", 10), ("scan-2", 40))] == [True, True]


def test_a_result_that_the_user_has_changed_is_kept(tmp_path):
    picture, output = draw(tmp_path / "x.png", 10), tmp_path / "out"
    predict(picture, output=output)
    draw(output / "x_mask.png", 50)
    corrected = (output / "x_mask.png").read_bytes()
    predict(picture, output=output), predict(picture, output=output)
    assert (output / "x_mask.png").read_bytes() == corrected
    assert [row["name"] for row in table(output)] == ["x", "x-2"]
    for path in output.glob("x-2_*"):
        path.unlink()
    predict(picture, output=output)  # what was removed may be written again
    assert [row["name"] for row in table(output)] == ["x", "x-2"] and (output / "x-2_mask.png").exists()


def test_links_in_the_output_folder_are_not_followed(tmp_path):
    picture, output, precious = draw(tmp_path / "x.png", 10), tmp_path / "out", tmp_path / "precious"
    output.mkdir()
    precious.write_text("mine")
    for number, ending in enumerate(ENDINGS):
        (output / f"x_{ending}").symlink_to(precious if number else tmp_path / "nothing")
    predict(picture, output=output), predict(picture, output=output)
    assert precious.read_text() == "mine" and not (tmp_path / "nothing").exists()
    assert [row["name"] for row in table(output)] == ["x-2"]


@pytest.mark.parametrize("stranger", ["file,area\nx.png,3\n", ",".join(COLUMNS) + "\nx,../y\n", "link"])
def test_a_table_of_somebody_else_is_refused(tmp_path, stranger):
    picture, output, precious = draw(tmp_path / "x.png", 10), tmp_path / "out", tmp_path / "precious"
    output.mkdir()
    if stranger == "link":
        precious.write_text("mine")
        (output / "predictions.csv").symlink_to(precious)
    else:
        (output / "predictions.csv").write_text(stranger)
    with pytest.raises(RunError, match="predictions.csv: is no table"):
        predict(picture, output=output)
    assert not list(output.glob("x_*")) and (stranger != "link" or precious.read_text() == "mine")


def test_a_table_cannot_name_a_file_elsewhere(tmp_path):
    """Its rows say which file may be replaced."""
    picture, output = draw(tmp_path / "x.png", 10), tmp_path / "out"
    predict(picture, output=output)
    text = (output / "predictions.csv").read_text()
    (output / "predictions.csv").write_text(text.replace(",x,", ",../x,"))
    with pytest.raises(RunError, match="is no table"):
        predict(picture, output=output)


def test_what_a_stopped_call_left_is_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(own_images, "BATCH", 2)
    for number in range(5):
        draw(tmp_path / f"{number}.png", 10 + number)

    class StoppedAtTheThirdBatch(Brightness):
        calls = 0

        def predict_on_batch(self, x):
            self.calls += 1
            if self.calls == 3:
                raise KeyboardInterrupt
            return super().predict_on_batch(x)

    with pytest.raises(KeyboardInterrupt):
        predict(tmp_path, output=tmp_path, model=StoppedAtTheThirdBatch())
    assert list(tmp_path.glob("*_mask.png"))
    (tmp_path / "predictions.csv").write_bytes((tmp_path / "predictions.csv").read_bytes())
    predict(tmp_path, output=tmp_path)
    assert sorted(row["name"] for row in table(tmp_path)) == list("01234")
    assert all(row["area_px"] for row in table(tmp_path)) and len(list(tmp_path.glob("*_mask.png"))) == 5


def test_two_calls_into_one_folder_at_once(tmp_path):
    picture, output = draw(tmp_path / "x.png", 10), tmp_path / "out"

    class Second(Brightness):
        def predict_on_batch(self, x):
            with pytest.raises(RunError, match="another prediction is writing here"):
                predict(picture, output=output)
            return super().predict_on_batch(x)

    predict(picture, output=output, model=Second())
    assert len(table(output)) == 1


def test_names_are_kept_apart(tmp_path):
    def names(*paths):
        results = PredictionTable(tmp_path / "out")
        return [results.claim(draw(tmp_path / path, 10))[0] for path in paths]

    (tmp_path / "out").mkdir()
    assert names("a.png", "b/a.png", "a-2.png") == ["a", "a-2", "a-2-2"]
    assert names("a.png", "A.jpg") == ["a", "A-2"]  # to some disks they are one
    assert names("u\u0308.png", "\u00fc.jpg") == ["u\u0308", "\u00fc-2"]
    assert len(names(f"{'long' * 62}.png")[0]) == 200


def test_no_cell_of_the_table_is_a_formula(tmp_path, monkeypatch):
    names = ["=1+cmd|calc", "+1", "-1", "@SUM(1)", "\t=1", "'=1"]
    for name in names:
        draw(tmp_path / "in" / f"{name}.png", 10)
    monkeypatch.chdir(tmp_path / "in")
    paths = [Path(f"{name}.png") for name in names]
    for _ in range(2):  # read back, each name is what it was
        predict(*paths, output=tmp_path / "out")
        rows = table(tmp_path / "out")
        assert len(rows) == len(names)
        assert not [cell for row in rows for cell in row.values() if cell[:1] in tuple("=+-@\t\r")]
        assert {path.name.removesuffix("_mask.png") for path in (tmp_path / "out").glob("*_mask.png")} == set(names)


# ---------------------------------------------------------------- what is no picture


def test_what_is_no_file_is_named_and_never_opened(tmp_path):
    good = draw(tmp_path / "in" / "good.png", 10)
    os.mkfifo(tmp_path / "in" / "pipe.png")
    (tmp_path / "in" / "folder.png").mkdir()
    (tmp_path / "in" / "nothing.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "in" / "device.png").symlink_to("/dev/zero")
    shutil.copy(good, tmp_path / "in" / "._good.png")  # left by macOS
    with (tmp_path / "in" / "huge.png").open("wb") as huge:
        huge.truncate(own_images.MAX_FILE_BYTES + 1)
    pictures, problems = own_images.list_images([tmp_path / "in", tmp_path / "in" / "pipe.png", Path("/dev/null")])
    assert pictures == [good] and len(problems) == 6
    for name, reason in {"pipe": "pipe", "folder": "is a folder", "nothing": "link to nothing", "device": "device",
                         "huge": "larger than", "/dev/null": "device"}.items():  # fmt: skip
        assert any(name in problem and reason in problem for problem in problems), problems
    with pytest.raises(DataError, match="no picture"):
        own_images.list_images([tmp_path])


def test_a_pipe_does_not_hang(tmp_path):
    draw(tmp_path / "in" / "good.png", 10)
    os.mkfifo(tmp_path / "in" / "pipe.png")
    code = "import sys; sys.path[:0] = sys.argv[1:3]; import test_own_images as t; from pathlib import Path\n"
    code += "sys.exit(t.predict(Path('in'), Path('in/pipe.png'), output=Path('out')))"
    try:
        result = subprocess.run(
            [sys.executable, "-c", code, str(REPOSITORY), str(REPOSITORY / "tests")],
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        pytest.fail("hangs")
    assert_one_clear_line(result, "pipe.png: is a pipe or a device", "1 predictions in out", "1 files skipped")


def test_one_picture_under_two_names_of_its_path_is_predicted_once(tmp_path, monkeypatch):
    draw(tmp_path / "x.png", 10)
    monkeypatch.chdir(tmp_path)
    pictures, _ = own_images.list_images([Path("x.png"), Path("../") / tmp_path.name / "x.png", tmp_path, Path(".")])
    assert len(pictures) == 1


@pytest.mark.parametrize("shape", [(1, 3000), (3000, 1), (2, 900), (1, 1), (70_000, 2)])
def test_pictures_of_extreme_shapes(tmp_path, shape):
    assert predict(draw(tmp_path / "x.png", 1, shape), output=tmp_path / "out") == 0
    assert read(tmp_path / "out" / "x_mask.png").shape == shape


def test_a_picture_that_no_result_can_be_written_of_is_named(tmp_path, capfd):
    """PNG ends at a million pixels a side; BMP does not."""
    draw(tmp_path / "wide.bmp", 1, (1, 1_000_001)), draw(tmp_path / "x.png", 10)
    assert predict(tmp_path / "wide.bmp", tmp_path / "x.png", output=tmp_path / "out") == 1
    assert "wide_mask.png: 1000001x1 pixels cannot be written" in capfd.readouterr().err
    assert [row["name"] for row in table(tmp_path / "out")] == ["x"] and not list(tmp_path.glob("out/wide*"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_picture_that_holds_no_numbers_is_named(tmp_path, capsys, value):
    pixels = np.full((40, 60), 0.5, np.float32)
    pixels[3, 4] = value
    Image.fromarray(pixels).save(tmp_path / "x.tiff")
    assert predict(tmp_path / "x.tiff", output=tmp_path / "out") == 1
    assert "x.tiff" in capsys.readouterr().err and not list((tmp_path / "out").glob("x_*"))


def test_probabilities_that_are_no_numbers_are_an_error(tmp_path):
    class Damaged(Brightness):
        def predict_on_batch(self, x):
            return x * np.nan

    with pytest.raises(RunError, match="no numbers"):
        predict(draw(tmp_path / "x.png", 10), output=tmp_path / "out", model=Damaged())
    assert not list((tmp_path / "out").glob("x_*"))


# ---------------------------------------------------------------- places that cannot be written


@pytest.mark.parametrize(
    ("place", "hint"), [("file", "choose a folder"), ("file/below", "choose a folder"), ("link", "link to nothing")]
)
def test_a_place_that_cannot_be_written(tmp_path, place, hint):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    picture = draw(tmp_path / "x.png", 10)
    with pytest.raises(SystemExit) as stop, one_clear_line():
        predict(picture, output=tmp_path / place)
    assert place.split("/")[0] in stop.value.code and hint in stop.value.code and "space" not in stop.value.code


def test_a_signal_leaves_no_half_written_file(tmp_path):
    """SIGTERM, as a cluster sends it, in the middle of many pictures."""
    for number in range(40):
        draw(tmp_path / "in" / f"{number}.png", 10)
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]; import test_own_images as t; from pathlib import Path; import os\n"
    )
    code += "from segmentation.common.errors import one_clear_line\n"
    code += "class Slow(t.Brightness):\n"
    code += "    def predict_on_batch(self, x):\n        print('at work', flush=True); import time; time.sleep(1)\n"
    code += "        return super().predict_on_batch(x)\n"
    code += "with one_clear_line('All is well.'):\n    t.predict(Path('in'), output=Path('out'), model=Slow())"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(REPOSITORY), str(REPOSITORY / "tests")],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for _ in range(3):
        process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143 and "stopped. All is well." in errors and "Traceback" not in errors
    assert not list((tmp_path / "out").glob(".writing*"))
    assert len(table(tmp_path / "out")) == 40  # those that were not predicted have no numbers yet
    for path in (tmp_path / "out").glob("*.png"):
        read(path)


# ---------------------------------------------------------------- several pictures in a file, and sizes


def bright_frames(count: int) -> np.ndarray:
    """Frames whose left part is white, 10 columns more in each; (count, ROWS, COLUMNS) uint8."""
    frames = np.zeros((count, dicom_files.ROWS, dicom_files.COLUMNS), np.uint8)
    for number, frame in enumerate(frames, start=1):
        frame[:, : 10 * number] = 255
    return frames


def test_every_frame_of_a_cine_loop_is_a_picture_measured_in_mm(tmp_path, capsys):
    frames = bright_frames(3)
    data = dicom_files.header(frames[0], "MONOCHROME2", dicom_files.LITTLE, frames=3)
    data.SequenceOfUltrasoundRegions = [dicom_files.spaced(0.02, 0.05)]  # cm: 0.2 mm across, 0.5 mm down
    data.add_new("PixelData", "OB", frames.tobytes())
    (tmp_path / "in").mkdir()
    dicom_files.save(tmp_path / "in" / "loop", data)  # DICOM often has no ending
    assert predict(tmp_path / "in", output=tmp_path / "out") == 0
    rows = table(tmp_path / "out")
    assert [row["name"] for row in rows] == ["loop_page1", "loop_page2", "loop_page3"]
    assert [row["page"] for row in rows] == ["1", "2", "3"]
    for row, frame in zip(rows, frames, strict=True):
        mask = read(tmp_path / "out" / f"{row['name']}_mask.png") > 0
        assert abs(mask.sum() - (frame > 0).sum()) <= 2 * dicom_files.ROWS  # the network is smaller than the picture
        assert float(row["area_mm2"]) == pytest.approx(mask.sum() * 0.1, abs=0.01)
        height, width = np.ptp(np.nonzero(mask), axis=1) + 1
        # Of a rectangle the longest axis is the diagonal; the corners of its hull lie half a pixel inside.
        assert float(row["longest_mm"]) == pytest.approx(np.hypot(height * 0.5, width * 0.2), abs=0.5)
    assert predict(tmp_path / "in", output=tmp_path / "out") == 0 and len(table(tmp_path / "out")) == 3
    written = capsys.readouterr()
    texts = written.out + written.err + (tmp_path / "out" / "predictions.csv").read_text()
    for private in map(str, dicom_files.PRIVATE.values()):
        assert private not in texts and not any(private.encode() in c for c in contents(tmp_path / "out").values())


def test_the_size_of_a_pixel_may_be_given_by_hand(tmp_path):
    path = draw(tmp_path / "x.png", 30)
    own_images.predict_images(Brightness(), {}, [path], tmp_path / "out", Decision(), spacing=0.1)
    (row,) = table(tmp_path / "out")
    assert float(row["area_mm2"]) == pytest.approx(int(row["area_px"]) * 0.01, abs=0.01)
    assert float(row["longest_mm"]) == pytest.approx(float(row["longest_px"]) * 0.1, abs=0.02)
    predict(path, output=tmp_path / "plain")
    (row,) = table(tmp_path / "plain")
    assert row["area_mm2"] == row["longest_mm"] == row["across_mm"] == "" and float(row["longest_px"]) > 30


def test_every_page_of_a_tiff_is_a_picture(tmp_path):
    pages = [Image.fromarray(frame) for frame in bright_frames(2)]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])
    assert predict(tmp_path / "x.tif", output=tmp_path / "out") == 0
    first, second = (int(row["area_px"]) for row in table(tmp_path / "out"))
    assert 1.5 < second / first < 2.5


def test_white_is_what_it_was_in_training(tmp_path, capsys):
    dark = (draw(tmp_path / "x.png", 30), np.zeros((40, 60), np.uint16))[1]
    dark[:, :30] = 4000  # white of 12 bits; nearly black of 16
    Image.fromarray(dark).save(tmp_path / "deep.png")
    predict(tmp_path / "deep.png", output=tmp_path / "twelve")
    stored = {"white": 65535.0}
    own_images.predict_images(Brightness(), stored, [tmp_path / "deep.png"], tmp_path / "sixteen", Decision())
    assert int(table(tmp_path / "twelve")[0]["area_px"]) > 1000
    assert table(tmp_path / "sixteen")[0]["area_px"] == "0"
    assert "65535 is white, as in the pictures that the network was trained on" in capsys.readouterr().out
