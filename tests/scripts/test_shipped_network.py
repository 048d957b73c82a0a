"""The network that comes with the repository: it predicts in a fresh clone, and its card is what model hubs read."""

import csv

import cv2
import pytest
from conftest import REPOSITORY, assert_one_clear_line, run_here
from phantoms import make_phantom

from segmentation.runs.finished import SHIPPED


def test_own_pictures_are_outlined_by_the_script(tmp_path):
    (tmp_path / "my scans é").mkdir()
    picture, _ = make_phantom("malignant", 4)
    cv2.imwrite(str(tmp_path / "my scans é" / "a.png"), picture)
    (tmp_path / "my scans é" / "broken.png").write_bytes(b"no picture")
    result = run_here("visualize_results.py", "--images", "my scans é", cwd=tmp_path)
    words = "comes with the repository", "1 predictions in predictions", "1 files skipped", "broken.png: cannot be read"
    assert_one_clear_line(result, *words)
    with (tmp_path / "predictions" / "predictions.csv").open(encoding="utf-8") as lines:
        (row,) = csv.DictReader(lines)
    mask = cv2.imread(str(tmp_path / "predictions" / "a_mask.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == picture.shape and (mask > 0).sum() == int(row["area_px"]) > 0


def test_it_is_small_and_has_a_card():
    yaml = pytest.importorskip("yaml")
    assert sum(path.stat().st_size for path in SHIPPED.glob("*.keras")) < 20 * 2**20
    _, front, text = (REPOSITORY / "models" / SHIPPED.name / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(front)
    assert {"license", "tags", "datasets", "metrics", "library_name"} <= set(card) and text.startswith("\n# Model card")
