import errno
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_one_clear_line, run_here
from PIL import Image

from segmentation.common.errors import RunError, one_clear_line
from segmentation.common.files import write_json, write_picture


@pytest.mark.parametrize(
    "script",
    [["segmentation.audit"], ["evaluate_model.py", "--run", "models/none"], ["visualize_results.py", "--images", "."]],
)
def test_a_file_where_a_folder_should_be(phantom_data, tmp_path, script):
    """Root may write anywhere, but not below a file."""
    (tmp_path / "taken").touch()
    (tmp_path / "a.png").touch()
    where = ["--output", tmp_path / "taken" / "here.json"]
    data = [] if "--images" in script else ["--data-dir", phantom_data]
    assert_one_clear_line(run_here(*script, *data, *where, cwd=tmp_path), "taken", "choose a folder")


def test_each_error_is_one_line_and_an_exit_code(tmp_path, capsys):
    def ending(error):
        with pytest.raises(SystemExit) as stop, one_clear_line("Do this."):
            raise error
        return stop.value.code

    assert ending(RunError("models/x: is damaged.")) == "error: models/x: is damaged."
    free = "Free some space, or choose a folder on another disk."
    assert ending(OSError(errno.ENOSPC, "No space left", "a.png")) == f"error: a.png: No space left. {free} Do this."
    assert ending(OSError("not written whole")) == "error: not written whole."
    assert ending(KeyboardInterrupt()) == 130
    with pytest.raises(ZeroDivisionError), one_clear_line():  # our own mistakes stay visible
        1 / 0  # noqa: B018


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(SystemExit) as stop, one_clear_line():
        write_json(tmp_path / "metrics.json", {})
    assert "metrics.json: No space left on device. Free some space" in stop.value.code
    assert ".writing" not in stop.value.code and not list(tmp_path.iterdir())


def test_a_picture_is_written_wherever_the_name_allows(tmp_path):
    """Another alphabet in the path, grey and colour, the format of the ending; no folder is an error."""
    rng = np.random.default_rng(0)
    for name, shape in (("grå.png", (5, 7)), ("色.bmp", (5, 7, 3))):
        pixels = rng.integers(0, 255, shape, np.uint8)
        write_picture(tmp_path / name, pixels)
        with Image.open(tmp_path / name) as picture:
            assert picture.format == name[-3:].upper()
            assert np.array_equal(np.asarray(picture), pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    with pytest.raises(FileNotFoundError):
        write_picture(tmp_path / "nowhere" / "a.png", np.zeros((2, 2), np.uint8))


def test_a_picture_that_does_not_fit_on_the_disk_is_an_error(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError) as error:
        write_picture(tmp_path / "a.png", np.zeros((200, 200), np.uint8))
    assert error.value.errno == errno.ENOSPC and error.value.filename == str(tmp_path / "a.png")


def test_a_name_that_is_no_text_can_be_printed(monkeypatch, tmp_path):
    with (tmp_path / "out").open("w", encoding="utf-8") as out, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        with one_clear_line():
            print("old\udcff.png")
    assert (tmp_path / "out").read_text() == "old\\udcff.png\n"
