"""What comes from outside: the shell, the home folder, other people's files and names, odd pictures."""

import base64
import errno
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, assert_one_clear_line, run_script
from PIL import Image

import evaluate_model
import visualize_results
from dataset import DataError
from segmentation import audit, figures, report
from segmentation.common.errors import RunError, hint, one_clear_line
from segmentation.inference.own_images import predict_images
from segmentation.runs.run_folder import load_run
from segmentation.scoring.decision import load_decision
from segmentation.scoring.prediction import predict_raw
from segmentation.scoring.score_table import COLUMNS

# ---------------------------------------------------------------- the shell and the home folder


def test_a_hostile_home_and_shell_change_no_prediction(phantom_data, tmp_path):
    """keras.json, another backend, no display, a limit on epochs: the masks are those of a clean start."""
    (tmp_path / ".keras").mkdir()
    settings = {"floatx": "float16", "image_data_format": "channels_first", "epsilon": 0.1, "backend": "jax"}
    (tmp_path / ".keras" / "keras.json").write_text(json.dumps(settings))
    (tmp_path / "matplotlibrc").write_text("text.usetex: true\n")
    hostile = {
        "HOME": str(tmp_path),
        "MPLBACKEND": "module://not.installed",
        "KERAS_MAX_EPOCHS": "1",
        "KERAS_BACKEND": "torch",
    }
    hostile |= {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
    picture, shipped = phantom_data / "malignant" / "malignant (1).png", REPOSITORY / "models" / "attention_unet_busi"
    result = run_script("visualize_results.py", "--images", picture, "--run", shipped, cwd=tmp_path, **hostile)
    assert_one_clear_line(
        result, "1 predictions in", "KERAS_MAX_EPOCHS=1 is ignored", "KERAS_BACKEND=torch is", code=0
    )
    model, stored = load_run(shipped)
    predict_images(model, stored, [picture], tmp_path / "clean", load_decision(shipped / "decision.json"))
    masks = [(tmp_path / output / "malignant (1)_mask.png").read_bytes() for output in ("predictions", "clean")]
    assert masks[0] == masks[1]


def test_a_keras_json_that_keras_cannot_use_is_named(tmp_path):
    (tmp_path / "keras.json").write_text('{"floatx": 5}')
    result = run_script("train_model.py", "--help", cwd=tmp_path, KERAS_HOME=str(tmp_path))
    assert_one_clear_line(result, f"{tmp_path / 'keras.json'}: Keras cannot use this file")


@pytest.mark.parametrize("closed", [(1,), (0, 1, 2)])
def test_closed_streams(tmp_path, closed):
    """`>&-` and `2>&-`: the work is done, and nothing that is printed gets into its files."""
    command = [sys.executable, "-m", "segmentation.data.phantoms", "--output", "phantoms", "--images", "6"]
    result = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True,
        timeout=60, check=False, preexec_fn=lambda: [os.close(number) for number in closed],
    )  # fmt: skip
    assert result.returncode == 0 and "Traceback" not in result.stderr, result.stderr
    written = list((tmp_path / "phantoms").glob("*/*).png"))
    assert json.loads((tmp_path / "phantoms" / "phantoms.json").read_text())["images"] == len(written) > 0


def test_a_closed_error_stream_beside_tensorflow(tmp_path):
    result = subprocess.run(
        [sys.executable, str(REPOSITORY / "train_model.py"), "--help"], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
        timeout=60, check=False, preexec_fn=lambda: os.close(2),
    )  # fmt: skip
    assert result.returncode == 0 and "--batch-size" in result.stdout


def test_a_reader_that_has_seen_enough(phantom_data, tmp_path):
    """`| head -1`: a quiet end, as of any program, with the files whole; and no bars where there is no terminal."""
    command = [sys.executable, "-m", "segmentation.audit", "--data-dir", str(phantom_data)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 141 and not errors, errors
    assert json.loads((tmp_path / "audit.json").read_text())["problems"] == []


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux says what is being imported")
def test_ctrl_c_while_importing(tmp_path):
    # A shell's background jobs ignore Ctrl-C; this one must not.
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "train_model.py"), "--help"], cwd=tmp_path, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while "_pywrap_tensorflow" not in Path(f"/proc/{process.pid}/maps").read_text():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 130) and not output and "Traceback" not in errors, errors


# ---------------------------------------------------------------- hints name the true cause


def said(error: BaseException, to_go_on: str = "") -> str:
    with pytest.raises(SystemExit) as stop, one_clear_line(*filter(None, [to_go_on])):
        raise error
    return stop.value.code


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EDQUOT, "Free some space"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EACCES, "no permission"),
        (errno.EPERM, "no permission"),
        (errno.EROFS, "read-only"),
        (errno.EEXIST, "a file where a folder should be"),
        (errno.ENOTDIR, "a file where a folder should be"),
        (errno.EISDIR, "a folder where a file should be"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EPIPE, None),
        (errno.EIO, ""),
    ],
)
def test_a_hint_names_the_true_cause(number, words):
    line = said(OSError(number, os.strerror(number), "place"))
    if words is None:
        assert line == 141
    else:
        assert line.startswith(f"error: place: {os.strerror(number)}.") and words in line
        assert ("space" in line.removeprefix(f"error: place: {os.strerror(number)}")) == ("space" in words)


def test_a_link_to_nothing_is_called_one(tmp_path):
    (tmp_path / "models").symlink_to(tmp_path / "nothing")
    with pytest.raises(FileExistsError) as error:
        (tmp_path / "models" / "run").mkdir(parents=True, exist_ok=True)
    assert "link to nothing" in hint(error.value)


def test_what_was_saved_is_told_when_it_matters():
    full = said(OSError(errno.ENOSPC, "No space left", "a"), "All is saved.")
    assert full.endswith("All is saved.") and "saved" not in said(PermissionError(errno.EACCES, "no", "a"), "saved")
    assert said(MemoryError()).startswith("error: out of memory")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_is_an_exit_code_and_its_handler_goes_back(name, capsys):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stop, one_clear_line("All is saved."):
        signal.raise_signal(number)
    assert stop.value.code == 128 + number and "stopped. All is saved." in capsys.readouterr().err
    assert signal.getsignal(number) == before


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with one_clear_line():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


# ---------------------------------------------------------------- only our own files are replaced


def evaluate(folder: Path, output: Path) -> None:
    evaluate_model.main(
        evaluate_model.EvaluationConfig(
            run=(REPOSITORY / "models" / "attention_unet_busi",), data_dir=(folder,), output=output
        )
    )


@pytest.mark.parametrize("name", ["evaluation.json", "evaluation.csv"])
def test_an_evaluation_replaces_only_an_evaluation(tmp_path, name):
    (tmp_path / name).write_text('{"encoder": "none"}' if name.endswith("json") else "patient,age\n")
    before = (tmp_path / name).read_bytes()
    with pytest.raises(RunError, match=f"{name}: exists already, and was not written by this script"):
        evaluate(tmp_path, tmp_path / "evaluation.json")
    assert (tmp_path / name).read_bytes() == before
    (tmp_path / "evaluation.json").write_text(json.dumps(dict.fromkeys(("data", "decision", "runs", "summary"))))
    (tmp_path / "evaluation.csv").write_bytes(f"{','.join(COLUMNS)}\r\n".encode())
    with pytest.raises(DataError, match="says which layouts are read"):  # the next thing that is looked at
        evaluate(tmp_path, tmp_path / "evaluation.json")


@pytest.mark.parametrize("name", ["evaluation.json", "evaluation.csv"])
def test_a_folder_where_an_evaluation_is_to_be_written_is_refused_first(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(RunError, match=f"{name}: is a folder"):
        evaluate(tmp_path, tmp_path / "evaluation.json")


@pytest.mark.parametrize("name", ["audit.json", "audit.png"])
def test_an_audit_replaces_only_an_audit(phantom_data, tmp_path, name):
    config = audit.AuditConfig(data_dir=phantom_data, output=tmp_path)
    (tmp_path / name).write_text('{"mine": 1}')
    with pytest.raises(RunError, match=f"{name}: exists already"):
        audit.main(config)
    assert (tmp_path / name).read_text() == '{"mine": 1}'


def test_an_audit_replaces_its_own_and_no_target_of_a_link(broken_data, tmp_path):
    for path in [p for p in broken_data.glob("*/*.png") if not re.search(r"\(1?[1-3]\)", p.name)]:
        path.unlink()  # a quick one
    output, precious = tmp_path / "out", tmp_path / "precious"
    audit.main(config := audit.AuditConfig(data_dir=broken_data, output=output))
    shutil.move(output / "audit.png", precious)
    before = precious.read_bytes()
    (output / "audit.png").symlink_to(precious)
    (broken_data / "benign" / "benign (1).png").write_bytes(b"damaged")
    assert audit.main(config) == 1
    assert precious.read_bytes() == before and not (output / "audit.png").is_symlink()
    assert "benign (1)" in (output / "audit.json").read_text()


# ---------------------------------------------------------------- a stranger's run, odd pictures


def case(name: str, shape: tuple[int, int], label: str = "benign") -> figures.Case:
    image = np.full(shape, 90, np.uint8)
    reference = np.zeros(shape, np.uint8)
    reference[: shape[0] // 2 + 1, : shape[1] // 2 + 1] = 1
    tp = int(reference.sum())
    score = {"name": name, "label": label, "group": 0, "height": shape[0], "width": shape[1], "tp": tp, "fp": 0}
    score |= {"fn": 0, "tn": reference.size - tp, "dice": 1.0, "iou": 1.0, "precision": 1.0, "recall": 1.0}
    score |= {"hd95": 0.0, "assd": 0.0, "diagonal": float(np.hypot(*shape))}
    return figures.Case(score, image, reference, reference > 0, np.full((32, 32), 0.5, np.float32))


def write(run: Path, cases: list[figures.Case], stored: dict | None = None) -> str:
    run.mkdir(exist_ok=True)
    (run / "figures").mkdir(exist_ok=True)
    lesions = {"dice": 1.0, "dice_interval": [1.0, 1.0], "iou": 1.0, "missed": 0, "images": len(cases)}
    metrics = {"data": "custom", "split": "grouped", "near_copies_in_training": 0, "parameters": 1, "minutes": 1.0}
    metrics |= {"summary": {"lesions": lesions, "accuracy": {"pixels": 1.0, "all_background": 0.5}}, "environment": {}}
    report.write_report(run, cases, stored or {"config": {}}, metrics, [])
    return (run / "report.html").read_text()


SHAPES = [(4, 1200), (1200, 4), (1, 3000), (3000, 1), (1, 1), (2, 2)]


def test_a_report_of_pictures_of_extreme_shapes(tmp_path):
    cases = [case(f"{height} x {width}", (height, width)) for height, width in SHAPES]
    page = write(tmp_path / "run", cases)
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(pictures) == len(cases)
    for content in pictures:
        with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
            assert picture.width <= 224 and picture.height <= 112


def test_figures_of_pictures_of_extreme_shapes():
    cases = [case(f"{height} x {width}", (height, width)) for height, width in SHAPES]
    alphas = {"gate_1_alpha": np.random.default_rng(0).random((len(cases), 8, 8), np.float32)}
    for figure in (figures.overlay_grid(cases, "title"), figures.attention_grid(cases, alphas, "title")):
        figure.savefig(io.BytesIO(), dpi=50)
    figures.distributions([c.score for c in cases]).savefig(io.BytesIO(), dpi=50)


def test_the_contact_sheet_of_pictures_of_extreme_shapes(tmp_path):
    for number, shape in enumerate([(1, 900), (900, 1), (1, 1)]):
        audit_case = case(str(number), shape)
        reading = audit.Reading(
            audit.Sample(str(number), "benign", tmp_path, ()), None, audit_case.image, audit_case.reference
        )
        pair = audit.Pair(0, 1, 0.99, 0.9, 0.9)
        assert audit.contact_sheet([reading, reading], [pair]).size


ATTACK = '"><script>alert(1)</script><img src=x onerror=alert(1)>'


def test_no_script_of_a_stranger_is_in_the_report_and_none_could_run(tmp_path):
    run = tmp_path / ATTACK.replace("/", "\u2044")
    page = write(run, [case(ATTACK, (40, 60))], {"config": {ATTACK: ATTACK}})
    assert "<script>alert" not in page and "<img src=x" not in page
    scripts = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    allowed = re.search('script-src ([^;"]+)', page).group(1).replace("&#39;", "'").replace("&#43;", "+")
    assert len(scripts) == 1
    assert allowed == f"'sha256-{base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()}'"


def test_a_report_is_not_written_through_links(tmp_path):
    precious, run = tmp_path / "precious", tmp_path / "run"
    precious.write_text("mine")
    run.mkdir()
    (run / "report.html").symlink_to(precious)
    assert "<html" in write(run, [case("a", (40, 60))])
    assert precious.read_text() == "mine"
    shutil.rmtree(run / "figures")
    (tmp_path / "pictures").mkdir()
    (run / "figures").symlink_to(tmp_path / "pictures")
    with pytest.raises(RunError, match="figures: is a link"):
        visualize_results.make_figure_folder(run)


def test_probabilities_that_are_no_numbers_are_an_error():
    class Damaged:
        def predict_on_batch(self, x):
            return np.where(np.arange(len(x))[:, None, None, None] == 1, np.nan, x / 255)

    images = np.full((3, 8, 8), 255, np.uint8)
    for tta in (False, True):
        with pytest.raises(RunError, match="contain NaN"):
            predict_raw(Damaged(), images, tta)
