import json

import pytest
from conftest import assert_one_clear_line, run_here, run_script

import compare_runs
from segmentation.common.errors import RunError
from segmentation.scoring.score_table import write_scores


def write_run(folder, shift, count=30):
    scores = [
        {"name": f"benign ({i})", "label": "benign", "group": i, "dice": 0.5 + 0.01 * (i % 7) + shift * (1 + i % 3)}
        for i in range(count)
    ]
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps({"images": scores}))
    return folder


def write_table(path, shift, false_positives=0):
    """Scores of 30 lesions of 100 pixels, of which 50 + shift or more are found, and of a normal image."""
    path.parent.mkdir(exist_ok=True)
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


def test_files_of_earlier_versions_are_read(tmp_path, capsys):
    a, b = write_run(tmp_path / "a", 0), write_run(tmp_path / "b", 0.05)
    for run in (a, b):
        (run / "metrics.json").rename(run / "cross_validation.json")
    compare_runs.main(a, b / "cross_validation.json")
    printed = capsys.readouterr().out
    assert "30 lesion images" in printed and "normal" not in printed
    for run, fp in ((a, 5), (b, 0)):
        path = run / "cross_validation.json"
        normal = {"name": "normal (1)", "label": "normal", "group": 99, "dice": float(not fp), "fp": fp}
        path.write_text(json.dumps({"images": [*json.loads(path.read_text())["images"], normal]}))
    lines = printed_by(capsys, a, b)
    assert lines[-4].startswith("false positive on 1 normal images:") and lines[-4].endswith("b 0%")
    assert lines[-3] == "difference -100.0 points, 95 % interval -100.0 to -100.0"
    assert lines[-2].startswith("dice on all 31 images:")
    by = (30 * 0.1 + 1) / 31  # twice the shift on average, and the normal image
    assert lines[-1].startswith(f"difference {by:+.4f}, 95 % interval ")
    for run, dice in ((a, 0.4), (b, 0.6)):
        path = run / "cross_validation.json"
        images = [{**score, "dice_known": dice} for score in json.loads(path.read_text())["images"][:30]]
        path.write_text(json.dumps({"images": images}))
    assert printed_by(capsys, a, b, "dice_lesion_given")[1].startswith("difference +0.2000, 95 % interval +0.2000 to")


def test_tables_are_read(tmp_path, capsys):
    a = write_table(tmp_path / "a" / "cross_validation.csv", 0, false_positives=3)
    b = write_table(tmp_path / "evaluation.csv", 20)
    lines = printed_by(capsys, a.parent, b)
    assert lines == [line.replace(str(a), str(a.parent)) for line in printed_by(capsys, a, b)]
    # 50 to 56 of 100 pixels found, then 20 more.
    by = sum(2 * (70 + i % 7) / (170 + i % 7) - 2 * (50 + i % 7) / (150 + i % 7) for i in range(30)) / 30
    assert lines[0].startswith("dice on 30 lesion images:") and lines[1].startswith(f"difference {by:+.4f}, ")
    assert lines[3].startswith("false positive on 1 normal images:") and lines[3].endswith("evaluation.csv 0%")
    assert lines[6].startswith(f"difference {(30 * by + 1) / 31:+.4f}, 95 % interval ")
    assert printed_by(capsys, a, b, "dice_lesion_given")[1].startswith("difference +0.0200, ")
    assert printed_by(capsys, a, b, "assd")[1].startswith("difference -0.2000, ")


def test_a_table_is_compared_with_a_run(tmp_path, capsys):
    run, table = write_run(tmp_path / "run", 0), write_table(tmp_path / "table.csv", 20)
    path = run / "metrics.json"
    scores = json.loads(path.read_text())["images"]
    for i, score in enumerate(scores):
        score |= {"name": str(i), "run": "fold0-seed3"}  # another seed of the table's fold
    path.write_text(json.dumps({"images": scores}))
    assert printed_by(capsys, run, table)[0].startswith("dice on 30 lesion images:")


def test_bad_runs_are_one_line(tmp_path):
    a, few = write_run(tmp_path / "a", 0), write_run(tmp_path / "few", 0, count=3)
    assert_one_clear_line(run_here("compare_runs.py", a, tmp_path / "none", cwd=tmp_path), "metrics.json: no such file")
    with pytest.raises(RunError, match="share 3"):
        compare_runs.main(a, few)
    with pytest.raises(RunError, match="--key must be one of dice, iou, .*, dice_lesion_given, iou_lesion_given, got"):
        compare_runs.main(a, a, "age")
    (few / "metrics.json").write_text(json.dumps({"images": [{"name": "1"}]}))
    with pytest.raises(RunError, match="few and .*a cannot be compared: 'label'"):
        compare_runs.main(few, a)
    table = write_table(tmp_path / "table.csv", 0)
    with pytest.raises(RunError, match="table.csv and .*table.csv cannot be compared: the runs share 0 scored"):
        compare_runs.main(table, table, "iou_lesion_given")  # empty in this table
    table.write_text(table.read_text().replace("lesion,0,", "lesion,none,"))
    with pytest.raises(RunError, match="table.csv, line 2: group must be a whole number"):
        compare_runs.main(a, table)


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
