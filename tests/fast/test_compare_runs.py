"""compare_runs.py and benchmarks/leak.py, on made-up scores."""

import json

import pytest
from conftest import assert_one_clear_line, run_here, run_script

import compare_runs
from segmentation.common.errors import RunError
from segmentation.scoring.score_table import read_scores, write_scores
from segmentation.scoring.scores import overlap_scores


def write_run(folder, shift, count=30):
    """A run's folder, and the Dice of each image with a lesion; a further score is twice that."""
    dice = [0.5 + 0.01 * (i % 7) + shift * (1 + i % 3) for i in range(count)]
    row = {"label": "benign", "run": "fold0-seed3"}
    scores = [row | {"name": str(i), "group": i, "dice": d, "twice": 2 * d} for i, d in enumerate(dice)]
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps({"images": scores}))
    return folder


def write_table(path, shift, false_positives=0):
    """Scores of 30 lesions of 100 pixels, of which 50 + shift or more are found, and of a normal image."""
    scores = []
    for i in range(31):
        tp, fp, fn = (50 + shift + i % 7, 0, 50 - shift - i % 7) if i < 30 else (0, false_positives, 0)
        total = tp + fp + fn
        score = {"name": f"{i}", "label": "lesion" if i < 30 else "normal", "group": i, "height": 20, "width": 20}
        score |= {"tp": tp, "fp": fp, "fn": fn, "dice": 2 * tp / (tp + total) if total else 1.0}
        score |= {"iou": tp / total if total else 1.0, "hd95": None, "assd": 2.5 - 0.01 * shift if i < 30 else None}
        scores.append(score | {"dice_lesion_given": 0.5 + 0.001 * shift if i < 30 else None, "run": "fold0-seed0"})
    write_scores(path, scores)
    return path


def printed_by(capsys, *arguments):
    compare_runs.main(*arguments)
    return capsys.readouterr().out.splitlines()


def test_a_better_run_is_told(tmp_path):
    a, b = write_run(tmp_path / "a", 0), write_run(tmp_path / "b", 0.05)
    result = run_script("compare_runs.py", a, b, cwd=tmp_path)
    assert_one_clear_line(result, "30 lesion images", "difference +0.1000", code=0)
    assert result.stderr == ""  # none of TensorFlow's notes
    assert float(result.stdout.rsplit("p = ", 1)[1].split()[0]) < 1e-5
    assert_one_clear_line(run_here("compare_runs.py", a, b, "--key", "twice", cwd=tmp_path), "+0.2000", code=0)


def test_tables_are_read(tmp_path, capsys):
    a = write_table(tmp_path / "cross_validation.csv", 0, false_positives=3)
    b = write_table(tmp_path / "evaluation.csv", 20)
    lines = printed_by(capsys, tmp_path, b)
    assert lines == [line.replace(str(a), str(tmp_path)) for line in printed_by(capsys, a, b)]
    # 50 to 56 of 100 pixels found, then 20 more.
    by = sum(2 * (70 + i % 7) / (170 + i % 7) - 2 * (50 + i % 7) / (150 + i % 7) for i in range(30)) / 30
    assert lines[0].startswith("dice on 30 lesion images:") and lines[1].startswith(f"difference {by:+.4f}, ")
    assert lines[3].startswith("false positive on 1 normal images:") and lines[3].endswith("evaluation.csv 0%")
    assert lines[4] == "difference -100.0 points, 95 % interval -100.0 to -100.0"
    assert lines[6].startswith(f"difference {(30 * by + 1) / 31:+.4f}, 95 % interval ")
    assert printed_by(capsys, a, b, "dice_lesion_given")[1].startswith("difference +0.0200, ")
    assert printed_by(capsys, a, b, "assd")[1].startswith("difference -0.2000, ")
    # A run is compared with the same fold of the table, whatever their seeds.
    assert printed_by(capsys, write_run(tmp_path / "run", 0), b)[0].startswith("dice on 30 lesion images:")


def test_what_cannot_be_compared_is_one_line(tmp_path):
    a, few = write_run(tmp_path / "a", 0), write_run(tmp_path / "few", 0, count=3)
    assert_one_clear_line(run_here("compare_runs.py", a, tmp_path / "none", cwd=tmp_path), "metrics.json: no such file")
    with pytest.raises(RunError, match="share 3"):
        compare_runs.main(a, few)
    with pytest.raises(RunError, match="--key must be one of dice, iou, .*, iou_lesion_given, twice, got 'age'"):
        compare_runs.main(a, a, "age")
    (few / "metrics.json").write_text(json.dumps({"images": [{"name": "1"}]}))
    with pytest.raises(RunError, match="few and .*a cannot be compared: 'label'"):
        compare_runs.main(few, a)
    table = write_table(tmp_path / "table.csv", 0)
    with pytest.raises(RunError, match="table.csv cannot be compared: the runs share 0 scored"):
        compare_runs.main(table, table, "iou_lesion_given")  # empty in this table
    table.write_text(table.read_text().replace("lesion,0,", "lesion,none,"))
    with pytest.raises(RunError, match="table.csv, line 2: "):
        compare_runs.main(a, table)


def test_images_of_one_name_but_other_pixels_are_not_compared(tmp_path, capsys):
    def write(name, first):
        path = write_table(tmp_path / name, 0)
        scores = read_scores(path)
        write_scores(path, [score | {"sha256": f"{i + first:064x}"} for i, score in enumerate(scores)])
        return path

    a, same, other = write("a.csv", 100), write("same.csv", 100), write("other.csv", 101)
    assert read_scores(a)[0]["sha256"] == f"{100:064x}"
    for b in (same, write_table(tmp_path / "without.csv", 0)):
        assert printed_by(capsys, a, b)[1].startswith("difference +0.0000")
    with pytest.raises(
        RunError, match="a.csv and .*other.csv cannot be compared: 31 of their images or .* differ, .*'0' first"
    ):
        compare_runs.main(a, other)
    scores = read_scores(a)
    scores[3] |= {"fn": scores[3]["fn"] + 1, "tn": scores[3]["tn"] - 1}  # another reader's mask
    scores[3] |= overlap_scores(*(scores[3][key] for key in ("tp", "fp", "fn")))
    write_scores(a, scores)
    with pytest.raises(RunError, match="1 of their images or reference masks differ, .*'3' first"):
        compare_runs.main(a, same)


def test_the_leak_is_measured_on_images_with_a_copy_in_another_fold(tmp_path):
    # Groups: 0 to 7 alone; 8 to 15 two copies tested by two folds; 16 to 23 two copies tested by one fold.
    copies = [(group, k) for group in range(24) for k in range(1 if group < 8 else 2)]
    for split in ("grouped", "random"):
        flattered = 0.2 if split == "random" else 0.0
        images = [
            {
                "name": f"benign ({group}.{k})",
                "label": "benign",
                "group": group,
                "dice": 0.5 + (flattered if 8 <= group < 16 else 0),
                "run": f"{split}-cv-fold{k if group < 16 else 3}-seed{seed}",
            }
            for group, k in copies
            for seed in (0, 1)
        ]
        (tmp_path / f"{split}.json").write_text(json.dumps({"images": images}))
    result = run_here("benchmarks/leak.py", "grouped.json", "random.json", cwd=tmp_path)
    assert_one_clear_line(result, code=0)
    rows = [line.split(" | ") for line in result.stdout.splitlines()[2:]]
    assert [(row[1], row[4].split(" ")[0]) for row in rows] == [("40", "+0.080"), ("16", "+0.200"), ("8", "+0.000")]
