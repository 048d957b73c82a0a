import json

import numpy as np
from conftest import BUSI, assert_one_clear_line, needs_busi, run_script
from PIL import Image


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
    result = run_script("segmentation.audit", "--data-dir", broken_data, "--output", tmp_path / "out", cwd=tmp_path)
    assert_one_clear_line(
        result, "benign (1).png", "benign (2).png: has no mask", "benign (3)_mask.png: mask is 9x7",
        "malignant (1).png", "malignant (3)_mask.png: mask without", "benign (5)_mask.png: mask is empty",
        "6 problems",
    )  # fmt: skip


def test_a_folder_without_data_is_one_line(tmp_path):
    result = run_script("segmentation.audit", "--data-dir", tmp_path / "nowhere", cwd=tmp_path)
    assert_one_clear_line(result, "nowhere: no such folder")


@needs_busi
def test_audit_of_the_real_busi(tmp_path):
    result = run_script("segmentation.audit", "--data-dir", BUSI, "--output", tmp_path, cwd=tmp_path)
    assert_one_clear_line(result, "no problem found", code=0)
    report = json.loads((tmp_path / "audit.json").read_text())
    assert report["images"] == {"benign": 437, "malignant": 210, "normal": 133}
    assert report["mask_modes"] == {"1": 663, "RGBA": 2, "RGB": 133}
    assert report["identical"] == [["benign (433)", "malignant (145)"]]
    assert ["benign (437)", "normal (34)"] in report["groups_across_classes"]
    assert len(report["several_masks"]) == 17 and report["near_copies"]["pairs"] >= 160
    assert 0.8 < report["near_copy_masks"]["mean_dice"] < 0.9
