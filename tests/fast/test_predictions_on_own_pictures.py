"""Predictions on a user's own pictures, by a network that takes bright for lesion: nothing is replaced or hangs."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import dicom_files
import numpy as np
import pytest
from conftest import REPOSITORY
from phantoms import make_phantom
from PIL import Image

from dataset import DataError
from segmentation.common.errors import one_clear_line
from segmentation.data.appearance import appearance, appearance_limits
from segmentation.inference import own_images
from segmentation.inference.own_images import Found, Wish, predict_images, write_prediction
from segmentation.reports import overlays
from segmentation.scoring.decision import Decision


class Brightness:
    input_shape = (None, 32, 32, 1)

    def predict_on_batch(self, x):
        return x / 255


def left_bright(bright: int, shape=(40, 60), white=255, dtype=np.uint8) -> np.ndarray:
    """A picture whose left part, `bright` columns wide, is white."""
    pixels = np.zeros(shape, dtype)
    pixels[:, :bright] = white
    return pixels


def draw(path: Path, bright: int, **of_picture) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(left_bright(bright, **of_picture)).save(path)
    return path


def predict(*paths: Path, output: Path, model=None, stored=None, **decision) -> int:
    return predict_images(model or Brightness(), stored or {}, paths, Wish(output, Decision(**decision)))


def table(output: Path) -> list[dict]:
    with (output / "predictions.csv").open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


# ---------------------------------------------------------------- where results go


@pytest.mark.parametrize(
    ("there", "used"), [("nothing", "out"), ("empty folder", "out"), ("folder", "out-2"), ("file", "out-2")]
)
def test_results_go_to_a_fresh_folder(tmp_path, capsys, there, used):
    output, picture = tmp_path / "out", draw(tmp_path / "x.png", 20)
    if there == "file":
        output.write_text("mine")
    elif there != "nothing":
        output.mkdir()
    if there == "folder":
        (output / "x_mask.png").write_text("mine")
    assert predict(picture, output=output) == 0
    written = tmp_path / used
    assert {path.name for path in written.iterdir()} == {
        "predictions.csv", "x_mask.png", "x_overlay.jpg", "x_probability.png"
    }  # fmt: skip
    assert abs((read(written / "x_mask.png")[0] > 0).sum() - 20) <= 1
    assert f"1 predictions in {written}" in capsys.readouterr().out
    if used != "out":
        assert (output / "x_mask.png" if there == "folder" else output).read_text() == "mine"
    before = {path: path.read_bytes() for path in written.iterdir()}
    predict(picture, output=output)
    assert {path: path.read_bytes() for path in written.iterdir()} == before
    assert len(table(tmp_path / ("out-3" if used == "out-2" else "out-2"))) == 1


def test_results_are_not_taken_for_pictures(tmp_path, capsys):
    """The output folder is predicted too; a mask in a folder without predictions.csv is a picture as any other."""
    draw(tmp_path / "in" / "x.png", 20), draw(tmp_path / "in" / "y_mask.png", 20)
    predict(tmp_path / "in", output=tmp_path / "out")
    assert [row["name"] for row in table(tmp_path / "out")] == ["x", "y_mask"]
    with pytest.raises(DataError, match="no picture here"):
        predict(tmp_path / "out", output=tmp_path / "out")
    assert "6 files are results of earlier predictions" in capsys.readouterr().out


def test_of_two_predictions_at_one_moment_the_slower_takes_the_next_folder(tmp_path, monkeypatch):
    def make_and_be_overtaken(path, **options):
        mkdir(path, **options)
        (tmp_path / "out" / "predictions.csv").touch()

    mkdir, picture = Path.mkdir, draw(tmp_path / "x.png", 20)
    monkeypatch.setattr(Path, "mkdir", make_and_be_overtaken)
    predict(picture, output=tmp_path / "out")
    assert not (tmp_path / "out" / "x_mask.png").exists() and len(table(tmp_path / "out-2")) == 1


@pytest.mark.parametrize(("place", "hint"), [("file/below", "choose a folder"), ("link", "link to nothing")])
def test_a_place_that_cannot_be_written(tmp_path, place, hint):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    picture = draw(tmp_path / "x.png", 10)
    with pytest.raises(SystemExit) as stop, one_clear_line():
        predict(picture, output=tmp_path / place)
    assert place.split("/")[0] in stop.value.code and hint in stop.value.code and "space" not in stop.value.code


def test_names_are_kept_apart(tmp_path):
    """Those of one name in several folders, and what is one name to some disks."""
    long = "long" * 62
    names = ["a.png", "a.png", "a-2.png", "A.jpg", "u\u0308.png", "\u00fc.png", f"{long}.png"]
    predict(*[draw(tmp_path / str(n) / name, 10) for n, name in enumerate(names)], output=tmp_path / "out")
    assert [row["name"] for row in table(tmp_path / "out")] == [
        "a", "a-2", "a-2-2", "A-3", "u\u0308", "\u00fc-2", long[:200]
    ]  # fmt: skip
    assert len(list((tmp_path / "out").glob("*_mask.png"))) == len(names)


def test_the_last_number_of_a_dicom_file_is_no_ending(tmp_path):
    files = [dicom_files.stored(tmp_path / f"1.2.840.{number}", dicom_files.speckle()) for number in (11, 12)]
    predict(*files, output=tmp_path / "out")
    assert [row["name"] for row in table(tmp_path / "out")] == ["1.2.840.11", "1.2.840.12"]


def test_no_cell_of_the_table_is_a_formula(tmp_path, monkeypatch):
    names = ["=1+cmd|calc", "+1", "-1", "@SUM(1)", "\t=1", "'=1"]
    paths = [draw(tmp_path / f"{name}.png", 10).relative_to(tmp_path) for name in names]
    monkeypatch.chdir(tmp_path)
    predict(*paths, output=Path("out"))
    assert not [cell for row in table(Path("out")) for cell in row.values() if cell[:1] in tuple("=+-@\t\r")]
    assert {path.name.removesuffix("_mask.png") for path in Path("out").glob("*_mask.png")} == set(names)


STOPPED = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from segmentation.common.errors import one_clear_line
from segmentation.inference.own_images import Wish, predict_images
from segmentation.scoring.decision import Decision

class Slow:
    input_shape = (None, 32, 32, 1)
    def predict_on_batch(self, x):
        print("at work", flush=True)
        time.sleep(0.5)
        return x / 255

with one_clear_line("All is well."):
    predict_images(Slow(), {}, [Path("in")], Wish(Path("out"), Decision()))
"""


def test_a_signal_leaves_no_half_written_file(tmp_path):
    """SIGTERM, as a cluster sends it, in the third batch: the results of the first are in the table."""
    for number in range(40):
        draw(tmp_path / "in" / f"{number}.png", 10)
    process = subprocess.Popen([sys.executable, "-c", STOPPED, str(REPOSITORY)], cwd=tmp_path, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    for _ in range(3):
        process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143 and "stopped. All is well." in errors and "Traceback" not in errors
    assert not list((tmp_path / "out").glob(".writing*")) and len(table(tmp_path / "out")) == 16
    for path in (tmp_path / "out").glob("*.*g"):
        read(path)


# ---------------------------------------------------------------- what is read


def test_what_is_no_file_is_named_and_never_opened(tmp_path, capsys):
    good = draw(tmp_path / "in" / "good.png", 10)
    for name in ("pipe.png", "pipe"):  # what has no ending may be DICOM
        os.mkfifo(tmp_path / "in" / name)
    below = draw(tmp_path / "in" / "folder.png" / "below.png", 12)
    (tmp_path / "in" / "nothing.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "in" / "device.png").symlink_to("/dev/zero")
    (tmp_path / "in" / "._good.png").write_bytes(good.read_bytes())  # left by macOS
    with (tmp_path / "in" / "huge.png").open("wb") as huge:
        huge.truncate(own_images.MAX_FILE_BYTES + 1)
    pictures, problems = own_images.list_images([tmp_path / "in", tmp_path / "in" / "pipe.png", Path("/dev/null")])
    assert sorted(pictures) == [below, good] and len(problems) == 4
    for name, reason in {"pipe": "pipe", "nothing": "link to nothing", "huge": "larger than",
                         "/dev/null": "device"}.items():  # fmt: skip
        assert any(name in problem and reason in problem for problem in problems), problems
    assert "4 other files are passed over (._good.png, device.png, pipe, ...)" in capsys.readouterr().out
    with pytest.raises(DataError, match="nowhere.png: no such file"):  # none is left: no empty folder is made
        predict(tmp_path / "nowhere.png", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_picture_under_two_names_of_its_path_is_predicted_once(tmp_path, monkeypatch):
    draw(tmp_path / "x.png", 10)
    monkeypatch.chdir(tmp_path)
    pictures, _ = own_images.list_images([Path("x.png"), Path("../") / tmp_path.name / "x.png", tmp_path, Path(".")])
    assert len(pictures) == 1


def test_one_picture_in_every_format_has_one_result(tmp_path):
    folder, grey = tmp_path / "scans ü", left_bright(30)
    draw(folder / "grey.png", 30)
    Image.fromarray(grey).save(folder / "grey.jpg", quality=100)
    Image.fromarray(np.dstack([grey] * 3)).save(folder / "colour.bmp")
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "deep.tiff")
    (folder / "notes.txt").touch()
    if sys.platform == "linux":  # elsewhere a name is always text
        draw(folder / os.fsdecode(b"old\xff.png"), 30)
    assert predict(folder, output=tmp_path / "out") == 0
    rows = table(tmp_path / "out")
    assert {row["area_px"] for row in rows} == {rows[0]["area_px"]} != {"0"}
    names = {"grey", "grey-2", "colour", "deep"} | ({"old"} if sys.platform == "linux" else set())
    assert {row["name"] for row in rows} == names
    for name in names:
        mask, probability = (read(tmp_path / "out" / f"{name}_{part}.png") for part in ("mask", "probability"))
        assert mask.shape == probability.shape == grey.shape and set(np.unique(mask)) == {0, 255}


def test_pictures_of_extreme_shapes(tmp_path):
    shapes = {"wide": (1, 3000), "high": (3000, 1), "thin": (2, 900), "point": (1, 1), "long": (70_000, 2)}
    assert predict(*[draw(tmp_path / f"{n}.png", 1, shape=s) for n, s in shapes.items()], output=tmp_path / "out") == 0
    assert {name: read(tmp_path / "out" / f"{name}_mask.png").shape for name in shapes} == shapes


def test_a_picture_that_cannot_be_used_is_named_and_skipped(tmp_path, capfd):
    good = draw(tmp_path / "good.png", 10)
    (tmp_path / "broken.png").write_bytes(good.read_bytes()[:60])
    draw(tmp_path / "wide.bmp", 1, shape=(1, 1_000_001))  # PNG ends at a million pixels a side
    for name, value in (("nan", np.nan), ("infinite", np.inf)):
        draw(tmp_path / f"{name}.tiff", 3, white=value, dtype=np.float32)
    assert predict(tmp_path, output=tmp_path / "out") == 1
    written = capfd.readouterr()
    for line in ("broken.png: cannot be read", "wide_mask.png: 1000001x1 pixels cannot be written",
                 "nan.tiff: holds pixels that are NaN", "infinite.tiff: holds pixels"):  # fmt: skip
        assert line in written.err
    assert "1 predictions in" in written.out and "4 files skipped" in written.out
    assert [row["name"] for row in table(tmp_path / "out")] == ["good"] and len(list((tmp_path / "out").iterdir())) == 4


def test_every_frame_of_a_cine_loop_is_a_picture_measured_in_mm(tmp_path, capsys):
    frames = np.stack([left_bright(10 * n, (dicom_files.ROWS, dicom_files.COLUMNS)) for n in (1, 2, 3)])
    data = dicom_files.header(frames[0], "MONOCHROME2", dicom_files.LITTLE, frames=3)
    data.SequenceOfUltrasoundRegions = [dicom_files.spaced(0.02, 0.05)]  # cm: 0.2 mm across, 0.5 mm down
    data.add_new("PixelData", "OB", frames.tobytes())
    (tmp_path / "in").mkdir()
    dicom_files.save(tmp_path / "in" / "loop", data)  # DICOM often has no ending
    assert predict(tmp_path / "in", output=tmp_path / "out") == 0
    rows = table(tmp_path / "out")
    assert [(row["name"], row["page"]) for row in rows] == [(f"loop_page{n}", str(n)) for n in (1, 2, 3)]
    for row, frame in zip(rows, frames, strict=True):
        mask = read(tmp_path / "out" / f"{row['name']}_mask.png") > 0
        assert abs(mask.sum() - (frame > 0).sum()) <= 2 * dicom_files.ROWS  # the network is smaller than the picture
        assert float(row["area_mm2"]) == pytest.approx(mask.sum() * 0.1, abs=0.01)
        height, width = np.ptp(np.nonzero(mask), axis=1) + 1
        # Of a rectangle the longest axis is the diagonal; the corners of its hull lie half a pixel inside.
        assert float(row["longest_mm"]) == pytest.approx(np.hypot(height * 0.5, width * 0.2), abs=0.5)
    printed = capsys.readouterr()
    written = [(printed.out + printed.err).encode(), *(path.read_bytes() for path in (tmp_path / "out").iterdir())]
    assert not [private for private in dicom_files.SECRETS if any(private.encode() in part for part in written)]


def test_a_row_of_the_table_by_hand(tmp_path):
    probability = np.zeros((20, 30), np.float32)
    probability[5:10, 10:20] = 0.75
    found = Found(np.zeros((40, 60), np.uint8), None, probability, None)
    row = write_prediction(tmp_path / "x", found, Wish(tmp_path, Decision(threshold=0.3), spacing=0.1), None)
    assert row["lesions"] == 1 and (row["width"], row["height"]) == (60, 40)
    assert (row["box_x"], row["box_y"], row["box_width"], row["box_height"]) == (20, 10, 20, 10)
    assert row["area_px"] == pytest.approx(200, abs=4) and 0.5 < row["mean_probability"] <= 0.75
    assert row["area_mm2"] == pytest.approx(row["area_px"] * 0.01, abs=0.01)  # by the spacing that was given by hand
    assert row["longest_mm"] == pytest.approx(row["longest_px"] * 0.1, abs=0.02)
    plain = write_prediction(tmp_path / "x", found, Wish(tmp_path, Decision()), None)
    assert "area_mm2" not in plain and "longest_mm" not in plain


def test_a_low_lesion_score_is_drawn_dashed_and_a_very_low_one_empties_mask_and_table(tmp_path):
    probability = np.zeros((20, 30), np.float32)
    probability[5:15, 10:20] = 0.9
    areas, orange, findings, decision = [], [], [], Decision(min_score=0.5, doubtful_score=0.6)
    for score in (0.3, 0.55, 0.7):
        found = Found(np.full((320, 480), 90, np.uint8), None, probability, score)
        row = write_prediction(tmp_path / "x", found, Wish(tmp_path, decision), None)
        assert row["lesion_score"] == score and read(tmp_path / "x_mask.png").any() == (score > 0.5)
        areas.append(row["area_px"])
        findings.append(row["finding"])
        upper = read(tmp_path / "x_overlay.jpg")[:350].astype(int)  # above the line of text
        colour = tuple(bytes.fromhex(overlays.PREDICTION[1:]))
        orange.append((((upper - colour) ** 2).sum(axis=2) < 3000).sum())
    assert findings == ["none", "doubtful", "lesion"] and areas[0] == 0 < areas[1] == areas[2]
    assert 0.3 < orange[0] / orange[2] < 0.7 and orange[0] == pytest.approx(orange[1], rel=0.02)


class Unsure(Brightness):
    def predict_on_batch(self, x):
        return {"lesion": x / 255, "lesion_score": np.full((len(x), 1), 0.4, np.float32)}


def test_the_table_and_a_line_say_which_outlines_are_doubtful(tmp_path, capsys):
    picture = draw(tmp_path / "x.png", 20)
    for given, finding, doubt in ((False, "doubtful", 1), (True, "lesion", 0)):
        predict(picture, output=tmp_path / finding, model=Unsure(), doubtful_score=0.5, lesion_given=given)
        (row,) = table(tmp_path / finding)
        assert row["finding"] == finding and float(row["doubt"]) == pytest.approx(doubt, abs=0.1)
        assert ("dashed outline: 1 of 1 pictures" in capsys.readouterr().out) is not given


def test_a_lesion_whose_presence_is_given_is_marked_in_every_picture(tmp_path, capsys):
    picture = draw(tmp_path / "x.png", 20)
    for given in (False, True):
        predict(picture, output=tmp_path / f"given {given}", threshold=1.0, lesion_given=given)
        assert (int(table(tmp_path / f"given {given}")[0]["area_px"]) > 0) is given
        said = capsys.readouterr().out
        assert ("no lesion found in 1 of 1 pictures" in said, "does not show" in said) == (not given, given)


def test_a_picture_unlike_the_training_images_has_a_warning(tmp_path, capsys):
    phantoms = [make_phantom(("benign", "malignant", "normal")[i % 3], i)[0] for i in range(9)]
    noise = np.random.default_rng(0).integers(0, 255, (300, 400), np.uint8)
    for number, picture in enumerate((*phantoms[6:], phantoms[0].T, noise)):
        Image.fromarray(picture).save(tmp_path / f"{number:02}.png")
    limits = appearance_limits([appearance(picture) for picture in phantoms[:6]])
    predict(tmp_path, output=tmp_path / "out", stored={"appearance": limits})
    warned = [bool(row["warning"]) for row in table(tmp_path / "out")]
    assert sum(warned[:3]) <= 1 and all(warned[3:])  # a picture that stands on its side, and noise
    assert "04.png looks unlike the training data (" in capsys.readouterr().out
