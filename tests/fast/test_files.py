"""Files are written whole or not at all, over no file of somebody else, and by one process at a time."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dataset import DataError
from segmentation.common import files
from segmentation.common.errors import RunError


def test_a_failed_write_keeps_the_good_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write_json(path, {"good": 1})

    def half(temporary):
        temporary.write_text("{")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as error:
        files.write_atomic(path, half)
    assert error.value.filename == str(path)  # and not the temporary one
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"bad": float("nan")})
    monkeypatch.setattr(Path, "write_bytes", lambda self, content: half(self))
    with pytest.raises(OSError, match="No space left"):
        files.write_picture(tmp_path / "a.png", np.zeros((2, 2), np.uint8))
    assert files.read_json(path) == {"good": 1} and list(tmp_path.iterdir()) == [path]


def test_two_writers_at_once_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "flags.json"

    def first(temporary):
        temporary.write_text('{"writer": 1}')
        files.write_json(path, {"writer": 2})  # begins and ends while the first is still writing

    files.write_atomic(path, first)
    assert files.read_json(path) == {"writer": 1} and list(tmp_path.iterdir()) == [path]


def test_a_link_is_replaced_and_its_target_left_alone(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "link.json").symlink_to(tmp_path / "precious")
    files.write_json(tmp_path / "link.json", {})
    assert (tmp_path / "precious").read_text() == "mine" and not (tmp_path / "link.json").is_symlink()


def test_a_picture_is_written_wherever_the_name_allows(tmp_path):
    """Another alphabet in the path, grey and colour, the format of the ending; too large for it is an error."""
    rng = np.random.default_rng(0)
    for name, shape in (("grå.png", (5, 7)), ("色.bmp", (5, 7, 3))):
        pixels = rng.integers(0, 255, shape, np.uint8)
        files.write_picture(tmp_path / name, pixels)
        with Image.open(tmp_path / name) as picture:
            assert picture.format == name[-3:].upper()
            assert np.array_equal(np.asarray(picture), pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    with pytest.raises(DataError, match="70000x1 pixels cannot be written"):
        files.write_picture(tmp_path / "a.jpg", np.zeros((1, 70_000), np.uint8))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes in a folder")
def test_what_would_never_end_or_fill_the_memory_is_refused(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    for path, words in ((tmp_path / "pipe", "regular file"), (tmp_path, "regular file"), (tmp_path / "a\0", "null")):
        with pytest.raises(RunError, match=words):
            files.read_json(path)
    (tmp_path / "a.json").write_text("{}")
    monkeypatch.setattr(files.check_file, "__defaults__", (1,))
    with pytest.raises(RunError, match="larger than"):
        files.read_json(tmp_path / "a.json")


@pytest.mark.parametrize("text", ["", "[1]", "3", "{", '{"a": NaN}', '{"a": 1e400, "b": Infinity}', "[" * 100_000])
def test_what_is_no_json_object_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(RunError, match=r"a\.json: "):
        files.read_json(tmp_path / "a.json")


def test_only_files_of_the_same_script_are_replaced(tmp_path):
    path, is_ours = tmp_path / "out" / "a.json", files.json_holds("data", "summary")
    files.check_output(path, is_ours)
    assert not list(path.parent.iterdir())
    files.write_json(path, {"data": 1, "summary": 2, "more": 3})
    files.check_output(path, is_ours)
    for text in ('{"data": 1}', "no JSON"):
        path.write_text(text)
        with pytest.raises(RunError, match=r"a\.json: exists already"):
            files.check_output(path, is_ours)
    with pytest.raises(RunError, match="out: is a folder"):
        files.check_output(path.parent, is_ours)


def test_a_folder_is_held_as_long_as_a_process_lives(tmp_path):
    with files.lock_folder(tmp_path, "training") as lock:
        with pytest.raises(RunError, match="another training is writing here"), files.lock_folder(tmp_path, "training"):
            pass
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock])
    with pytest.raises(RunError, match="another export"), files.lock_folder(tmp_path, "export"):
        pass  # the child has it open still
    child.communicate(b"\n")
    with files.lock_folder(tmp_path, "training"):
        pass


def test_a_full_disk_is_seen_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: SimpleNamespace(free=5_000_000))
    (tmp_path / "backup").write_bytes(bytes(1_000_000))  # is going to be replaced
    files.check_space(tmp_path, 6_000_000)
    with pytest.raises(RunError, match="5 MB are free, and up to 6 MB are to be written"):
        files.check_space(tmp_path, 7_000_000)
