import csv
import io
import json
import os
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import cv2
import keras
import numpy as np
import pytest
from conftest import REPOSITORY, TINY, assert_one_clear_line, run_here, run_script
from PIL import Image

import visualize_results
from attention_unet import build_attention_unet
from segmentation.common.errors import RunError
from segmentation.inference import engines, figures, overlays, own_images, predict, report
from segmentation.runs.run_folder import load_run
from segmentation.scoring.calibration import Pixels
from segmentation.scoring.decision import Decision, Prediction
from segmentation.scoring.scores import judge_lesion_score


@pytest.fixture(scope="module")
def trained(phantom_data, tmp_path_factory):
    """A folder, with a space and a letter beyond ASCII in its path, in which a tiny network was trained."""
    cwd = tmp_path_factory.mktemp("my lab é")
    result = run_here(
        "train_model.py", "--data-dir", phantom_data, *TINY, "--epochs", "2", "--split", "all-random", cwd=cwd
    )
    assert_one_clear_line(result, code=0)
    return cwd


@pytest.fixture(scope="module")
def reported(trained):
    result = run_script("visualize_results.py", cwd=trained, DISPLAY="")
    assert_one_clear_line(result, "test images in", code=0)
    return trained / "models" / "attention_unet"


# ---------------------------------------------------------------- the report


def test_every_figure_is_a_picture(reported):
    names = {p.stem for p in (reported / "figures").iterdir()}
    assert {"overlays", "attention", "curves", "distributions", "calibration"} <= names
    for path in (reported / "figures").iterdir():
        with Image.open(path) as picture:
            assert min(picture.size) > 300 and np.asarray(picture.convert("L")).std() > 10


def test_a_network_without_gates_has_no_attention_figure():
    plain = build_attention_unet((32, 32, 1), base_filters=2, depth=2, gates="none")
    assert report.attention(report.attention_network(plain), []) == {}


def test_report_holds_every_test_image_and_names_nothing_outside(reported):
    page = (reported / "report.html").read_text()
    metrics = json.loads((reported / "metrics.json").read_text())
    for score in metrics["images"]:
        assert f'data-name="{score["name"]}"' in page
    assert "Research use only" in page and "Simulated images" in page
    assert f"Lesion Dice {metrics['summary']['lesions']['dice']:.3f}" in page
    assert "http://" not in page and "https://" not in page


def test_another_threshold_is_scored_by_the_same_code(reported, trained, phantom_data):
    copy = trained / "models" / "copy"
    shutil.copytree(reported, copy)
    everything = run_here("visualize_results.py", "--run", copy, "--threshold", "0", cwd=trained)
    assert_one_clear_line(everything, "scored anew with", "threshold=0.0", code=0)
    metrics = json.loads((copy / "metrics.json").read_text())
    lesions = [s for s in metrics["images"] if s["label"] != "normal"]
    share = [(s["tp"] + s["fn"]) / (s["height"] * s["width"]) for s in lesions]
    expected = np.mean([2 * a / (1 + a) for a in share])  # every pixel is predicted
    assert f"lesion Dice {expected:.3f}" in everything.stdout
    shutil.rmtree(copy)


def test_the_newest_run_or_the_shipped_network(tmp_path, monkeypatch):
    for name in ("old", "new", engines.SHIPPED.name):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").touch()
    os.utime(tmp_path / "old" / "metrics.json", (0, 0))
    assert engines.newest_run(tmp_path).name == "new"
    shipped = engines.newest_run(tmp_path / "none")
    assert shipped == REPOSITORY / "models" / "attention_unet_busi"
    monkeypatch.setattr(engines, "SHIPPED", tmp_path / "nothing")
    with pytest.raises(RunError, match="First: python train_model"):
        engines.newest_run(tmp_path / "none")


def test_the_shipped_network_predicts_in_a_fresh_clone(phantom_data, tmp_path):
    image = phantom_data / "malignant" / "malignant (1).png"
    result = run_script("visualize_results.py", "--images", image, cwd=tmp_path)
    assert_one_clear_line(result, "comes with the repository", "1 predictions in predictions", code=0)
    assert (tmp_path / "predictions" / "malignant (1)_mask.png").exists()
    size = sum(path.stat().st_size for path in engines.SHIPPED.glob("*.keras"))
    assert size < 20 * 2**20


def test_changed_data_is_refused(reported, trained, broken_data):
    mask = broken_data / "benign" / "benign (3)_mask.png"
    cv2.imwrite(str(mask), 255 - cv2.imread(str(mask)))
    result = run_here("visualize_results.py", "--run", reported, "--data-dir", broken_data, cwd=trained)
    assert_one_clear_line(result, "split.json", "1 changed")


def test_scores_of_other_images_are_refused(reported, trained):
    copy = trained / "models" / "mixed"
    shutil.copytree(reported, copy)
    metrics = json.loads((copy / "metrics.json").read_text())
    (copy / "metrics.json").write_text(json.dumps(metrics | {"images": metrics["images"][1:]}))
    with pytest.raises(RunError, match="other images than split.json"):
        visualize_results.main(visualize_results.VisualizationConfig(run=copy))
    shutil.rmtree(copy)


def test_report_in_a_browser(reported, chromium):
    """Sorts, filters, opens an overlay; no console error; no request leaves the machine."""
    page = chromium
    page.get((reported / "report.html").as_uri())

    def column(key):
        rows = page.find_elements("css selector", "#images tbody tr:not([hidden])")
        return [row.get_attribute(f"data-{key}") for row in rows]

    everything = column("name")
    page.find_element("css selector", "th[data-key=dice]").click()
    assert column("dice") == sorted(column("dice"), key=float)
    page.find_element("css selector", "th[data-key=dice]").click()
    assert column("dice") == sorted(column("dice"), key=float, reverse=True)
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


# ---------------------------------------------------------------- own images


def test_own_images_of_every_kind(trained, phantom_data, tmp_path):
    folder = tmp_path / "scans ü"
    folder.mkdir()
    grey = np.asarray(Image.open(phantom_data / "benign" / "benign (1).png").convert("L"))
    Image.fromarray(grey).save(folder / "a.png")
    Image.fromarray(grey).save(folder / "a.jpg", quality=95)
    Image.fromarray(np.dstack([grey] * 3)).save(folder / "colour.bmp")
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "deep.tiff")
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:3000])
    (folder / "notes.txt").touch()
    if sys.platform == "linux":  # elsewhere a name is always text
        shutil.copy(folder / "a.png", os.fsencode(folder) + b"/old\xff.png")
    (folder / f"{'long' * 62}.png").write_bytes((folder / "a.png").read_bytes())
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 500), np.uint8)).save(folder / "noise.png")
    single = phantom_data / "malignant" / "malignant (2).png"
    readable = 8 if sys.platform == "linux" else 7
    result = run_script("visualize_results.py", "--images", folder, single, "--output", tmp_path / "out", cwd=trained)
    assert_one_clear_line(
        result, "broken.png: cannot be read", f"{readable} predictions", "1 files skipped", "noise.png looks unlike"
    )
    with (tmp_path / "out" / "predictions.csv").open(encoding="utf-8") as lines:
        rows = {row["file"].rsplit("/", 1)[-1]: row for row in csv.DictReader(lines)}
    assert len(rows) == readable
    assert set(rows) >= {"a.png", "a.jpg", "colour.bmp", "deep.tiff", "noise.png", "malignant (2).png"}
    assert rows[f"{'long' * 62}.png"]["area_px"] == rows["a.png"]["area_px"]
    if sys.platform == "linux":
        assert rows["old\\udcff.png"]["area_px"] == rows["a.png"]["area_px"]
        assert (tmp_path / "out" / "old_mask.png").exists()
    for name in ("a.png", "colour.bmp", "deep.tiff"):
        assert rows[name]["area_px"] == rows["a.png"]["area_px"]
    for stem in ("a", "a-2", "colour", "deep", "malignant (2)"):
        mask = cv2.imread(str(tmp_path / "out" / f"{stem}_mask.png"), cv2.IMREAD_UNCHANGED)
        expected = cv2.imread(str(single), 0).shape if stem.startswith("mal") else grey.shape
        assert mask.shape == expected and set(np.unique(mask)) <= {0, 255}
        assert cv2.imread(str(tmp_path / "out" / f"{stem}_probability.png"), cv2.IMREAD_UNCHANGED).shape == expected
        assert (tmp_path / "out" / f"{stem}_overlay.jpg").exists()
    assert not rows["malignant (2).png"]["warning"]


def test_a_lesion_whose_presence_is_given_is_marked_in_every_own_picture(trained, phantom_data, tmp_path, capsys):
    run, picture = trained / "models" / "attention_unet", phantom_data / "normal" / "normal (1).png"
    model, stored = load_run(run)
    for given in (False, True):
        decision = visualize_results.decision_for(visualize_results.VisualizationConfig(lesion_given=given), run)
        own_images.predict_images(model, stored, [picture], tmp_path, replace(decision, threshold=1.0))
        with (tmp_path / "predictions.csv").open() as lines:
            assert (int(next(csv.DictReader(lines))["area_px"]) > 0) is given
        said = capsys.readouterr().out
        assert ("no lesion in 1 of 1 pictures" in said, "is no sign" in said) == (not given, given)
    with pytest.raises(ValueError, match="leave --threshold and --min-score out"):
        visualize_results.VisualizationConfig(threshold=0.5, lesion_given=True)


def test_no_image_at_all(trained, tmp_path):
    result = run_here("visualize_results.py", "--images", tmp_path, cwd=trained)
    assert_one_clear_line(result, "no picture here")


def test_table_row_by_hand(tmp_path):
    image, probability = np.zeros((40, 60), np.uint8), np.zeros((20, 30), np.float32)
    probability[5:10, 10:20] = 0.75
    decision = Decision(threshold=0.3)
    row = own_images.write_prediction(tmp_path / "x", image, None, probability, None, decision, None)
    assert row["lesions"] == 1
    assert (row["box_x"], row["box_y"], row["box_width"], row["box_height"]) == (20, 10, 20, 10)
    assert row["area_px"] == pytest.approx(200, abs=4) and 0.5 < row["mean_probability"] <= 0.75


# ---------------------------------------------------------------- prediction


class Brightness:
    """A network that finds the left half of bright pixels twice as likely."""

    def predict_on_batch(self, x):
        weight = np.linspace(1, 0, x.shape[2])[None, None, :, None]
        return x / 255 * weight


def test_tta_averages_with_the_mirrored_picture():
    image = np.full((1, 4, 5), 255, np.uint8)
    plain = predict.predict_raw(Brightness(), image).probability
    averaged = predict.predict_raw(Brightness(), image, tta=True).probability
    assert np.allclose(plain[0, 0], [1, 0.75, 0.5, 0.25, 0]) and np.allclose(averaged, 0.5)


def test_a_lesion_is_scored_as_found_and_with_presence_given_by_hand():
    """A map that the decision empties: Dice 0; the likeliest pixels cover half of the lesion."""
    probability, reference = np.zeros((8, 8), np.float32), np.zeros((8, 8), np.uint8)
    probability[2:4, 2:4], reference[2:4, 2:6] = 0.2, 1
    samples = [SimpleNamespace(name=label, label=label, folder="") for label in ("benign", "normal")]
    pictures = [(reference, reference), (reference, reference * 0)]
    lesion, normal = predict.score_samples(
        Prediction(np.stack([probability] * 2)), samples, pictures, [0, 1], Decision()
    )
    assert (
        lesion["dice"] == 0
        and lesion["dice_lesion_given"] == pytest.approx(2 / 3)
        and lesion["iou_lesion_given"] == 0.5
    )
    assert normal["dice"] == 1 and normal["dice_lesion_given"] is None


def test_a_low_lesion_score_empties_the_mask_and_presence_given_brings_it_back():
    probability, reference = np.zeros((3, 8, 8), np.float32), np.zeros((8, 8), np.uint8)
    probability[:, 2:4, 2:4], reference[2:4, 2:6] = 0.9, 1
    samples = [
        SimpleNamespace(name=str(n), label=label, folder="") for n, label in enumerate(("benign", "benign", "normal"))
    ]
    pictures = [(reference, reference), (reference, reference), (reference, reference * 0)]
    prediction = Prediction(probability, np.float32([0.5, 0.25, 0.25]))
    kept, emptied, normal = predict.score_samples(prediction, samples, pictures, [0, 1, 2], Decision(min_score=0.5))
    assert kept["dice"] == kept["dice_lesion_given"] == pytest.approx(2 / 3)
    assert emptied["dice"] == 0 and emptied["dice_lesion_given"] == pytest.approx(2 / 3)
    assert normal["fp"] == 0 and [row["lesion_score"] for row in (kept, emptied, normal)] == [0.5, 0.25, 0.25]


class TwoOutputs(Brightness):
    """Beside the map, the mean of the left half as the lesion score."""

    def predict_on_batch(self, x):
        half = x[:, :, : x.shape[2] // 2] / 255
        return {"lesion": super().predict_on_batch(x), "lesion_score": half.mean(axis=(1, 2))}


def test_the_lesion_score_is_averaged_and_calibrated_too():
    image = np.zeros((2, 4, 4), np.uint8)
    image[0, :, :2] = 255
    raw = predict.predict_raw(TwoOutputs(), image, tta=True)
    assert raw.score.tolist() == [0.5, 0] and raw.probability.shape == (2, 4, 4)
    assert predict.predict_raw(TwoOutputs(), image).score.tolist() == [1, 0]
    network = SimpleNamespace(input_shape=(None, 4, 4, 1), predict_on_batch=TwoOutputs().predict_on_batch)
    decision = Decision(tta=True, score_scale=2.0, score_offset=1.0)
    found = predict.predict_pictures(network, list(image), decision)
    assert found.score[0] == pytest.approx(1 / (1 + np.exp(-1)))  # the logit of 0.5 is 0


def test_a_minimum_score_needs_a_network_with_a_score(trained):
    result = run_here("visualize_results.py", "--run", "models/attention_unet", "--min-score", "0.3", cwd=trained)
    assert_one_clear_line(result, "its network has no lesion score")


def test_own_picture_under_a_low_score(tmp_path):
    """Nothing in mask and table, a dashed outline in the overlay."""
    image, probability = np.full((320, 480), 90, np.uint8), np.zeros((20, 30), np.float32)
    probability[5:15, 10:20] = 0.9
    rows = {}
    for score in (0.3, 0.7):
        base = tmp_path / str(score)
        rows[score] = own_images.write_prediction(base, image, None, probability, score, Decision(min_score=0.5), None)
    assert [rows[score]["lesion_score"] for score in rows] == [0.3, 0.7]
    assert rows[0.3]["area_px"] == 0 < rows[0.7]["area_px"]
    orange = []
    for score in rows:
        overlay = np.asarray(Image.open(tmp_path / f"{score}_overlay.jpg")).astype(int)
        upper = overlay[:350]  # above the line of text
        orange.append(((upper - overlays._rgb(figures.PREDICTION)) ** 2).sum(axis=2) < 3000)
    assert 0.3 < orange[0].sum() / orange[1].sum() < 0.7


def test_pictures_of_any_size_and_number_are_traced_once():
    traces = []

    class Traced(keras.layers.Layer):
        def call(self, x):
            traces.append(x.shape)
            return x / 255

    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, Traced()(inputs))
    traces.clear()
    for count, height in ((5, 20), (4, 8), (3, 31)):
        images = [np.full((height, 12), 51 * k, np.uint8) for k in range(count)]
        maps = predict.predict_pictures(model, images, Decision(tta=True), batch_size=4).probability
        assert maps.shape == (count, 8, 8) and np.allclose(maps[:, 0, 0], 0.2 * np.arange(count), atol=1e-3)
    assert len(traces) == 1, traces


def test_familiar_pictures_pass_and_others_do_not(phantom_data):
    pictures = [np.asarray(Image.open(p)) for p in sorted(phantom_data.glob("*/*).png"))]
    limits = predict.appearance_limits(pictures[::2])
    assert sum(bool(predict.unlike_training(p, limits)) for p in pictures[1::2]) <= 3
    noise = np.random.default_rng(0).integers(0, 255, (300, 400), np.uint8)
    assert predict.unlike_training(noise, limits)
    assert predict.unlike_training(pictures[1].T, limits)


# ---------------------------------------------------------------- figures


def test_overlay_shows_what_is_wrong():
    reference, prediction = np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    reference[10:40, 10:40] = prediction[20:55, 20:55] = True
    picture = overlays.draw_overlay(np.zeros((64, 64), np.uint8), prediction, reference, side=640)

    def has(colour, rows, columns):
        return (picture[rows, columns] == overlays._rgb(colour)).all(axis=2).mean()

    only_reference, only_prediction = (slice(120, 180), slice(120, 180)), (slice(450, 520), slice(450, 520))
    assert has(overlays.FALSE_NEGATIVE, *only_reference) > 0.2 and has(overlays.FALSE_POSITIVE, *only_reference) == 0
    assert has(overlays.FALSE_POSITIVE, *only_prediction) > 0.2 and has(overlays.FALSE_NEGATIVE, *only_prediction) == 0
    assert has(overlays.FALSE_POSITIVE, slice(250, 350), slice(250, 350)) == 0
    without = overlays.draw_overlay(np.zeros((64, 64), np.uint8), prediction, None)
    assert not (without == overlays._rgb(overlays.FALSE_POSITIVE)).all(axis=2).any()


def test_the_lesion_score_is_drawn_where_there_is_one():
    rows = [{"label": label, "group": n, "lesion_score": 0.1 * n} for n, label in enumerate(["normal", "benign"] * 4)]
    figure = figures.lesion_score(rows, judge_lesion_score(rows), 0.25)
    roc, sweep = figure.axes
    assert roc.get_title().startswith("AUC 0.625")  # of 16 pairs, 10 are in order
    assert roc.lines[-1].get_xydata()[0].tolist() == [0.5, 0.75] and sweep.get_title() == "the run uses 0.25"
    # The steps are what a count says.
    sensitivity, specificity = (line.get_xydata() for line in sweep.lines[:2])
    for minimum in (0.25, 0.45, 0.65):
        at = sensitivity[:, 0].searchsorted(minimum)
        lesions, normals = (
            np.mean([row["lesion_score"] >= minimum for row in rows if row["label"] == label])
            for label in ("benign", "normal")
        )
        assert sensitivity[at, 1] == lesions and 1 - specificity[at, 1] == normals


def test_a_name_is_no_formula():
    score = {"name": "a$\\frac$", "label": "normal", "fp": 0, "height": 8, "width": 8}
    case = figures.Case(score, *[np.zeros((8, 8), np.uint8)] * 2, np.zeros((8, 8), bool), np.zeros((8, 8)))
    figures.overlay_grid([case], "title").savefig(io.BytesIO())


def test_curves_say_what_they_are_of():
    row = {"epoch": 0, "learning_rate": 0.1} | {key: 0.5 for key in ("loss", "dice", "iou", "accuracy")}
    judged = row | {f"val_{key}": 0.4 for key in ("loss", "dice", "iou", "accuracy")}
    labels = [
        [text.get_text() for text in figures.curves([history], 0, 0.9, "the test images").axes[5].get_legend().texts]
        for history in (row, judged)
    ]
    assert "the test images" in labels[1] and [t for t in labels[1] if t != "the test images"] == labels[0]


def test_a_share_of_the_highest_probability_is_drawn_as_one():
    """The maps are unsure, and right at every share below 1."""
    reference = np.zeros((2, 8, 8), np.uint8)
    reference[:, 2:5, 2:5] = 1
    probability = np.where(reference > 0, 0.2, 0.01).astype(np.float32)
    found = {}
    for of_highest in (False, True):
        pixels = Pixels(probability, reference, reference > 0)
        diagram, sweep = figures.calibration(pixels, 0.5, of_highest).axes
        # All of the pixels that are marked are lesion, and were given 0.2.
        assert diagram.texts[0].get_text().endswith("over predicted-lesion pixels 0.800")
        found[of_highest] = sweep.lines[0].get_ydata()[9]  # Dice at 0.5
        assert ("share of the picture's highest" in sweep.get_xlabel()) == of_highest
    assert found == {False: 0, True: 1}


def test_the_report_judges_maps_together_with_their_lesion_scores():
    def case(**score):
        return figures.Case(score, *[np.zeros((8, 8), np.uint8)] * 2, np.zeros((8, 8), bool), np.full((4, 4), 0.5))

    assert report.prediction_of([case(), case()]).score is None
    probability, score = report.prediction_of([case(lesion_score=0.25), case(lesion_score=0.75)])
    assert probability.shape == (2, 4, 4) and score.tolist() == [0.25, 0.75]


def test_threshold_curves_by_hand():
    probability = np.array([[[0.9, 0.4]], [[0.6, 0.1]]], np.float32)
    reference = np.array([[[1, 1]], [[0, 0]]], np.uint8)
    curves = figures.threshold_curves(probability, reference, np.array([0.3, 0.5, 0.8]))
    assert np.allclose(curves["dice"], [1, 2 / 3, 2 / 3]) and np.allclose(curves["sensitivity"], [1, 0.5, 0.5])
    assert np.allclose(curves["false_positive_area"], [0.5, 0.5, 0])
