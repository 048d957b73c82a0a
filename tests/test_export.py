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
import numpy as np
import pytest
import tyro
from conftest import REPOSITORY
from PIL import Image

import export_model
import train_model
import visualize_results
from attention_unet import in_plain_keras
from dataset import read_gray, resize_image
from export_model import ExportConfig
from segmentation.common.errors import RunError
from segmentation.data.phantoms import make_phantom
from segmentation.inference import engines, export
from segmentation.inference.engines import FILES, ExportedNetwork, open_network
from segmentation.runs.run_folder import load_run
from segmentation.scoring.decision import Decision, calibrated, calibrated_score, load_decision, save_decision
from train_model import TrainingConfig
from visualize_results import VisualizationConfig

ALL = ("onnx", "litert", "litert-int8", "openvino")
MISSING = [name for name in ("onnxruntime", "tf2onnx", "openvino", "ai_edge_litert") if not find_spec(name)]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"no {MISSING}: pip install -r requirements-export.txt")


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
    small = dict(encoder="none", start_from="random", image_size=32, depth=2, base_filters=4, batch_size=8, epochs=1)
    models = tmp_path_factory.mktemp("my models é")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_model, "MIN_NORMALS", 1)  # there are few here, and the score is to be kept
        train_model.main(TrainingConfig(data_dir=(phantom_data,), models_dir=models, lesion_score=1.0, **small))
    run = models / "attention_unet"
    sharpen(run)
    # A calibration and a threshold that matter, whatever one epoch has learned.
    decision = Decision(
        scale=1.7, offset=0.4, threshold=0.35, min_peak=0.4, score_scale=0.6, score_offset=-0.2, tta=True
    )
    save_decision(run / "decision.json", decision)
    export_model.main(ExportConfig(run=run, to=ALL))
    return run


@pytest.fixture
def copy(run, tmp_path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[Path]:
    """Three small ones: of many pixels, one may lie so near the threshold that the last digit decides."""
    paths = [tmp_path_factory.mktemp("pictures") / f"{label}.png" for label in ("benign", "malignant", "normal")]
    for path in paths:
        Image.fromarray(cv2.resize(make_phantom(path.stem, 1)[0], (96, 64))).save(path)
    return paths


def about(run: Path) -> dict:
    return json.loads((run / "export" / "export.json").read_text())


# ---------------------------------------------------------------- the files


def test_every_format_is_written_and_agrees(run):
    record = about(run)
    assert set(record["files"]) == {name for names in FILES.values() for name in names}
    assert {p.name for p in (run / "export").iterdir()} == {*record["files"], "export.json", ".lock"}
    for name, row in record["files"].items():
        assert row["sha256"] == engines.sha256(run / "export" / name)
    for kind in ("onnx", "litert", "openvino"):
        agreement = record["agreement"][kind]
        # One pixel in a million may lie at the threshold.
        assert agreement["largest_difference"] < 1e-4
        assert agreement["dice"] == pytest.approx(agreement["dice_keras"], abs=1e-4)
    # int8 is another number, not a copy
    assert 1e-3 < record["agreement"]["litert-int8"]["largest_difference"] < 0.6
    assert (run / "export" / "network_int8.tflite").stat().st_size < (run / "export" / "network.tflite").stat().st_size


def test_export_json_says_what_goes_in_and_comes_out(run):
    record = about(run)
    assert record["input"]["shape"] == ["batch", 32, 32, 1] and record["input"]["range"] == [0, 255]
    assert set(record["outputs"]) == {"lesion", "lesion_raw", "lesion_score", "lesion_score_raw"}
    decision = {"threshold": 0.35, "threshold_of_highest": True, "min_peak": 0.4, "min_score": 0.0, "scale": 1.7}
    decision |= {"mirrored_averaging": True}
    assert decision.items() <= record["decision"].items()
    assert record["data"] == "simulated pictures" and "MIT" in record["licence"]
    assert "pictures of the run's test part" in record["compared_on"]


@pytest.mark.parametrize("kind", ["onnx", "litert", "openvino"])
def test_a_file_gives_calibrated_and_raw_outputs_for_any_number_of_pictures(run, kind):
    model, _ = load_run(run)
    decision = load_decision(run / "decision.json")
    network = ExportedNetwork(run / "export" / FILES[kind][0], kind, (32, 32, 1), list(about(run)["outputs"]))
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
    import keras

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
    expected = cv2.resize(probability, picture.shape[::-1]) > 0.35
    found = cv2.imread("mask.png", cv2.IMREAD_GRAYSCALE) > 0
    assert np.array_equal(found, expected) and found.any()


# ---------------------------------------------------------------- --engine


def table(output: Path) -> list[dict]:
    with (output / "predictions.csv").open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def assert_same_results(output: Path, expected: Path) -> None:
    """The same files; masks and table alike, a probability at most one grey level apart."""
    assert {p.name for p in output.iterdir()} == {p.name for p in expected.iterdir()}
    for row, other in zip(table(output), table(expected), strict=True):
        for key in row.keys() - {"result_hashes", "mean_probability", "lesion_score"}:
            assert row[key] == other[key], key
        assert float(row["lesion_score"]) == pytest.approx(float(other["lesion_score"]), abs=2e-4)
        for ending in ("mask.png", "probability.png"):
            a, b = (np.asarray(Image.open(o / f"{row['name']}_{ending}"), int) for o in (output, expected))
            assert np.abs(a - b).max() <= (1 if ending == "probability.png" else 0)


def visualize(run: Path, pictures: list[Path], output: Path, **more) -> int:
    return visualize_results.main(VisualizationConfig(run=run, images=tuple(pictures), output=output, **more))


@pytest.fixture(scope="module")
def by_keras(run, pictures, tmp_path_factory):
    """What Keras predicts on three pictures."""
    output = tmp_path_factory.mktemp("keras") / "out"
    assert visualize(run, pictures, output) == 0
    assert any(int(row["area_px"]) for row in table(output))  # there is something to compare
    return output


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_engines_write_what_keras_writes(run, by_keras, pictures, tmp_path, engine):
    assert visualize(run, pictures, tmp_path / "out", engine=engine) == 0
    assert_same_results(tmp_path / "out", by_keras)


def test_bfloat16_is_close(run, by_keras, pictures, tmp_path):
    assert visualize(run, pictures, tmp_path / "out", engine="openvino-bfloat16") == 0
    for row, other in zip(table(tmp_path / "out"), table(by_keras), strict=True):
        assert float(row["area_percent"]) == pytest.approx(float(other["area_percent"]), abs=3)


def test_tensorflow_is_not_imported(run, by_keras, pictures, tmp_path):
    """Nor anything else that is slow to import and not needed: what Python imports is listed on stderr."""
    command = [sys.executable, "-X", "importtime", str(REPOSITORY / "visualize_results.py"), "--run", str(run)]
    command += ["--engine", "onnx", "--output", str(tmp_path / "out"), "--images", *map(str, pictures)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0 and "3 predictions in" in result.stdout, result.stderr[-2000:]
    imported = {line.split("|")[-1].strip().split(".")[0] for line in result.stderr.splitlines() if "|" in line}
    assert {"onnxruntime", "cv2", "numpy"} <= imported
    assert not imported & {"tensorflow", "keras", "matplotlib", "scipy", "sklearn", "torch", "openvino"}
    assert_same_results(tmp_path / "out", by_keras)


def test_openvino_tells_nobody(run, tmp_path):
    """Its package reports each import, unless the part that does so seems not to be installed."""
    code = (
        "from segmentation.inference.engines import import_openvino; import_openvino(); import sys; print(*sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True
    )
    modules = result.stdout.split()
    assert "openvino.tools.ovc" in modules and "openvino_telemetry.backend" not in modules


# ---------------------------------------------------------------- what goes wrong


def test_a_run_that_is_not_exported(copy):
    shutil.rmtree(copy / "export")
    with pytest.raises(RunError, match=r"not exported yet. First: python export_model.py --run .* --to onnx"):
        open_network(copy, "onnx")


def test_a_format_that_is_not_there(copy):
    record = about(copy)
    record["files"].pop("network.bin")
    (copy / "export" / "export.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match="holds no openvino file"):
        open_network(copy, "openvino-bfloat16")


@pytest.mark.parametrize("name", ["best.keras", "decision.json"])
def test_another_network_or_decision_since(copy, name):
    with (copy / name).open("ab") as file:
        file.write(b"\n")
    with pytest.raises(RunError, match=f"made from another {'network' if 'keras' in name else 'decision'} than"):
        open_network(copy, "onnx")


def test_a_file_that_is_not_the_one_described(copy):
    with (copy / "export" / "network.bin").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(RunError, match=r"network.bin: is not the file that export.json describes"):
        open_network(copy, "openvino")


@pytest.mark.parametrize(("engine", "name"), [("onnx", "network.onnx"), ("openvino", "network.xml")])
def test_a_damaged_file_with_its_hash(copy, engine, name):
    (copy / "export" / name).write_bytes(b"not a network")
    record = about(copy)
    record["files"][name]["sha256"] = engines.sha256(copy / "export" / name)
    (copy / "export" / "export.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match=f"{name}: cannot be opened as {engine}"):
        open_network(copy, engine)


@pytest.mark.parametrize("change", [{"files": {"../best.keras": {"format": "onnx", "sha256": "0" * 64}}}, {"files": 3}])
def test_a_hostile_export_json(copy, change):
    (copy / "export" / "export.json").write_text(json.dumps(about(copy) | change))
    with pytest.raises(RunError, match="export.json"):
        open_network(copy, "onnx")


def test_a_file_of_another_network(copy, tmp_path):
    with pytest.raises(RunError, match="is of another network than its export.json"):
        ExportedNetwork(copy / "export" / "network.onnx", "onnx", (32, 32, 1), ["lesion", "lesion_raw"])


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_a_missing_package_is_one_line(copy, monkeypatch, kind):
    find, package = engines.importlib.util.find_spec, {"onnx": "tf2onnx", "openvino": "openvino"}[kind]
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(RunError, match=f"{kind} needs the package {package}: pip install -r requirements-export.txt"):
        export_model.main(ExportConfig(run=copy, to=(kind,)))


def test_the_report_needs_keras(run):
    with pytest.raises(ValueError, match="--engine onnx is for --images"):
        VisualizationConfig(run=run, engine="onnx")


# ---------------------------------------------------------------- export_model.py


def test_a_file_that_differs_too_much_is_not_kept(copy, monkeypatch, capsys):
    before = about(copy)
    monkeypatch.setattr(export, "MOST_DIFFERENCE", -1.0)
    with pytest.raises(RunError, match=r"onnx differs from Keras by .*; at most -1.0 is allowed.* was not kept"):
        export_model.main(ExportConfig(run=copy, to=("onnx",)))
    assert about(copy) == before and "largest difference" in capsys.readouterr().out
    assert {p.name for p in (copy / "export").iterdir()} == {*before["files"], "export.json", ".lock"}


def test_the_bounds():
    agreement = export.Agreement(0.2, 0.01, 0.700, 0.704)
    assert "differs from Keras by 0.2" in agreement.problem("onnx")
    assert agreement.problem("litert-int8") == agreement.problem("openvino-bfloat16") == ""
    assert "Dice 0.6980, and Keras 0.7040" in agreement._replace(dice=0.698).problem("litert-int8")


def test_phantoms_where_the_data_is_not_here(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"root": str(copy / "gone")}))
    with pytest.raises(RunError, match=r"gone: the run's data is not here. litert-int8 .* --data-dir"):
        export_model.main(ExportConfig(run=copy, to=("litert-int8",)))
    export_model.main(ExportConfig(run=copy, to=("onnx",)))
    assert about(copy)["compared_on"].startswith("24 simulated pictures")
    assert set(about(copy)["files"]) == {
        name for names in FILES.values() for name in names
    }  # the others are still good


def test_what_is_left_of_an_earlier_network_is_removed(copy):
    save_decision(copy / "decision.json", Decision(threshold=0.4))
    export_model.main(ExportConfig(run=copy, to=("onnx",)))
    assert {p.name for p in (copy / "export").iterdir()} == {"network.onnx", "export.json", ".lock"}
    assert about(copy)["decision"]["threshold"] == 0.4
    open_network(copy, "onnx")


def test_files_of_others_are_not_replaced(copy):
    shutil.rmtree(copy / "export")
    (copy / "export").mkdir()
    (copy / "export" / "network.onnx").write_bytes(b"mine")
    with pytest.raises(RunError, match=r"network.onnx: is there already, and not by this script"):
        export_model.main(ExportConfig(run=copy, to=("onnx",)))
    (copy / "export" / "export.json").write_text("{}")
    with pytest.raises(RunError, match=r"export.json: is there already, and not by this script"):
        export_model.main(ExportConfig(run=copy, to=("onnx",)))
    assert (copy / "export" / "network.onnx").read_bytes() == b"mine"
    shutil.rmtree(copy / "export")
    (copy / "export").symlink_to(copy.parent)
    with pytest.raises(RunError, match="is a link to another folder"):
        export_model.main(ExportConfig(run=copy, to=("onnx",)))


def test_a_run_that_is_not_finished(copy):
    (copy / "metrics.json").unlink()
    with pytest.raises(RunError, match=r"metrics.json: no such file. Only a finished run"):
        export_model.main(tyro.cli(ExportConfig, args=["--run", str(copy), "--to", "onnx", "litert-int8"]))


def test_the_model_card_has_what_model_hubs_read():
    yaml = pytest.importorskip("yaml")
    _, front, text = (REPOSITORY / "models" / "attention_unet_busi" / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(front)
    assert {"license", "tags", "datasets", "metrics", "library_name"} <= set(card) and text.startswith("\n# Model card")
