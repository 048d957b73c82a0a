import json
from collections import Counter
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest
from conftest import BUSI, busi_pairs, needs_busi

from dataset import DataError, Sample, find_samples, read_samples
from segmentation.common.errors import RunError
from segmentation.common.files import file_hash
from segmentation.data import splits
from segmentation.data.near_copies import group_pairs, near_copies
from segmentation.runs.run_folder import begin

PUBLIC = ("p1-1", "p1-2", "p1-3", "curated")


def make_samples(counts):
    return [Sample(f"{label} ({i})", label, Path("x"), ()) for label, n in counts.items() for i in range(1, n + 1)]


@pytest.fixture(scope="module")
def busi_like():
    """BUSI's names with made-up groups: every third image is tied to the next."""
    samples = make_samples({"benign": 437, "malignant": 210, "normal": 133})
    return samples, np.array([i - (i % 3 == 1) for i in range(len(samples))])


@pytest.fixture(scope="module")
def phantom_groups(phantom_data):
    samples = find_samples(phantom_data)
    pairs = near_copies([image for image, _ in read_samples(samples)])
    return samples, group_pairs(len(samples), pairs)


@pytest.fixture(autouse=True, scope="module")
def drawn():
    """The twenty folds that every split is made of are drawn once for each seed, which takes a quarter of a second."""
    kept, draw = {}, splits._folds

    def folds(samples, groups, seed):
        key = (tuple(s.label for s in samples), groups.tobytes(), seed)
        if key not in kept:
            kept[key] = draw(samples, groups, seed)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "_folds", folds)
        yield kept


def test_phantoms_hold_planted_copies(phantom_groups):
    _, groups = phantom_groups
    assert max(Counter(groups.tolist()).values()) > 1


# ---------------------------------------------------------------- splits


@pytest.mark.parametrize("split", sorted(set(get_args(splits.Split)) - {"table"}))  # that one: test_collection.py
@pytest.mark.parametrize("seed", [0, 1])
def test_no_group_in_two_parts(busi_like, split, seed):
    samples, groups = busi_like
    for fold in range(splits.FOLDS.get(split, 1)):
        parts = splits.split_samples(samples, groups, split, fold, seed)
        indices = [i for members in parts.values() for i in members]
        assert len(indices) == len(set(indices))
        group_sets = {part: set(groups[members].tolist()) for part, members in parts.items()}
        if split in ("all-random", "random-cv"):
            assert len(splits.near_copies_in_training(parts, groups)) > 10  # it leaks, as it says
            continue
        assert not group_sets["train"] & group_sets["val"]
        if not split.startswith("p1"):
            assert not group_sets["test"] & (group_sets["train"] | group_sets["val"])
            assert splits.near_copies_in_training(parts, groups) == []


def test_grouped_shares_and_classes(busi_like):
    samples, groups = busi_like
    parts = splits.split_samples(samples, groups)
    for part, share in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
        assert len(parts[part]) / 780 == pytest.approx(share, abs=0.01)
        labels = Counter(samples[i].label for i in parts[part])
        assert labels["malignant"] / len(parts[part]) == pytest.approx(210 / 780, abs=0.03)


@pytest.mark.parametrize("split", ["grouped-cv", "random-cv"])
def test_folds_cover_every_image_once(busi_like, split):
    samples, groups = busi_like
    folds = [splits.split_samples(samples, groups, split, fold) for fold in range(5)]
    assert sorted(i for parts in folds for i in parts["test"]) == list(range(780))
    for parts in folds:  # as many to train on in both, so that they can be compared
        assert len(parts["train"]) == pytest.approx(546, abs=12)


def test_tuning_never_shows_a_test_image(busi_like):
    samples, groups = busi_like
    test = set(splits.split_samples(samples, groups)["test"])
    stand_ins = []
    for fold in range(3):
        parts = splits.split_samples(samples, groups, "tuning", fold, choose_on="nothing")
        assert sorted(parts["train"] + parts["test"]) == sorted(set(range(780)) - test)
        assert len(parts["train"]) / len(parts["test"]) == pytest.approx(2, abs=0.5)
        stand_ins += parts["test"]
    assert sorted(stand_ins) == sorted(set(range(780)) - test)


def test_public_lists(busi_like):
    samples, groups = busi_like
    lesions = {s.name for s in samples if s.label != "normal"}
    for number in (1, 2, 3):
        parts = splits.split_samples(samples, groups, f"p1-{number}", normals="none")
        names = {part: {samples[i].name for i in members} for part, members in parts.items()}
        assert names["test"] == splits._names(f"busi_val{number}.txt") and len(names["test"]) == 195
        assert names["train"] | names["val"] | names["test"] == lesions
    keep = [i for fold in range(4) for i in splits.split_samples(samples, groups, "curated", fold)["test"]]
    assert len(keep) == len(set(keep)) == 450


@pytest.mark.parametrize(("normals", "where"), [
    ("both", {"train", "val", "test"}), ("train", {"train", "val"}), ("test", {"test"}), ("none", set()),
])  # fmt: skip
@pytest.mark.parametrize("split", ["grouped", "p1-2"])
def test_normals(busi_like, split, normals, where):
    samples, groups = busi_like
    parts = splits.split_samples(samples, groups, split, normals=normals)
    assert {p for p, members in parts.items() if any(samples[i].label == "normal" for i in members)} == where


@pytest.mark.parametrize("choose_on", ["nothing", "test"])
def test_validation_images_are_trained_on_if_nothing_is_chosen_on_them(busi_like, choose_on):
    samples, groups = busi_like
    usual = splits.split_samples(samples, groups)
    parts = splits.split_samples(samples, groups, choose_on=choose_on)
    assert parts == {"train": sorted(usual["train"] + usual["val"]), "val": [], "test": usual["test"]}


def test_same_seed_same_split(busi_like, drawn):
    first = splits.split_samples(*busi_like, seed=4)
    drawn.clear()
    assert splits.split_samples(*busi_like, seed=4) == first != splits.split_samples(*busi_like, seed=5)


def test_bad_requests(busi_like):
    samples, groups = busi_like
    with pytest.raises(DataError, match="fold 0 to 4, not 5"):
        splits.split_samples(samples, groups, "grouped-cv", fold=5)
    with pytest.raises(DataError, match="needs the published BUSI"):
        splits.split_samples(samples[:300], groups[:300], "p1-1")
    with pytest.raises(DataError, match="too few"):
        splits.split_samples(samples[:5], groups[:5])


# ---------------------------------------------------------------- split.json


def write_split(run, samples, groups, parts):
    """A run that has split.json, and the config.json without which it is none."""
    network = {"input_shape": [32, 32, 1], "base_filters": 2, "depth": 2, "gates": "paper", "encoder": "none"}
    begin(run, {"network": network}, splits.split_record(samples, groups, parts, split="grouped"))


def test_split_file_round_trip(phantom_groups, tmp_path):
    samples, groups = phantom_groups
    parts = splits.split_samples(samples, groups)
    write_split(tmp_path, samples, groups, parts)
    loaded, group_of = splits.load_split(tmp_path, samples)
    assert {part: set(members) for part, members in loaded.items()} == {p: set(m) for p, m in parts.items()}
    assert all(group_of[s.name] == groups[i] for i, s in enumerate(samples))


def test_a_near_copy_of_what_was_seen_is_refused(phantom_groups, tmp_path):
    samples, groups = phantom_groups
    a, b = next((i, j) for i in range(len(groups)) for j in range(i) if groups[i] == groups[j])
    stranger = int(np.flatnonzero(groups != groups[a])[0])
    write_split(tmp_path, samples, groups, {"train": [a], "val": [], "test": [stranger]})
    with pytest.raises(DataError, match="1 of the 2 test images"):
        splits.seen_before(tmp_path, samples, groups, [stranger, b])
    assert splits.seen_before(tmp_path, samples, groups, [stranger]) == [file_hash(samples[a].image)]


def test_split_of_other_data_is_refused(phantom_groups, broken_data, tmp_path):
    samples, groups = phantom_groups
    write_split(tmp_path, samples, groups, splits.split_samples(samples, groups))
    changed = broken_data / "benign" / "benign (3)_mask.png"
    cv2.imwrite(str(changed), 255 - cv2.imread(str(changed)))
    (broken_data / "normal" / "normal (1).png").unlink()
    with pytest.raises(DataError, match="1 images are missing and 1 changed, 'normal .1.' first"):
        splits.load_split(tmp_path, find_samples(broken_data))


HASH = "0123456789abcdef"
NO_TEST = {"images": {"a": {"part": "train", "group": 0, "sha256": HASH, "image_sha256": HASH}}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot be read as JSON"),
        ("[]", "holds no JSON object"),
        ('{"images": {"a": 3}}', '"images.a" must be a valid dictionary'),
        ('{"images": {"a": {"part": "train"}}}', '"images.a.group" is missing'),
        (json.dumps(NO_TEST), "has no image in the part 'test'"),
    ],
)
def test_damaged_split_file(tmp_path, text, words):
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(RunError, match=f"split.json: .*{words}"):
        splits.load_split(tmp_path, [])


@needs_busi
def test_real_busi_groups_never_straddle():
    samples = find_samples(BUSI)
    pairs = busi_pairs(samples)
    groups = group_pairs(len(samples), pairs)
    tied = {frozenset((samples[p.a].name, samples[p.b].name)) for p in pairs}
    assert {"benign (433)", "malignant (145)"} in tied and {"benign (437)", "normal (34)"} in tied
    assert len(pairs) >= 160
    for split in ("grouped", "grouped-cv", "curated"):
        parts = splits.split_samples(samples, groups, split)
        part_of = {i: part for part, members in parts.items() for i in members}
        assert not [p for p in pairs if p.a in part_of and p.b in part_of and part_of[p.a] != part_of[p.b]]
    for number in (1, 2, 3):
        parts = splits.split_samples(samples, groups, f"p1-{number}", normals="none")
        assert not set(groups[parts["train"]]) & set(groups[parts["val"]])
        assert 40 <= len(splits.near_copies_in_training(parts, groups)) <= 70
