import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from conftest import TINY, assert_one_clear_line, run_here, run_script

import cross_validate
import train_model
from segmentation.common.errors import RunError
from segmentation.common.files import read_json, write_atomic, write_json
from segmentation.runs import workers as jobs
from segmentation.runs.run_folder import FILES
from segmentation.scoring.score_table import read_scores
from segmentation.scoring.scores import LESION_GIVEN, summarise

FLAGS = [*TINY, "--epochs", "1"]


# In the place of train_model.py: leaves the files of a finished run, or of one that failed.
STAND_IN = """
import sys
from pathlib import Path
run = Path(sys.argv[sys.argv.index("--models-dir") + 1]) / sys.argv[sys.argv.index("--run") + 1]
run.mkdir()
fails = "--fails" in sys.argv
for name in sys.argv[sys.argv.index("--files") + 1].split(","):
    (run / name).write_text("new")
sys.exit("error: it failed" if fails else 0)
"""


def stand_in(folder, monkeypatch):
    (folder / "scripts").mkdir()
    (folder / "scripts" / "train_model.py").write_text(STAND_IN)
    monkeypatch.setattr(jobs, "HERE", folder / "scripts")


def made(run):
    """What `collect` reads of a run: lesions of one Dice and HD95, and four normals, one of them marked."""
    run.mkdir(parents=True)
    dice = {"fold0": 0.6, "fold1": 0.8}[run.name]
    shape = {"height": 3, "width": 3, "diagonal": 10.0, "precision": 1.0, "recall": 1.0, "assd": 1.0}
    lesion = shape | {"label": "benign", "dice": dice, "iou": dice / 2, "hd95": 3.0, "tp": 3, "fp": 0, "fn": 1, "tn": 5}
    normal = shape | {"label": "normal", "dice": 1.0, "iou": 1.0, "hd95": 0.0, "tp": 0, "fp": 0, "fn": 0, "tn": 9}
    marked = normal | {"dice": 0.0, "iou": 0.0, "precision": 0.0, "recall": None, "hd95": None, "assd": None}
    scores = [lesion] * (4 if run.name == "fold0" else 12) + [normal] * 3 + [marked | {"fp": 2, "tn": 7}]
    images = [{"name": f"{run.name} ({i})", "group": i, **score} for i, score in enumerate(scores)]
    result = {"data": "busi", "split": "grouped-cv", "best_epoch": 3, "minutes": 2.0, "parameters": 7_000_000}
    result |= {"gmac": 1.25, "near_copies_in_training": 3, "environment": {}}
    write_json(run / "metrics.json", result | {"images": images})


def change(run, **values):
    """Change what `made` wrote; None takes a key away."""
    metrics = read_json(run / "metrics.json") | values
    write_json(run / "metrics.json", {key: value for key, value in metrics.items() if value is not None})


def test_table_by_hand(tmp_path):
    for name in ("fold0", "fold1"):
        made(tmp_path / name)
    result = cross_validate.collect(tmp_path, ["fold0", "fold1"])
    assert result["mean"]["dice"] == pytest.approx({"mean": 0.7, "sd": 0.2 / 2**0.5})
    assert result["together"]["lesions"]["dice"] == pytest.approx((4 * 0.6 + 12 * 0.8) / 16)
    assert len(result["images"]) == 24 and result["images"][0]["run"] == "fold0"
    text = cross_validate.table(result)
    assert "| fold1 | 0.8 |  | 0.4 | 3 | 0 | 0.25 | 2 |" in text and "| mean | 0.7 |" in text and "LEAKY: 6" in text
    assert "all 24 images together: Dice 0.750, IoU 0.500, HD95 21.8% of" in text and "FLATTERED" not in text
    assert "7.00 M parameters, 1.25 GMAC" in text
    assert "lesion score" not in text
    for image in result["images"]:  # told apart, but for one of the 16 lesions
        image["lesion_score"] = 0.2 if image["label"] == "normal" else 0.1 if image["name"] == "fold0 (0)" else 0.9
    result["together"] = summarise(result["images"])
    assert "lesion score: AUC 0.938" in (text := cross_validate.table(result))
    assert "0% are below what 95 % of the lesion images reach, and 100% below what 90 % reach" in text
    result["runs"]["fold1"]["choose_on"] = "test"
    assert "FLATTERED" in cross_validate.table(result)


@pytest.mark.parametrize("earlier", [False, True])
def test_table_says_what_is_drawn_with_lesion_presence_given(tmp_path, earlier):
    for name, dice in (("fold0", 0.7), ("fold1", 0.9)):
        made(tmp_path / name)
        metrics = read_json(tmp_path / name / "metrics.json")
        for score in metrics["images"]:
            given = (dice, dice / 2) if score["label"] == "benign" else (None, None)
            score |= dict(zip(LESION_GIVEN, given, strict=True))
        text = json.dumps(metrics)
        if earlier:  # the names that earlier commits wrote
            text = text.replace("_lesion_given", "_known").replace("near_copies_in", "twins_in")
        (tmp_path / name / "metrics.json").write_text(text)
    text = cross_validate.table(cross_validate.collect(tmp_path, ["fold0", "fold1"]))
    assert "| fold1 | 0.8 | 0.9 |" in text and "| mean | 0.7 | 0.8 |" in text
    assert "with lesion presence given: Dice 0.850 (95 % " in text  # 4 images of 0.7, 12 of 0.9
    assert "LEAKY: 6" in text


def test_the_luck_of_a_seed_by_hand(tmp_path):
    def tested(run, dice, names="ab"):
        return [{"run": run, "name": name, "label": "benign", "dice": dice} for name in names]

    images = [*tested("p1-1-seed0", 0.7), *tested("p1-1-seed1", 0.8), *tested("p1-2-seed0", 0.2, "cd")]
    normal = {"run": "p1-2-seed0", "name": "n", "label": "normal", "dice": 0.0}
    assert cross_validate.seed_luck(images) == pytest.approx(0.005**0.5)  # 0.05 each side of the mean, ddof 1
    # Three runs more: squares 0.01, 0 and 0.01 with two degrees of freedom, and 0.005 with one.
    more = [entry for n in (1, 2, 3) for entry in tested(f"p1-3-seed{n}", n / 10, "ef")]
    assert cross_validate.seed_luck([*images, normal, *more]) == pytest.approx((0.025 / 3) ** 0.5)
    assert cross_validate.seed_luck([*tested("seed0", 0.7), *tested("seed1", 0.8, "ac")]) is None  # another split


def test_a_score_that_the_last_run_lacks_is_kept(tmp_path):
    for name in ("fold0", "fold1"):
        made(tmp_path / name)
    lesions = [s for s in read_json(tmp_path / "fold1" / "metrics.json")["images"] if s["label"] == "benign"]
    change(tmp_path / "fold1", images=lesions)
    result = cross_validate.collect(tmp_path, ["fold0", "fold1"])
    assert result["mean"]["normals_with_false_positive"] == {"mean": 0.25, "sd": 0.0}


def test_a_run_that_does_not_say_everything_is_collected(tmp_path):
    """Earlier commits wrote no multiply-adds, and a resumed run has no minutes."""
    for name in ("fold0", "fold1"):
        made(tmp_path / name)
    change(tmp_path / "fold1", minutes=None, gmac=None)
    result = cross_validate.collect(tmp_path, ["fold0", "fold1"])
    assert result["mean"]["minutes"] == {"mean": 2.0, "sd": 0.0} and result["runs"]["fold1"]["gmac"] is None
    text = cross_validate.table(result)
    assert "| fold1 | 0.8 |  | 0.4 | 3 | 0 | 0.25 |  |" in text
    change(tmp_path / "fold0", minutes=None, gmac=None)
    text = cross_validate.table(cross_validate.collect(tmp_path, ["fold0", "fold1"]))
    assert "7.00 M parameters" in text and "GMAC" not in text and "| mean | 0.7 |  | 0.35 | 3 | 0 | 0.25 |  |" in text


def test_a_summary_is_made_from_the_images_and_not_believed(tmp_path):
    made(tmp_path / "fold0")
    change(tmp_path / "fold0", summary={"lesions": {"dice": 0.99}})
    result = cross_validate.collect(tmp_path, ["fold0"])
    assert result["runs"]["fold0"]["dice"] == result["together"]["lesions"]["dice"] == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"parameters": "many"}, '"parameters" must be a valid integer'),
        ({"minutes": 10**400}, '"minutes"'),
        ({"images": [{"name": "a"}]}, '"images.0.label" is missing'),
        ({"images": []}, "no scored image with a lesion"),
        ({"near_copies_in_training": None}, '"near_copies_in_training" is missing'),
    ],
)
def test_damaged_scores_of_a_run_are_named(tmp_path, damage, words):
    for name in ("fold0", "fold1"):
        made(tmp_path / name)
    change(tmp_path / "fold1", **damage)
    with pytest.raises(RunError, match=f"fold1/metrics.json: .*{words}"):
        cross_validate.collect(tmp_path, ["fold0", "fold1"])


def test_some_folds_alone(tmp_path, monkeypatch):
    planned = {}
    monkeypatch.setattr(cross_validate, "train_all", lambda runs, *_: planned.update(runs) or dict.fromkeys(runs, "no"))
    config = cross_validate.CrossValidationConfig(splits=("grouped-cv",), folds=(4, 1), seeds=(7,), models_dir=tmp_path)
    with pytest.raises(RunError, match="the run failed"):
        cross_validate.main(config, ["--epochs", "1"])
    assert planned == {
        f"grouped-cv-fold{fold}-seed7": ["--epochs", "1", "--split", "grouped-cv", "--fold", fold, "--seed", "7"]
        for fold in ("4", "1")
    }


def test_every_fold_that_fails_is_named(tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch)
    config = cross_validate.CrossValidationConfig(splits=("p1-1", "p1-2"), models_dir=tmp_path)
    words = "p1-1-fold0-seed0.log: the run failed: it failed\n.*p1-2-fold0-seed0.log: the run failed: it failed"
    with pytest.raises(RunError, match=words):
        cross_validate.main(config, ["--files", "config.json", "--fails"])


def test_folds_are_trained_once_and_the_same_command_goes_on(phantom_data, tmp_path):
    command = ["cross_validate.py", "--name", "cv2", "--splits", "grouped", "--data-dir", phantom_data, *FLAGS]
    first = run_script(*command, "--seeds", "0", cwd=tmp_path)
    assert_one_clear_line(first, "1 runs in", "1 to be trained", "| grouped-fold0-seed0 |", code=0)
    both = run_here(*command, "--seeds", "0", "1", cwd=tmp_path)
    assert_one_clear_line(both, "2 runs in", "1 to be trained", "| sd |", code=0)
    assert "same test images but other seeds" in both.stdout  # in 48 images the largest groups are always tested
    assert "other seeds" not in first.stdout
    folder = tmp_path / "models" / "cv2"
    result = json.loads((folder / "cross_validation.json").read_text())
    assert set(result["runs"]) == {"grouped-fold0-seed0", "grouped-fold0-seed1"} and "images" not in result
    assert len({(folder / run / "split.json").read_bytes() for run in result["runs"]}) == 1  # of both seeds
    table = read_scores(folder / "cross_validation.csv")
    for run in result["runs"]:
        scores = json.loads((folder / run / "metrics.json").read_text())["images"]
        assert [(s["name"], s["dice"]) for s in table if s["run"] == run] == [(s["name"], s["dice"]) for s in scores]
    other = run_here(*command, "--base-filters", "3", cwd=tmp_path)
    assert_one_clear_line(other, "holds runs with other flags")


def test_the_order_of_the_flags_does_not_matter_but_their_values_do(tmp_path, monkeypatch):
    monkeypatch.setattr(cross_validate, "train_all", lambda runs, *_: dict.fromkeys(runs, "no"))
    config = cross_validate.CrossValidationConfig(splits=("grouped",), models_dir=tmp_path)
    for flags in (["--epochs", "1", "--batch-size", "2"], ["--batch-size", "2", "--epochs", "1"]):
        with pytest.raises(RunError, match="the run failed"):
            cross_validate.main(config, flags)
    (tmp_path / config.name / "grouped-fold0-seed0").mkdir()
    with pytest.raises(RunError, match=r"other flags \(--batch-size 2 --epochs 1\)"):
        cross_validate.main(config, ["--epochs", "2", "--batch-size", "1"])


def test_refused_flags_are_told_and_can_be_mended(tmp_path):
    command = ["cross_validate.py", "--splits", "grouped", "--data-dir", "nowhere"]
    mistyped = run_here(*command[:1], "papper", *command[1:], "--epoch", "1", cwd=tmp_path)  # no preset, and no flag
    assert_one_clear_line(mistyped, "the run failed", "Unrecognized", "papper", "--epoch")
    mended = run_here(*command, "--epochs", "1", cwd=tmp_path)
    assert_one_clear_line(mended, "nowhere: no such folder")


def test_a_preset_is_handed_on(tmp_path, monkeypatch):
    """What train_model.py is given is the preset with the flags that follow, and the preset is one of the flags."""
    made(tmp_path / "fold0")
    asked, run = [], tmp_path / "models" / "cv" / "grouped-fold0-seed0"

    def train(self, run, arguments):
        asked.append(arguments)
        (tmp_path / "fold0").rename(run)
        return ""

    monkeypatch.setattr(jobs.LocalTrainer, "train", train)
    command = ["cross_validate.py", "paper", "--name", "cv", "--splits", "grouped", "--data-dir", "somewhere"]
    small = ["--image-size", "32", "--epochs", "1"]
    assert_one_clear_line(run_here(*command, *small, cwd=tmp_path), "1 to be trained", "| grouped-fold0-seed0 |", code=0)
    monkeypatch.setattr("sys.argv", ["train_model.py", *asked[0]])
    settings = train_model.parse_command_line()
    assert settings == replace(
        train_model.PRESETS["paper"], image_size=32, epochs=1, split="grouped", data_dir=(Path("somewhere"),)
    )
    again = run_here(*command, *reversed(small[2:]), cwd=tmp_path)
    assert_one_clear_line(again, "holds runs with other flags (paper --data-dir")
    without = run_here(*command[:1], *command[2:], *small, cwd=tmp_path)
    assert_one_clear_line(without, "holds runs with other flags (paper --data-dir")
    assert_one_clear_line(run_here(*command, *small, cwd=tmp_path), "0 to be trained", code=0)
    assert len(asked) == 1 and run.is_dir()


@pytest.mark.parametrize(("splits", "folds"), [(("grouped-cv",), (5,)), (("p1-1",), (1,)), (("tuning",), (-1,))])
def test_folds_that_do_not_exist(splits, folds):
    with pytest.raises(ValueError, match=f"of split {splits[0]} are 0 to|must be at least 0"):
        cross_validate.CrossValidationConfig(splits=splits, folds=folds)


def test_a_flag_can_name_the_run(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(cross_validate, "train_all", lambda runs, *_: asked.append(runs) or {"x": "stopped here"})
    config = cross_validate.CrossValidationConfig(splits=("p1-1", "p1-2"), models_dir=tmp_path)
    with pytest.raises(RunError, match="stopped here"):
        cross_validate.main(config, ["--decision-from", "models/p1/{run}"])
    assert {name: arguments[1] for name, arguments in asked[0].items()} == {
        "p1-1-fold0-seed0": "models/p1/p1-1-fold0-seed0",
        "p1-2-fold0-seed0": "models/p1/p1-2-fold0-seed0",
    }


# ---------------------------------------------------------------- Ray


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    """A trainer on a cluster that is this process, with a stand-in for train_model.py; and the files it writes."""
    ray = ModuleType("ray")
    ray.init, ray.get = lambda *_, **settings: None, lambda task: task
    ray.exceptions = SimpleNamespace(RayError=KeyError)
    ray.remote = lambda **settings: lambda function: SimpleNamespace(remote=function)
    monkeypatch.setitem(sys.modules, "ray", ray)
    stand_in(tmp_path, monkeypatch)
    written = []

    def write(path, content):
        written.append(path.name)
        write_atomic(path, content)

    monkeypatch.setattr(jobs, "write_atomic", write)
    return jobs.RayTrainer("local"), written


def test_a_run_comes_back_from_ray_in_the_order_of_a_training(trainer, tmp_path):
    ray, written = trainer
    run = tmp_path / "fold0"
    run.mkdir()
    for name in FILES[:5]:  # of an earlier one, stopped here
        (run / name).write_text("old")
    finished = [name for name in FILES if name != "backup.npz"]
    assert ray.train(run, ["--files", ",".join(sorted(finished))]) == ""
    assert written == ["fold0.log", *finished]
    assert {path.name: path.read_text() for path in run.iterdir()} == dict.fromkeys(finished, "new")


def test_a_run_stopped_while_it_comes_back_is_whole_or_refused(trainer, tmp_path, monkeypatch):
    """Wherever the copying ends, the files are the first ones of the order."""
    ray, written = trainer
    for last in range(len(FILES) - 1):
        run = tmp_path / f"fold{last}"
        run.mkdir()
        for name in FILES[:5]:
            (run / name).write_text("old")
        write = jobs.write_atomic

        def stop(path, content, write=write, last=last):
            if path.name == FILES[last]:
                raise KeyboardInterrupt
            write(path, content)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(jobs, "write_atomic", stop)
            ray.train(run, ["--files", ",".join(FILES)])
        assert {path.name for path in run.iterdir()} == set(FILES[:last])


def test_what_failed_on_ray_replaces_nothing(trainer, tmp_path):
    ray, _ = trainer
    flags = ["--files", "config.json,history.csv", "--fails"]
    assert ray.train(tmp_path / "new", flags) == "it failed"
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"config.json", "history.csv"}
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "backup.npz").write_text("ours")
    assert ray.train(tmp_path / "begun", flags) == "it failed"
    assert [path.read_text() for path in (tmp_path / "begun").iterdir()] == ["ours"]
    assert ray.train(tmp_path / "empty", ["--run", "refused"]) and not (tmp_path / "empty").exists()


def test_folds_as_ray_tasks(phantom_data, tmp_path):
    """Of the default network: the weights that it starts from travel along."""
    where = ["--name", "cv", "--splits", "grouped", "--ray", "local", "--data-dir", phantom_data]
    result = run_script("cross_validate.py", *where, "--image-size", "64", "--epochs", "1", cwd=tmp_path)
    assert_one_clear_line(result, "| grouped-fold0-seed0 |", code=0)
    files = {p.name for p in (tmp_path / "models" / "cv" / "grouped-fold0-seed0").iterdir()}
    assert files == set(FILES) - {"backup.npz"}
