"""The network in other programs: the same numbers, the same files, and nothing of TensorFlow's."""

import csv
import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
from conftest import REPOSITORY
from phantoms import make_phantom
from PIL import Image
from scored_run import train_scored_run

import export_model
import visualize_results
from attention_unet import in_plain_keras
from dataset import read_gray, resize_image
from export_model import ExportConfig
from segmentation.common.errors import RunError
from segmentation.common.files import lock_folder
from segmentation.inference import engines, export
from segmentation.inference.engines import EXPORT_FILES, ExportedNetwork, open_network
from segmentation.runs.run_folder import load_run
from segmentation.scoring.calibration import calibrated, calibrated_score
from segmentation.scoring.decision import Decision, load_decision, save_decision, to_mask
from visualize_results import VisualizationConfig

MISSING = [name for name in ("onnxruntime", "tf2onnx", "openvino", "ai_edge_litert") if not find_spec(name)]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"no {MISSING}: pip install -r requirements-export.txt")
ALL_FILES = {name for names in EXPORT_FILES.values() for name in names}


def sharpen(run: Path) -> None:
    """Give a hardly trained network probabilities from 0 to 1: near one threshold, masks differ in the last digit."""
    model, _ = load_run(run)
    layer = model.get_layer("lesion")
    x = np.stack([resize_image(make_phantom("benign", i)[0], (32, 32)) for i in range(8)])[..., None]
    probability = model.predict_on_batch(x.astype(np.float32))["lesion"]
    logit = np.log(probability / (1 - probability))
    kernel, bias = layer.get_weights()
    factor = 2 / logit.std()
    layer.set_weights([kernel * factor, (bias - logit.mean()) * factor - 1])
    in_plain_keras(model).save(run / "best.keras")


@pytest.fixture(scope="module")
def run(phantom_data, tmp_path_factory) -> Path:
    """A tiny trained network with a lesion score, in all formats."""
    run = tmp_path_factory.mktemp("exported é") / "attention_unet"
    shutil.copytree(train_scored_run(phantom_data, tmp_path_factory), run)
    sharpen(run)
    # A calibration and a threshold that matter, whatever two epochs have learned.
    own = dict(scale=1.7, offset=0.4, threshold=0.35, min_peak=0.4, score_scale=0.6, score_offset=-0.2, tta=True)
    own |= dict(doubtful_score=0.3)
    save_decision(run / "decision.json", Decision(**own))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "MOST_DICE", 1.0)  # of int8: the Dice of a hardly trained network is chance
        export_model.main(ExportConfig(run=run, to=tuple(EXPORT_FILES)))
    return run


@pytest.fixture
def copy(run, tmp_path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def about(run: Path) -> dict:
    return json.loads((run / "export" / "export.json").read_text())


def files_in(run: Path) -> set[str]:
    return {path.name for path in (run / "export").iterdir()} - {".lock", "export.json"}


# ---------------------------------------------------------------- the files


def test_every_format_is_written_and_agrees(run):
    record = about(run)
    assert set(record["files"]) == files_in(run) == ALL_FILES
    for kind in ("onnx", "litert", "openvino"):
        agreement = record["agreement"][kind]
        assert agreement["largest_difference"] < 1e-4
        assert agreement["dice"] == pytest.approx(agreement["dice_keras"], abs=1e-4)
    # int8 is another number, not a copy
    assert 1e-3 < record["agreement"]["litert-int8"]["largest_difference"] < 0.6
    assert (run / "export" / "network_int8.tflite").stat().st_size < (run / "export" / "network.tflite").stat().st_size
    assert "openvino_telemetry.backend" not in sys.modules  # OpenVINO would tell Google Analytics of each import
    # What goes in and comes out.
    assert record["input"]["shape"] == ["batch", 32, 32, 1] and record["input"]["range"] == [0, 255]
    assert set(record["outputs"]) == {"lesion", "lesion_raw", "lesion_score", "lesion_score_raw"}
    decision = {"threshold": 0.35, "threshold_of_highest": True, "min_peak": 0.4, "scale": 1.7, "doubtful_score": 0.3}
    assert decision.items() | {("mirrored_averaging", True)} <= record["decision"].items()
    assert record["data"] == "custom" and "MIT" in record["licence"]
    assert "pictures of the run's test part" in record["compared_on"]


@pytest.mark.parametrize("kind", ["onnx", "litert", "openvino"])
def test_a_file_gives_calibrated_and_raw_outputs_for_any_number_of_pictures(run, kind):
    model, _ = load_run(run)
    decision = load_decision(run / "decision.json")
    network = ExportedNetwork(run / "export" / EXPORT_FILES[kind][0], kind, (32, 32, 1), list(about(run)["outputs"]))
    for count in (1, 3):
        batch = np.random.default_rng(count).uniform(0, 255, (count, 32, 32, 1)).astype(np.float32)
        expected, found = model.predict_on_batch(batch), network.run(batch)
        assert np.allclose(found["lesion_raw"], expected["lesion"], atol=1e-4)
        assert np.allclose(found["lesion"], calibrated(expected["lesion"], decision), atol=1e-4)
        assert np.allclose(found["lesion_score"], calibrated_score(expected["lesion_score"], decision), atol=1e-4)
        assert np.abs(found["lesion"] - found["lesion_raw"]).max() > 0.01  # the calibration is inside
        raw = network.predict_on_batch(batch)
        assert set(raw) == {"lesion", "lesion_score"} and np.array_equal(raw["lesion"], found["lesion_raw"])


def test_a_network_without_a_lesion_score(tmp_path):
    """One output, and logits beyond what a float32 probability can tell from 0 and 1, as `calibrated` clips them."""
    inputs = keras.Input((8, 8, 1), name="image")
    layer = keras.layers.Conv2D(1, 1, activation="sigmoid", name="lesion")
    model = keras.Model(inputs, layer(inputs))
    layer.set_weights([np.full((1, 1, 1, 1), 0.2, np.float32), np.array([-25], np.float32)])  # logits from -25 to 26
    decision = Decision(scale=0.1, offset=-0.5)
    export.write_network(export.with_calibration(model, decision), "onnx", tmp_path / "network.onnx")
    network = ExportedNetwork(tmp_path / "network.onnx", "onnx", (8, 8, 1), ["lesion", "lesion_raw"])
    batch = np.linspace(0, 255, 64, dtype=np.float32).reshape(1, 8, 8, 1)
    raw = network.predict_on_batch(batch)
    assert np.allclose(raw, model.predict_on_batch(batch), atol=1e-6) and raw.max() > 0.99 and raw.min() < 0.01
    assert np.allclose(network.run(batch)["lesion"], calibrated(raw, decision), atol=2e-3)


# ---------------------------------------------------------------- used


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[Path]:
    """Three small ones: of many pixels, one may lie so near the threshold that the last digit decides."""
    paths = [tmp_path_factory.mktemp("pictures") / f"{label}.png" for label in ("benign", "malignant", "normal")]
    for path in paths:
        Image.fromarray(cv2.resize(make_phantom(path.stem, 1)[0], (96, 64))).save(path)
    return paths


def predict(run: Path, pictures: list[Path], output: Path, **more) -> Path:
    assert visualize_results.main(VisualizationConfig(run=run, images=tuple(pictures), output=output, **more)) == 0
    return output


@pytest.fixture(scope="module")
def by_keras(run, pictures, tmp_path_factory) -> Path:
    """What Keras predicts on three pictures."""
    output = predict(run, pictures, tmp_path_factory.mktemp("keras") / "out")
    assert any(int(row["area_px"]) for row in table(output))  # there is something to compare
    return output


def table(output: Path) -> list[dict]:
    with (output / "predictions.csv").open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def assert_same_results(output: Path, expected: Path) -> None:
    """The same files; masks and table alike, a probability at most one grey level apart."""
    assert {p.name for p in output.iterdir()} == {p.name for p in expected.iterdir()}
    for row, other in zip(table(output), table(expected), strict=True):
        for key in row.keys() - {"mean_probability", "lesion_score"}:
            assert row[key] == other[key], key
        assert float(row["lesion_score"]) == pytest.approx(float(other["lesion_score"]), abs=2e-4)
        for ending, most in (("mask.png", 0), ("probability.png", 1)):
            a, b = (np.asarray(Image.open(o / f"{row['name']}_{ending}"), int) for o in (output, expected))
            assert np.abs(a - b).max() <= most


def test_openvino_predicts_what_keras_predicts(run, by_keras, pictures, tmp_path):
    assert_same_results(predict(run, pictures, tmp_path / "out", engine="openvino"), by_keras)
    close = table(predict(run, pictures, tmp_path / "bfloat16", engine="openvino-bfloat16"))
    for row, other in zip(close, table(by_keras), strict=True):
        assert float(row["area_percent"]) == pytest.approx(float(other["area_percent"]), abs=3)


def test_onnx_predicts_what_keras_predicts_without_importing_tensorflow(run, by_keras, pictures, tmp_path):
    """Nor anything else that is slow to import and not needed: what Python imports is listed on stderr."""
    command = [sys.executable, "-X", "importtime", str(REPOSITORY / "visualize_results.py"), "--run", str(run)]
    command += ["--engine", "onnx", "--output", str(tmp_path / "out"), "--images", *map(str, pictures)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0 and "3 predictions in" in result.stdout, result.stderr[-2000:]
    imported = {line.split("|")[-1].strip().split(".")[0] for line in result.stderr.splitlines() if "|" in line}
    assert {"onnxruntime", "cv2", "numpy"} <= imported
    assert not imported & {"tensorflow", "keras", "matplotlib", "scipy", "sklearn", "torch", "openvino"}
    assert_same_results(tmp_path / "out", by_keras)


def test_the_example_in_the_documentation(run, pictures, tmp_path, monkeypatch):
    (code,) = re.findall("```python\n(.*?)```", (REPOSITORY / "docs" / "export.md").read_text(), re.DOTALL)
    shutil.copytree(run, tmp_path / "models" / "attention_unet")
    shutil.copy(pictures[1], tmp_path / "scan.png")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    model, _ = load_run(run)
    picture = read_gray(pictures[1])
    batch = resize_image(picture, (32, 32))[None, ..., None].astype(np.float32)
    probability = calibrated(model.predict_on_batch(batch)["lesion"], load_decision(run / "decision.json"))[0, ..., 0]
    expected = to_mask(probability, picture.shape, Decision(threshold=0.35), score=1.0)  # of a network with a score
    found = cv2.imread("mask.png", cv2.IMREAD_GRAYSCALE) > 0
    assert np.array_equal(found, expected) and found.any()


# ---------------------------------------------------------------- what goes wrong


def damage(folder: Path, record: dict, name: str) -> None:
    """Another file, with the hash that fits it."""
    (folder / name).write_bytes(b"not a network")
    record["files"][name]["sha256"] = engines.sha256(folder / name)


def add(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\n")


@pytest.mark.parametrize(
    ("spoil", "engine", "problem"),
    [
        (lambda f, r: shutil.rmtree(f), "onnx", "not exported yet. First: python export_model.py --run .* --to onnx"),
        (lambda f, r: r["files"].pop("network.bin"), "openvino", "holds no openvino file"),
        (lambda f, r: add(f.parent / "best.keras"), "onnx", "made from another network than"),
        (lambda f, r: add(f.parent / "decision.json"), "onnx", "made from another decision than"),
        (lambda f, r: add(f / "network.bin"), "openvino", "network.bin: is not the file that export.json describes"),
        (lambda f, r: damage(f, r, "network.onnx"), "onnx", "network.onnx: cannot be opened as onnx"),
        (lambda f, r: damage(f, r, "network.xml"), "openvino", "network.xml: cannot be opened as openvino"),
        (lambda f, r: r.update(outputs={"lesion": "", "lesion_raw": ""}), "onnx", "is of another network than its"),
        (lambda f, r: r["files"].update({"../best.keras": r["files"]["network.onnx"]}), "onnx", "export.json"),
        (lambda f, r: r.update(files=3), "onnx", "export.json"),
    ],
)
def test_what_does_not_fit_the_run_is_not_opened(copy, spoil, engine, problem):
    folder, record = copy / "export", about(copy)
    spoil(folder, record)
    if folder.exists():
        (folder / "export.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match=problem):
        open_network(copy, engine)


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_a_missing_package_is_one_line(copy, monkeypatch, kind):
    find, package = engines.importlib.util.find_spec, {"onnx": "tf2onnx", "openvino": "openvino"}[kind]
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(RunError, match=f"{kind} needs the package {package}: pip install -r requirements-export.txt"):
        export_model.main(ExportConfig(run=copy, to=(kind,)))


def test_the_bounds():
    agreement = export.Agreement(0.2, 0.01, 0.700, 0.704)
    assert "differs from Keras by 0.2" in agreement.problem("onnx")
    assert agreement.problem("litert-int8") == agreement.problem("openvino-bfloat16") == ""
    assert "Dice 0.6980, Keras 0.7040" in agreement._replace(dice=0.698).problem("litert-int8")


def test_a_file_that_differs_too_much_is_not_kept(copy, monkeypatch, capsys):
    before = about(copy)
    monkeypatch.setattr(export, "MOST_DIFFERENCE", -1.0)
    same = copy / "export" / "network.onnx"  # written anew, it would be this file
    monkeypatch.setattr(export_model, "write_network", lambda model, kind, path, pictures: shutil.copy(same, path))
    with pytest.raises(RunError, match=r"onnx differs from Keras by .*; at most -1.0 is allowed.* were not kept"):
        export_model.main(ExportConfig(run=copy, to=("onnx",)))
    assert "largest difference" in capsys.readouterr().out
    assert about(copy) == before and files_in(copy) == ALL_FILES


def test_an_unfinished_run_without_its_data_is_exported_and_old_files_are_removed(copy, capsys):
    """They are compared on data/sample then; int8 is refused, which needs training pictures."""
    for name in ("metrics.json", "decision.json"):
        (copy / name).unlink()
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"root": str(copy / "gone")}))
    with pytest.raises(RunError, match=r"gone: the run's data is not here.* litert-int8 .*--data-dir"):
        export_model.main(ExportConfig(run=copy, to=("litert-int8",)))
    (copy / "export" / ".writing-killed").mkdir()
    assert files_in(copy) >= ALL_FILES
    export_model.main(ExportConfig(run=copy, to=("onnx",)))
    assert "is not finished" in capsys.readouterr().out
    assert about(copy)["compared_on"].startswith("160 pictures of data/sample")
    assert files_in(copy) == {"network.onnx"} and about(copy)["decision"]["threshold"] == 0.5
    open_network(copy, "onnx")


def test_files_of_others_are_not_replaced(copy):
    """Nor one that was changed since, while another export writes, or through a link."""

    def refused(problem: str) -> None:
        with pytest.raises(RunError, match=problem), export_model.open_folder(copy):
            pass

    folder = copy / "export"
    with lock_folder(folder, "export"):
        refused("another export is writing")
    add(folder / "network.onnx")
    refused("network.onnx: .*not .*by this script")
    shutil.rmtree(folder)
    folder.mkdir()
    for name, content in (("network.onnx", "mine"), ("export.json", "{}")):
        (folder / name).write_text(content)
        refused(f"{name}: .*not .*by this script")
    assert (folder / "network.onnx").read_text() == "mine"
    shutil.rmtree(folder)
    folder.symlink_to(copy.parent)
    refused("is a link to another folder")
