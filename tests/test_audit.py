import json

import numpy as np
import pytest
from conftest import BUSI, assert_one_clear_line, busi_pairs, needs_busi, run_here, run_script
from folders import write_pairs
from PIL import Image
from segmentation.audit import audit, describe
from test_layouts import LAYOUTS
from test_mask_values import READ, grey, in_turn, ramp, write_deep

from dataset import find_samples
from segmentation.data import near_copies
from segmentation.importing.find_data import find_data


def test_audit_of_phantoms(phantom_data, tmp_path):
    result = run_script("segmentation.audit", "--data-dir", phantom_data, "--output", tmp_path, cwd=tmp_path)
    assert_one_clear_line(result, "no problem found", code=0)
    report = json.loads((tmp_path / "audit.json").read_text())
    assert report["source"] == "phantom" and sum(report["images"].values()) == 48
    assert report["near_copies"]["pairs"] >= 3
    assert (tmp_path / "audit.png").stat().st_size > 10_000


def test_every_broken_file_is_named_in_one_run(broken_data, tmp_path):
    half = broken_data / "benign" / "benign (1).png"
    half.write_bytes(half.read_bytes()[:5000])
    (broken_data / "benign" / "benign (2)_mask.png").unlink()
    Image.fromarray(np.zeros((7, 9), np.uint8)).save(broken_data / "benign" / "benign (3)_mask.png")
    (broken_data / "malignant" / "malignant (1).png").write_text("<html>404</html>")
    (broken_data / "malignant" / "malignant (3).png").unlink()
    with Image.open(broken_data / "benign" / "benign (5).png") as picture:
        Image.fromarray(np.zeros(picture.size[::-1], np.uint8)).save(broken_data / "benign" / "benign (5)_mask.png")
    for extra in broken_data.glob("benign/benign (5)_mask_*.png"):
        extra.unlink()
    result = run_here("segmentation.audit", "--data-dir", broken_data, "--output", tmp_path / "out", cwd=tmp_path)
    assert_one_clear_line(
        result, "benign (1).png", "benign (2).png: has no mask", "benign (3)_mask.png: mask is 9x7",
        "malignant (1).png", "malignant (3)_mask.png: mask without", "benign (5)_mask.png: mask is empty",
        "6 problems",
    )  # fmt: skip


def test_a_folder_without_data_is_one_line(tmp_path):
    result = run_here("segmentation.audit", "--data-dir", tmp_path / "nowhere", cwd=tmp_path)
    assert_one_clear_line(result, "nowhere: no such folder")


def test_audit_says_how_masks_and_pictures_are_read(tmp_path):
    write_deep(tmp_path, ramp(4095, np.uint16))
    for path in (tmp_path / "masks").iterdir():
        Image.fromarray(np.asarray(Image.open(path)) // 255).save(path)
    result = run_here("segmentation.audit", "--data-dir", tmp_path, "--output", tmp_path / "out", cwd=tmp_path)
    assert_one_clear_line(
        result, "masks hold 0 and 1; 1 is lesion", "10 pictures of more than 8 bits hold values up to 4095",
        "masks read as   0 is background, what differs by more than 0.5 is lesion", "mask modes      {'L': 10}",
        "pixel depth     4095 is white in pictures of more than 8 bits", "no problem found", code=0,
    )  # fmt: skip
    report = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert report["images"] == {"lesion": 9, "normal": 1} and report["white"] == [4095]


def test_audit_takes_the_values_of_the_lesion(tmp_path):
    write_pairs(tmp_path, in_turn(grey(1), grey(2)))
    arguments = ("--data-dir", tmp_path, "--mask-values", "2", "--output", tmp_path / "out")
    result = run_here("segmentation.audit", *arguments, cwd=tmp_path)
    assert_one_clear_line(result, "masks read as   2 is lesion, as you said", "{'normal': 6, 'lesion': 4}", code=0)


def test_audit_names_what_cannot_be_known(tmp_path):
    write_pairs(tmp_path, in_turn(*map(grey, range(1, 11))))
    result = run_here("segmentation.audit", "--data-dir", tmp_path, cwd=tmp_path)
    assert_one_clear_line(result, "error: ", "holds 0 and", "the masks hold 9 different areas")


@pytest.mark.parametrize("case", LAYOUTS)
def test_audit_of_any_layout(case, tmp_path):
    expected = LAYOUTS[case](tmp_path)
    report, good, _ = audit(find_data(tmp_path))
    assert report["problems"] == [] and len(good) == len(expected) == sum(report["images"].values())
    assert "no problem found" in describe(report)


@pytest.mark.parametrize("case", READ)
def test_audit_of_any_masks(case, tmp_path):
    write_pairs(tmp_path, READ[case][0])
    report, _, _ = audit(find_data(tmp_path))
    assert report["problems"] == [] and sum(report["mask_modes"].values()) == report["mask_files"] == 10
    assert len(report["masks_read_as"]) == 1 and report["images"] == {"lesion": 9, "normal": 1}


@needs_busi
def test_audit_of_the_real_busi(tmp_path, monkeypatch):
    monkeypatch.setattr(near_copies, "near_copies", lambda pictures: busi_pairs(find_samples(BUSI)))
    result = run_here("segmentation.audit", "--data-dir", BUSI, "--output", tmp_path, cwd=tmp_path)
    assert_one_clear_line(result, "no problem found", code=0)
    report = json.loads((tmp_path / "audit.json").read_text())
    assert report["images"] == {"benign": 437, "malignant": 210, "normal": 133}
    assert report["mask_modes"] == {"1": 663, "RGBA": 2, "RGB": 133}
    assert report["identical"] == [["benign (433)", "malignant (145)"]]
    assert ["benign (437)", "normal (34)"] in report["groups_across_classes"]
    assert len(report["several_masks"]) == 17 and report["near_copies"]["pairs"] >= 160
    assert 0.8 < report["near_copy_masks"]["mean_dice"] < 0.9
