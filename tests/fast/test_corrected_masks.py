"""Masks that are corrected by hand: to the editor and back, saved, and the commands that train on from there."""

import base64
import io
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset import DataError, find_samples, hash_pixels, read_sample
from segmentation.common.errors import RunError
from segmentation.common.files import lock_folder
from segmentation.page import corrections
from segmentation.runs.finished import SHIPPED
from segmentation.runs.schemas import read_config

PICTURE = np.random.default_rng(0).integers(0, 256, (30, 41), np.uint8)
MASK = np.zeros((30, 41), bool)
MASK[5:12, 7:20] = True


def editor(mask: np.ndarray) -> dict:
    """What the browser sends for a mask, (h, w) bool: opaque where there is lesion."""
    content = io.BytesIO()
    Image.fromarray(np.dstack([np.zeros((*mask.shape, 3)), mask * 255]).astype(np.uint8)).save(content, "PNG")
    return {"mask": "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()}


# ---------------------------------------------------------------- the editor


def test_a_mask_comes_back_as_it_was_painted():
    shown = corrections.to_editor(PICTURE, MASK)
    assert shown["picture"].startswith("data:image/jpeg") and shown["mask"].startswith("data:image/png")
    assert (corrections.from_editor(shown, PICTURE, MASK) == MASK).all()
    painted = MASK.copy()
    painted[20:25, 30:40], painted[5:8] = True, False
    assert (corrections.from_editor(editor(painted), PICTURE, MASK) == painted).all()


def test_of_a_large_picture_only_what_was_painted_changes(monkeypatch):
    monkeypatch.setattr(corrections, "EDITOR_SIDE", 40)
    rng = np.random.default_rng(1)
    mask = rng.random((100, 80)) > 0.5  # finer than the editor can show
    shown = corrections.to_editor(np.zeros((100, 80), np.uint8), mask)
    assert (corrections.from_editor(shown, PICTURE, mask) == mask).all()
    small = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown["mask"].partition(",")[2]))))[..., 3] > 0
    assert small.shape == (40, 32)
    small[:10], small[30:] = True, False  # a quarter at either end, painted and erased
    corrected = corrections.from_editor(editor(small), PICTURE, mask)
    changed = corrected != mask
    assert not changed[25:75].any() and changed[:25].any() and changed[75:].any()
    before = corrections.from_editor(shown, PICTURE, mask)
    assert corrected[:25].sum() > before[:25].sum() and corrected[75:].sum() < before[75:].sum()


@pytest.mark.parametrize(
    "sent",
    [None, "", {}, {"mask": 3}, {"mask": "data:image/png;base64,AAAA"}, {"mask": "A" * 21_000_000}]
    + [editor(np.ones((9, 9))), editor(np.ones((5000, 5000)))],
    ids=["nothing", "text", "empty", "number", "no picture", "long", "another size", "huge"],
)
def test_what_is_no_mask_of_the_picture_is_refused(sent):
    with pytest.raises(DataError, match="did not arrive"):
        corrections.from_editor(sent, PICTURE, MASK)


# ---------------------------------------------------------------- saved


def test_a_saved_pair_is_lossless_and_is_read_as_training_data(tmp_path):
    assert corrections.save_correction(tmp_path, "scan é.dcm", PICTURE, MASK) == "scan é"
    assert corrections.save_correction(tmp_path, "bare.jpg", PICTURE[:20], MASK[:20] & False) == "bare"
    assert corrections.count_corrections(tmp_path) == 2 and corrections.count_corrections(tmp_path / "none") == 0
    scan, bare = find_samples(tmp_path)
    assert (bare.label, scan.label) == ("normal", "lesion")
    image, mask = read_sample(scan)
    assert (image == PICTURE).all() and (mask == MASK).all() and read_sample(bare)[0].shape == (20, 41)


def test_a_table_with_other_columns_that_was_edited_by_hand_gets_a_row(tmp_path):
    (tmp_path / "meta.csv").write_text("\ufeffimage,class,patient,sha256\nold.png,normal,7,")  # no end of the last line
    corrections.save_correction(tmp_path, "scan.png", PICTURE, MASK)
    rows = (tmp_path / "meta.csv").read_text().splitlines()
    assert rows == ["image,class,patient,sha256", "old.png,normal,7,", f"scan.png,lesion,,{hash_pixels(PICTURE)}"]


@pytest.mark.parametrize(
    "text", ["image;class;sha256\nä.png;normal;\n", "image,class\nä.png,normal\n".encode("cp1252")]
)
def test_a_table_that_a_spreadsheet_saved_its_own_way_is_refused_and_nothing_is_left(tmp_path, text):
    (tmp_path / "meta.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match="meta.csv: is no table .* commas and UTF-8"):
        corrections.save_correction(tmp_path, "scan.png", PICTURE, MASK)
    assert not [path for path in tmp_path.rglob("*.png")]


def test_nothing_is_overwritten(tmp_path):
    mine = tmp_path / "images" / "Scan.jpg", tmp_path / "masks" / "scan-2.png"
    for path in mine:
        path.parent.mkdir()
        path.write_bytes(b"mine")
    names = [corrections.save_correction(tmp_path, "scan.png", PICTURE, MASK) for _ in range(3)]
    assert names == ["scan-3", "scan-4", "scan-5"] and {path.read_bytes() for path in mine} == {b"mine"}


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("../../etc/passwd.png", "passwd"),
        ("C:\\scans\\a.png", "a"),
        ("..", "picture"),
        ('a<b>:"|?*\n\0.png', "ab"),
        ("é" * 200, "é" * 100),
        ("", "picture"),
        ("IM0001", "IM0001"),
    ],
)
def test_a_name_stays_in_the_folder(tmp_path, name, kept):
    folder = tmp_path / "corrections"
    assert corrections.save_correction(folder, name, PICTURE, MASK) == kept
    assert [path.name for path in tmp_path.iterdir()] == ["corrections"]
    assert [path.name for path in (folder / "images").iterdir()] == [f"{kept}.png"]


def test_an_image_without_its_mask_is_not_left_behind(tmp_path, monkeypatch):
    def full_disk(path, pixels):
        begun.append(path.parent.name)
        if path.parent.name == "masks":
            raise OSError(28, "No space left on device", str(path))
        write(path, pixels)

    write, begun = corrections.write_picture, []
    monkeypatch.setattr(corrections, "write_picture", full_disk)
    with pytest.raises(OSError, match="No space"):
        corrections.save_correction(tmp_path, "scan.png", PICTURE, MASK)
    # In this order: a mask without its image, which a kill could leave behind, would stop the next training.
    assert begun == ["images", "masks"] and not [*tmp_path.glob("*/*")]


def test_one_process_saves_at_a_time(tmp_path):
    with lock_folder(tmp_path, "correction"), pytest.raises(RunError, match="another correction is writing"):
        corrections.save_correction(tmp_path, "scan.png", PICTURE, MASK)


# ---------------------------------------------------------------- trained on


def test_the_commands_of_the_default_network_need_no_flags(tmp_path):
    stored = read_config(SHIPPED) | {"root": tmp_path / "not here"}
    (command,) = corrections.training_commands(Path("my corrections"), SHIPPED, stored)
    words = ["python", "train_model.py", "--data-dir", "my corrections", "--start-from", str(SHIPPED)]
    assert shlex.split(command) == words
    with_data = list(corrections.training_commands(Path("c"), SHIPPED, stored | {"root": (tmp_path, tmp_path)}))
    # Not from bus-bra: the shipped network's own data hold images that those weights have seen.
    assert shlex.split(with_data[1])[2:] == ["--data-dir", "c", *[str(tmp_path)] * 2, "--start-from", "imagenet"]


def test_the_commands_of_another_network_build_that_network(tmp_path):
    network = read_config(SHIPPED)["network"] | {"encoder": "none", "base_filters": 2, "input_shape": (32, 32, 1)}
    stored = {"network": network, "root": tmp_path}
    flags = ["--image-size", "32", "--encoder", "none", "--base-filters", "2"]
    on_corrections, on_both = corrections.training_commands(Path("c"), Path("models/x"), stored)
    assert shlex.split(on_corrections)[-8:] == ["--start-from", "models/x", *flags]
    assert shlex.split(on_both)[-8:] == ["--start-from", "random", *flags]  # encoder none has no other weights
