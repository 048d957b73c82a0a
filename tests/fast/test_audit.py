"""benchmarks/audit.py, which is run by hand: that it works on a small folder, and names what is wrong."""

import json

from conftest import assert_one_clear_line, run_here
from folders import write_classes


def test_an_audit_is_written_and_counts_the_problems(tmp_path):
    arguments = ("benchmarks/audit.py", "--data-dir", tmp_path / "data", "--output", tmp_path / "out")
    write_classes(tmp_path / "data")
    assert_one_clear_line(run_here(*arguments, cwd=tmp_path), "no problem found", "{'L': 12}", code=0)
    report = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert report["images"] == {"benign": 4, "malignant": 4, "normal": 4} and report["mask_files"] == 12
    (tmp_path / "data" / "benign" / "benign (1).png").unlink()
    assert_one_clear_line(run_here(*arguments, cwd=tmp_path), "1 problem", "benign (1)_mask.png", code=1)
    assert (tmp_path / "out" / "audit.png").stat().st_size > 100
