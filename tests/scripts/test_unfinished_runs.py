"""A run's folder: which sets of files a stop can leave, and what the next training of the same name does with each."""

from dataclasses import asdict
from itertools import chain, combinations

import pytest
from pydantic import model_validator

from segmentation.common.checks import AnyPath, Folders, Whole, checked
from segmentation.common.errors import RunError
from segmentation.common.files import write_json
from segmentation.runs import run_folder
from segmentation.runs.finished import RUN_FILES
from segmentation.runs.run_folder import begin, goes_on, open_run, settings_of

SPLIT_ROW = {"group": 0, "sha256": "0" * 64, "image_sha256": "0" * 64}
SPLIT = {"images": {name: SPLIT_ROW | {"part": name} for name in ("train", "test")}}
NETWORK = {"input_shape": [32, 32, 1], "base_filters": 2, "depth": 1, "gates": "full", "encoder": "none"}


@checked
class Settings:
    epochs: Whole[1, 100] = 20
    seed: Whole[0, 100] = 0
    finish: bool = False
    resume: AnyPath | None = None
    data_dir: Folders = ()

    @model_validator(mode="after")
    def fit_together(self):
        """As train_model.py has it."""
        if self.finish and not self.resume:
            raise ValueError("--finish needs --resume")
        return self


FINISH = Settings(finish=True, resume="run")


def fill(run, names, epochs=2, settings=None):
    """A run's folder that holds these files, with a history of so many epochs."""
    run.mkdir(exist_ok=True)
    begin(run, {"network": NETWORK, "config": asdict(settings or Settings())}, SPLIT)
    rows = "".join(f"{epoch},0.1,1\n" for epoch in range(epochs))
    (run / "history.csv").write_text(f"epoch,learning_rate,loss\n{rows}")
    for name in RUN_FILES:
        (run / name).touch()
        if name not in names:
            (run / name).unlink()
    return run


def contents(run):
    return {path.name: path.read_bytes() for path in run.iterdir() if path.name != ".lock"}


ANEW, ON = False, True
STOPS = [  # how many of the files are there, the epochs in the history, and what the same command then does
    (0, 0, ANEW, ""),
    (1, 0, ANEW, "before its first epoch"),
    (2, 0, ANEW, "before its first epoch"),
    (3, 1, ANEW, "in its first epochs"),  # the first network or backup was not written any more
    (4, 1, ANEW, "in its first epochs"),
    (5, 2, ON, "going on with it"),
    (6, 2, ON, "going on with it"),  # all epochs are done, the scores are not
]


@pytest.mark.parametrize("stop", STOPS)
def test_what_a_stop_leaves_begins_anew_or_goes_on(tmp_path, capsys, stop):
    count, epochs, expected, said = stop
    run = fill(tmp_path / "run", RUN_FILES[:count], epochs)
    before = contents(run)
    assert goes_on(run, Settings()) is expected and said in capsys.readouterr().out
    other = Settings(seed=1)
    if count < 3:  # nothing of it is lost
        assert goes_on(run, other) is ANEW
    else:
        with pytest.raises(RunError, match=r"run: holds an unfinished run with another seed \(0\).*--resume"):
            goes_on(run, other)
    if epochs:
        assert goes_on(run, FINISH) is ON  # its best network is scored
    elif count:
        with pytest.raises(RunError, match="config.json|no finished epoch to score"):
            goes_on(run, FINISH)
    assert contents(run) == before


@pytest.mark.parametrize("epochs", [1, 2])
def test_every_other_set_of_files_is_refused_or_begins_anew(tmp_path, epochs):
    """A training never goes on without its five files, and a refusal names the run and changes nothing."""
    names, outcomes = RUN_FILES[:6], []
    for files in chain.from_iterable(combinations(names, n) for n in range(len(names) + 1)):
        run = fill(tmp_path / "run", files, epochs)
        before = contents(run)
        try:
            outcomes.append(goes_on(run, Settings()))
            assert outcomes[-1] is (set(RUN_FILES[:5]) <= set(files))
        except RunError as error:
            outcomes.append("refused")
            assert str(error).startswith(str(run)) and "\n" not in str(error)
        assert contents(run) == before
    # It begins anew where there is no file, without a history and anything after it, and with one epoch and no backup.
    assert outcomes.count(ON) == 2 and outcomes.count(ANEW) == 3 + (8 if epochs == 1 else 0)


def test_a_finished_run_is_kept_and_a_stopped_one_has_its_own_settings(tmp_path, capsys):
    finished = fill(tmp_path / "run", RUN_FILES)
    with open_run(Settings(), finished, None) as (run, config, goes):
        assert (run.name, config, goes) == ("run-2", Settings(), ANEW)
    with pytest.raises(RunError, match="this run is finished"), open_run(Settings(), tmp_path, finished):
        pass
    stopped = fill(tmp_path / "stopped", RUN_FILES[:5], settings=Settings(seed=7))
    (stopped / ".writing-0-best.keras").touch()  # left by a kill
    with open_run(FINISH, tmp_path, stopped) as (run, config, goes):
        assert (run, config, goes) == (stopped, Settings(seed=7, finish=True, resume=stopped), ON)
        with pytest.raises(RunError, match="another training"), open_run(Settings(), stopped, None):
            pass
    assert not list(stopped.glob(".writing*"))
    moved = Settings(data_dir=(tmp_path,))  # the settings stay the run's, and split.json knows its data by their hashes
    with open_run(moved, tmp_path, stopped) as (run, config, goes):
        assert (run, config, goes) == (stopped, Settings(seed=7, data_dir=(tmp_path,)), ON)
    begin(stopped, {"network": NETWORK, "config": asdict(Settings()), "data": "sample"}, SPLIT)
    with pytest.raises(RunError, match="begun on the sample"), open_run(moved, tmp_path, stopped):
        pass  # it is trained for fewer epochs, which data that are named would not be
    with pytest.raises(RunError, match=r"another data_dir \(\(\)\)"):  # and so if the command is repeated with them
        goes_on(stopped, moved)
    fill(stopped, RUN_FILES[:5])
    with pytest.raises(KeyboardInterrupt), open_run(Settings(), tmp_path, stopped):
        raise KeyboardInterrupt
    assert f"--resume {stopped} --finish" in capsys.readouterr().out
    with (
        pytest.raises(RunError, match=r"nowhere/config\.json: no such file"),
        open_run(Settings(), tmp_path, tmp_path / "nowhere"),
    ):
        pass


@pytest.mark.parametrize("name", RUN_FILES)
def test_a_folder_in_the_place_of_a_file_is_seen_at_once(tmp_path, name):
    (tmp_path / "run" / name).mkdir(parents=True)
    if name == "metrics.json":  # looks finished: the next number is taken
        (tmp_path / "run-2" / "best.keras").mkdir(parents=True)
        name = "best.keras"
    with pytest.raises(RunError, match=f"{name}: is a folder"), open_run(Settings(), tmp_path / "run", None):
        pass


def test_a_run_that_begins_leaves_nothing_of_an_earlier_one(tmp_path, monkeypatch):
    run = fill(tmp_path / "run", RUN_FILES[:4])
    begin(run, {"network": NETWORK, "config": asdict(Settings(seed=3))}, SPLIT)
    assert set(contents(run)) == {"config.json", "split.json"} and settings_of(run, Settings) == Settings(seed=3)
    write_json(run / "split.json", SPLIT | {"seed": 5})  # of another run
    for name in RUN_FILES[2:5]:
        (run / name).write_text("epoch,learning_rate,loss\n0,1,1\n")
    with pytest.raises(RunError, match="split.json: belongs to another config.json"):
        goes_on(run, Settings(seed=3))
    monkeypatch.setattr(run_folder, "MAX_BYTES", 1000)
    with pytest.raises(RunError, match="the scores of 2 images are too many"):
        begin(run, {"network": NETWORK}, SPLIT)
