"""Masks of another program, scored as a run's own; no TensorFlow is needed for it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import folders
import numpy as np
import pytest
from conftest import REPOSITORY, assert_one_clear_line, run_here
from PIL import Image

from dataset import DataError, find_samples, read_samples
from segmentation.data.splits import group_samples
from segmentation.scoring.other_masks import pair_masks, read_masks
from segmentation.scoring.prediction import score_mask
from segmentation.scoring.score_table import read_scores
from segmentation.scoring.scores import score_image


@pytest.fixture
def data(tmp_path) -> Path:
    """Ten images, the last of them normal, with reference masks."""
    folders.write_plain(tmp_path / "data")
    return tmp_path / "data"


def draw(folder: Path, value: int = 255, ending: str = "png", dtype=np.uint8) -> dict[str, np.ndarray]:
    """Another program's masks: the references, one column to the right, and nothing at all in the first."""
    folder.mkdir()
    masks = {}
    for i in range(folders.PICTURES):
        mask = np.roll(folders.lesion(i), 1, axis=1) & (0 < i < folders.PICTURES - 1)
        Image.fromarray(mask.astype(dtype) * dtype(value)).save(folder / f"scan{i}.{ending}")
        masks[f"scan{i}"] = mask
    return masks


def evaluate_without_tensorflow(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """evaluate_model.py in a process that cannot import TensorFlow."""
    code = f"import runpy, sys; sys.argv = sys.argv[1:]; sys.path.insert(0, {str(REPOSITORY)!r}); "
    code += "sys.modules.update(tensorflow=None, keras=None); runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, str(REPOSITORY / "evaluate_model.py"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def test_they_are_scored_as_a_runs_own_and_compared(data, tmp_path):
    masks = draw(tmp_path / "theirs")
    command = ("--masks", "theirs", "--data-dir", "data")
    words = "masks in theirs: 0 to 255, above 127.5 is lesion; 2 of 10 are empty", "10 images scored"
    result = evaluate_without_tensorflow(*command, cwd=tmp_path)
    assert_one_clear_line(result, *words, "is not known here", code=0)
    samples = find_samples(data)
    pictures = read_samples(samples)
    groups = dict(zip([s.name for s in samples], group_samples(samples, [p for p, _ in pictures]), strict=True))
    scores = read_scores(tmp_path / "evaluation.csv")
    for sample, (_, reference), score in zip(samples, pictures, scores, strict=True):
        expected = score_image(reference, masks[sample.name])
        for key, value in expected.items():
            assert score[key] == (None if value is None else pytest.approx(value, rel=1e-4)), key
        assert score["group"] == groups[sample.name] and score["name"] == sample.name
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert found["masks"] == "theirs" and found["runs"] == [] and found["environment"]["commit"]
    assert found["summary"]["lesions"]["missed"] == 1 and found["summary"]["normals"]["false_positive_rate"] == 0
    assert found["summary"]["lesions"]["dice"] == pytest.approx(np.mean([s["dice"] for s in scores][:9]))
    compared = run_here("compare_runs.py", "evaluation.csv", "evaluation.csv", cwd=tmp_path)
    assert_one_clear_line(compared, "difference +0.0000", code=0)
    again = run_here("evaluate_model.py", *command, cwd=tmp_path)
    assert_one_clear_line(again, *words, code=0)  # our own file is replaced


@pytest.mark.parametrize("form", [(1, "png", np.uint8), (255, "bmp", np.uint8), (65535, "tif", np.uint16)])
def test_what_is_above_half_of_the_range_is_lesion(data, tmp_path, capsys, form):
    masks, value = draw(tmp_path / "theirs", *form), form[0]
    samples = find_samples(data)
    paths = pair_masks(tmp_path / "theirs", samples)
    read = read_masks(paths, [reference.shape for _, reference in read_samples(samples)])
    for sample, mask in zip(samples, read, strict=True):
        np.testing.assert_array_equal(mask > 0, masks[sample.name])
    assert f"theirs: 0 to {value}, above {value / 2:g} is lesion" in capsys.readouterr().out


def refuse(data: Path, folder: Path, *words: str) -> None:
    """Pairing or reading ends in one line that holds the words."""
    samples = find_samples(data)
    with pytest.raises(DataError) as error:
        read_masks(pair_masks(folder, samples), [reference.shape for _, reference in read_samples(samples)])
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_missing_unknown_and_double_masks_are_counted_and_the_first_is_named(data, tmp_path):
    theirs = tmp_path / "theirs"
    refuse(data, theirs, "is no folder")
    draw(theirs)
    shutil.copy(theirs / "scan4.png", theirs / "scan4.bmp")
    refuse(data, theirs, "1 masks too many", "'scan4.png' first")
    (theirs / "scan4.bmp").rename(theirs / "other.png")
    (theirs / "notes.txt").touch()
    refuse(data, theirs, "1 masks are of no image", "'other.png' first")
    for number in (3, 7):
        (theirs / f"scan{number}.png").unlink()
    refuse(data, theirs, "2 of 10 images have no mask", "'scan3' first")


def test_a_mask_of_an_ending_of_two_parts_is_that_of_its_name(data, tmp_path):
    masks = [tmp_path / f"{sample.name}.nii.gz" for sample in find_samples(data)]
    for path in masks:
        path.touch()
    assert pair_masks(tmp_path, find_samples(data)) == masks


def test_masks_of_another_size_or_meaning_are_refused(data, tmp_path, capsys):
    draw(tmp_path / "theirs", 2)
    refuse(data, tmp_path / "theirs", "no mask holds more than 2", "255, or 1")
    small = Image.open(tmp_path / "theirs" / "scan5.png").resize((25, 20))
    shutil.rmtree(tmp_path / "theirs")
    masks = draw(tmp_path / "theirs")
    small.save(tmp_path / "theirs" / "scan5.png")
    refuse(data, tmp_path / "theirs", "scan5.png: mask is 25x20, its image 50x40")
    Image.fromarray(masks["scan5"].astype(np.uint8)).save(tmp_path / "theirs" / "scan5.png")
    samples = find_samples(data)
    read_masks(pair_masks(tmp_path / "theirs", samples), [reference.shape for _, reference in read_samples(samples)])
    assert "note: 1 of the empty masks hold 1, scan5.png first" in capsys.readouterr().out


def test_a_run_and_masks_exclude_each_other(tmp_path):
    for flags, words in (
        ([], "give either --run"),
        (["--run", "a", "--masks", "b"], "give either --run"),
        (["--masks", "b", "--tta"], "--tta is for --run"),
        (["--masks", "b", "--threshold", "0"], "--threshold is for --run"),
    ):
        assert_one_clear_line(run_here("evaluate_model.py", *flags, "--data-dir", "data", cwd=tmp_path), words, code=2)


def test_what_a_table_says_of_an_image(data):
    sample = find_samples(data)[0]
    score = score_mask(sample, 7, (np.ones((3, 4)), np.ones((3, 4))), np.ones((3, 4)))
    assert (score["name"], score["group"], score["diagonal"], score["dice"]) == (sample.name, 7, 5.0, 1.0)
