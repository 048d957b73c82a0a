import json

import pytest
from conftest import assert_one_clear_line, run_script
from files import RunError

import compare_runs


def write_run(folder, shift, count=30):
    scores = [
        {"name": f"benign ({i})", "label": "benign", "group": i, "dice": 0.5 + 0.01 * (i % 7) + shift * (1 + i % 3)}
        for i in range(count)
    ]
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps({"images": scores}))
    return folder


def test_a_better_run_is_told(tmp_path):
    a, b = write_run(tmp_path / "a", 0), write_run(tmp_path / "b", 0.05)
    result = run_script("compare_runs.py", a, b, cwd=tmp_path)
    assert_one_clear_line(result, "30 lesion images", "difference +0.1000", code=0)
    assert result.stderr == ""  # none of TensorFlow's notes
    assert float(result.stdout.rsplit("p = ", 1)[1].split()[0]) < 1e-5


def test_folders_of_cross_validate_and_files_of_results_are_read(tmp_path, capsys):
    a, b = write_run(tmp_path / "a", 0), write_run(tmp_path / "b", 0.05)
    for run in (a, b):
        (run / "metrics.json").rename(run / "cross_validation.json")
    compare_runs.main(a, b / "cross_validation.json")
    printed = capsys.readouterr().out
    assert "30 lesion images" in printed and "normals" not in printed
    for run, fp in ((a, 5), (b, 0)):
        path = run / "cross_validation.json"
        normal = {"name": "normal (1)", "label": "normal", "group": 99, "dice": float(not fp), "fp": fp}
        path.write_text(json.dumps({"images": [*json.loads(path.read_text())["images"], normal]}))
    compare_runs.main(a, b)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-4].startswith("false positive on 1 normals:") and lines[-4].endswith("b 0%")
    assert lines[-3] == "difference -100.0 points, 95 % interval -100.0 to -100.0"
    assert lines[-2].startswith("dice on all 31 images:")
    by = (30 * 0.1 + 1) / 31  # twice the shift on average, and the normal
    assert lines[-1].startswith(f"difference {by:+.4f}, 95 % interval ")


def test_bad_runs_are_one_line(tmp_path):
    a, few = write_run(tmp_path / "a", 0), write_run(tmp_path / "few", 0, count=3)
    assert_one_clear_line(
        run_script("compare_runs.py", a, tmp_path / "none", cwd=tmp_path), "metrics.json: no such file"
    )
    with pytest.raises(RunError, match="share 3"):
        compare_runs.main(a, few)
    with pytest.raises(RunError, match="--key must be one of"):
        compare_runs.main(a, a, "age")


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
    result = run_script("benchmarks/leak.py", "grouped.json", "random.json", cwd=tmp_path)
    assert_one_clear_line(result, code=0)
    rows = [line.split(" | ") for line in result.stdout.splitlines()[2:]]
    assert [(row[1], row[4].split(" ")[0]) for row in rows] == [("40", "+0.080"), ("16", "+0.200"), ("8", "+0.000")]
