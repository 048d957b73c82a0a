"""The report of a run: its figures, and report.html, also in a real browser."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from scored_run import train_scored_run

import visualize_results
from attention_unet import build_attention_unet
from dataset import DataError
from segmentation.common.errors import RunError
from segmentation.data.collection import collect
from segmentation.reports import report
from segmentation.reports.report import attention, attention_network, draw_figures, load_cases, write_report
from segmentation.runs.run_folder import load_run
from segmentation.scoring.decision import Decision
from visualize_results import VisualizationConfig


@pytest.fixture(scope="module")
def reported(phantom_data, tmp_path_factory) -> Path:
    """A tiny run with a lesion score, and its report."""
    models = tmp_path_factory.mktemp("reported é")
    shutil.copytree(train_scored_run(phantom_data, tmp_path_factory), models / "attention_unet")
    visualize_results.main(VisualizationConfig(models_dir=models))
    return models / "attention_unet"


@pytest.fixture
def copy(reported, tmp_path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(reported, tmp_path / "run"))


def metrics_of(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text())


def test_every_figure_is_a_picture(reported):
    names = {p.stem for p in (reported / "figures").iterdir()}
    assert {"overlays", "attention", "curves", "distributions", "lesion_score", "calibration"} <= names
    for path in (reported / "figures").iterdir():
        with Image.open(path) as picture:
            assert min(picture.size) > 300 and np.asarray(picture.convert("L")).std() > 10


def test_a_network_without_gates_has_no_attention_figure():
    plain = build_attention_unet((32, 32, 1), base_filters=2, depth=2, gates="none")
    assert attention(attention_network(plain), []) == {}


def test_report_holds_every_test_image_and_names_nothing_outside(reported):
    page, metrics = (reported / "report.html").read_text(), metrics_of(reported)
    for score in metrics["images"]:
        assert f'data-name="{score["name"]}"' in page
    assert "Research use only" in page
    assert f"Lesion Dice {metrics['summary']['lesions']['dice']:.3f}" in page
    assert "http://" not in page and "https://" not in page


def test_another_threshold_is_scored_anew(reported, phantom_data, capsys):
    model, _ = load_run(reported)
    drawn = load_cases(model, reported, collect([phantom_data]).samples, Decision(threshold=0.0))
    lesions = [s for s in metrics_of(reported)["images"] if s["label"] != "normal"]
    share = [(s["tp"] + s["fn"]) / (s["height"] * s["width"]) for s in lesions]
    expected = np.mean([2 * a / (1 + a) for a in share])  # every pixel is predicted
    assert drawn.metrics["summary"]["lesions"]["dice"] == pytest.approx(expected)
    said = capsys.readouterr().out
    assert "threshold=0.0" in said and f"lesion Dice {expected:.3f}" in said


def test_an_unfinished_run_has_a_report_too(copy, phantom_data):
    """Its history has two epochs, and nothing was decided or scored."""
    for name in ("metrics.json", "decision.json", "report.html"):
        (copy / name).unlink()
    model, stored = load_run(copy)
    drawn = load_cases(model, copy, collect([phantom_data]).samples, Decision())
    assert {"overlays", "curves", "calibration"} <= dict(draw_figures(model, copy, drawn)).keys()
    write_report(copy, drawn, stored, ["curves"])
    page = (copy / "report.html").read_text()
    assert "not finished" in page and all(f'data-name="{case.score["name"]}"' in page for case in drawn.cases)


@pytest.mark.parametrize(("choice", "best"), [("validation", 0), ("test", 0), ("decision", 1), ("nothing", 1)])
def test_the_epoch_of_an_unfinished_run_is_the_one_that_it_keeps(choice, best, monkeypatch):
    rows = [{"epoch": 0, "val_dice": 0.6}, {"epoch": 1, "val_dice": 0.5}]
    for name, content in (("history", rows), ("split", {"choose_on": choice}), ("config", {})):
        monkeypatch.setattr(report, f"read_{name}", lambda path, content=content: content)
    known = report.describe_unfinished(build_attention_unet((32, 32, 1), base_filters=2, depth=1), Path())
    assert (known["best_epoch"], known["choose_on"]) == (best, choice)  # the page says if these are the test images


def test_what_does_not_fit_the_run_is_refused(copy, broken_data):
    mask = broken_data / "benign" / "benign (3)_mask.png"
    cv2.imwrite(str(mask), 255 - cv2.imread(str(mask)))
    with pytest.raises(DataError, match="split.json.*1 changed"):
        visualize_results.main(VisualizationConfig(run=copy, data_dir=(broken_data,)))
    metrics = metrics_of(copy)
    (copy / "metrics.json").write_text(json.dumps(metrics | {"images": metrics["images"][1:]}))
    with pytest.raises(RunError, match="other images than split.json"):
        visualize_results.main(VisualizationConfig(run=copy))
    with pytest.raises(DataError, match="nowhere: .*--data-dir"):
        visualize_results.main(VisualizationConfig(run=copy, data_dir=(copy / "nowhere",)))
    shutil.rmtree(copy / "figures")
    (copy / "figures").symlink_to(broken_data)
    with pytest.raises(RunError, match="figures: is a link"):
        visualize_results.main(VisualizationConfig(run=copy))


def test_report_in_a_browser(reported, chromium):
    """Sorts, filters, opens an overlay; no console error; no request leaves the machine."""
    page = chromium
    page.get((reported / "report.html").as_uri())

    def column(key):
        rows = page.find_elements("css selector", "#images tbody tr:not([hidden])")
        return [row.get_attribute(f"data-{key}") for row in rows]

    everything = column("name")
    for turned in (False, True):
        page.find_element("css selector", "th[data-key=dice]").click()
        assert column("dice") == sorted(column("dice"), key=float, reverse=turned)
    page.find_element("css selector", "th[data-key=hd95]").click()
    defined = [float(v) for v in column("hd95") if v]
    assert defined == sorted(defined) and [bool(v) for v in column("hd95")] == sorted(map(bool, column("hd95")))[::-1]

    page.find_element("id", "label").send_keys("benign")
    assert set(column("label")) == {"benign"} and len(column("name")) < len(everything)
    page.find_element("id", "name").send_keys("(1")
    assert all("(1" in name for name in column("name"))
    page.find_element("id", "name").clear()
    page.execute_script("document.getElementById('label').value=''; filter()")
    assert sorted(column("name")) == sorted(everything)

    page.find_element("css selector", "#images tbody tr").click()
    dialog = page.find_element("id", "overlay")
    picture = dialog.find_element("tag name", "img")
    assert dialog.is_displayed()
    assert page.execute_script("return arguments[0].complete && arguments[0].naturalWidth > 300", picture)
    broken = "return [...document.images].filter(i => i.src && !(i.complete && i.naturalWidth)).length"
    assert page.execute_script(broken) == 0
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert asked and all(url.startswith(("file:", "data:")) for url in asked)
