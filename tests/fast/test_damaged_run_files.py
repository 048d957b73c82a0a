"""Files of a run from a stranger, damaged at random: each is read, or refused in one line that names it."""

import json
import shutil

import pytest
from conftest import REPOSITORY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataset import DataError, Sample
from segmentation.common.errors import RunError
from segmentation.runs.schemas import read_config, read_history, read_metrics
from segmentation.runs.split_record import hashes_seen, load_split
from segmentation.scoring.decision import load_decision
from segmentation.scoring.score_table import read_scores, write_scores
from segmentation.scoring.scores import result_line, summarise

SHIPPED = REPOSITORY / "models" / "attention_unet_hospitals"
FEW = settings(max_examples=50, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
ODD = [None, True, -1, 10**400, 1e308, 1e-320, float("nan"), float("inf"), "", "\ud800", "a" * 5000, [[]], {}, [None]]
VALUES = st.sampled_from(ODD) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=3),
    max_leaves=5,
)
CELLS = st.sampled_from(["nan", "1e400", "9" * 5000, "-1", "", " ", '"', "\0", "=1+1", "\u0663", "1_0", "\ud800"])


def places(value, path=()):
    """Every place in a JSON value, as the keys that lead there; of a long list or object, only the first three."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for _, (key, item) in zip(range(3 if len(value) > 40 else 40), inside, strict=False) if inside else ():
        yield from places(item, (*path, key))


@st.composite
def damaged_json(draw, text: str) -> str:
    """One value is replaced, removed or renamed."""
    content = json.loads(text)
    *before, last = draw(st.sampled_from(list(places(content))[1:]))
    parent = content
    for key in before:
        parent = parent[key]
    what = draw(st.integers(0, 3))
    if what == 0:
        del parent[last]
    elif what == 1 and isinstance(parent, dict):
        parent[draw(st.text(max_size=3))] = parent.pop(last)
    else:
        parent[last] = draw(VALUES)
    return json.dumps(content)


@st.composite
def damaged_table(draw, text: str) -> str:
    """One cell is replaced, added or removed, or a row removed or doubled."""
    rows = [line.split(",") for line in text.splitlines()]
    row = draw(st.sampled_from(rows))
    column, what = draw(st.integers(0, len(row) - 1)), draw(st.integers(0, 4))
    if what == 0:
        del row[column]
    elif what == 1:
        row.insert(column, draw(CELLS))
    elif what == 2:
        rows.remove(row)
    elif what == 3:
        rows.append(row)
    else:
        row[column] = draw(CELLS)
    return "\n".join(map(",".join, rows)) + "\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The repository's run without its network, with few images, and a table of its scores."""
    run = tmp_path_factory.mktemp("run")
    for name in ("config.json", "split.json", "metrics.json", "decision.json", "history.csv"):
        shutil.copy(SHIPPED / name, run)
    for name in ("split.json", "metrics.json"):
        content = json.loads((run / name).read_text())
        images = content["images"]
        one_of_each = {row["part"]: (name, row) for name, row in images.items()} if name == "split.json" else {}
        content["images"] = dict(one_of_each.values()) or images[:8]
        (run / name).write_text(json.dumps(content))
    config = json.loads((run / "config.json").read_text())
    del config["split_sha256"]
    (run / "config.json").write_text(json.dumps(config))
    write_scores(run / "scores.csv", json.loads((run / "metrics.json").read_text())["images"])
    return run


def use_split(run) -> None:
    """Read the split, and ask it for a picture that it does not hold."""
    hashes_seen(run)
    with pytest.raises(DataError, match="images are missing"):
        load_split(run, [Sample("another", "benign", run / "scores.csv", ())], [])


def use_metrics(run) -> None:
    metrics = read_metrics(run / "metrics.json")
    result_line(metrics["data"], summarise(metrics["images"]), metrics["near_copies_in_training"])


# What the scripts read of each file, and what they compute of it.
USES = {
    "config.json": lambda run: (read_config(run), use_split(run)),
    "split.json": use_split,
    "metrics.json": use_metrics,
    "decision.json": lambda run: load_decision(run / "decision.json"),
    "history.csv": lambda run: read_history(run / "history.csv"),
    "scores.csv": lambda run: summarise(read_scores(run / "scores.csv")),
}


@pytest.mark.parametrize("name", USES)
def test_a_damaged_file_is_read_or_refused_in_one_line(run, name):
    path = run / name
    whole = path.read_text()
    USES[name](run)
    count = {"read": 0, "refused": 0}

    @FEW
    @given(st.data())
    def try_to_use(data):
        damage = damaged_table if name.endswith(".csv") else damaged_json
        cut_off = st.integers(0, len(whole) - 1).map(lambda length: whole[:length])
        path.write_text(data.draw(damage(whole) | cut_off), encoding="utf-8", errors="surrogatepass")
        try:
            USES[name](run)
            count["read"] += 1
        except RunError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000 and str(run) in str(error)
            count["refused"] += 1

    try:
        try_to_use()
    finally:
        path.write_text(whole)
    assert count["refused"] > 15 and count["read"] > 0
