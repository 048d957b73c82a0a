"""Splits, computed and from a file: which image is in which part, and that a group is in one part alone."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import busi_pairs

from dataset import DataError, Sample
from segmentation.data import splits
from segmentation.data.near_copies import group_pairs
from segmentation.data.splits import COMPUTED, Division, count_folds, near_copies_in_training, split_samples

FOLDS = {name: folds for name, folds in COMPUTED.items() if folds}  # those that need no table and no folders
BUSI_NAMES = Path(__file__).parents[2] / "data" / "splits" / "busi_grouped_cv.csv"


@pytest.fixture(autouse=True, scope="module")
def drawn():
    """The twenty folds that every computed split is made of are drawn once for each seed, which saves seconds."""
    kept, draw = {}, splits._twentieths

    def draw_once(samples, groups, seed, strata):
        key = (groups.tobytes(), seed, tuple(strata))
        if key not in kept:
            kept[key] = draw(samples, groups, seed, strata)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "_twentieths", draw_once)
        yield kept


def make_samples(folder="", **counts):
    files = [(f"{folder}{label} ({i})", label) for label, count in counts.items() for i in range(1, count + 1)]
    return [Sample(name, label, Path("x"), (), folder=folder) for name, label in files]


@pytest.fixture(scope="module")
def many():
    """84 images, of which every third is tied to the next."""
    samples = make_samples(benign=42, malignant=24, normal=18)
    return samples, np.array([i - (i % 3 == 1) for i in range(len(samples))])


@pytest.fixture(scope="module")
def busi():
    """BUSI's names, classes and near-copies, which need none of its pictures."""
    names = [line.partition(",")[0] for line in BUSI_NAMES.read_text().splitlines()[1:]]
    samples = [Sample(name, name.partition(" ")[0], Path("x"), ()) for name in names]
    return samples, group_pairs(len(samples), busi_pairs(samples))


# ---------------------------------------------------------------- computed


@pytest.mark.parametrize(("split", "fold"), [(split, fold) for split, folds in FOLDS.items() for fold in range(folds)])
def test_no_image_is_in_two_parts_and_no_group_either(split, fold, many):
    samples, groups = many
    parts = split_samples(samples, groups, Division(split=split, fold=fold, seed=1))
    indices = [i for members in parts.values() for i in members]
    assert len(indices) == len(set(indices)) and all(parts.values())
    in_parts = [set(groups[members].tolist()) for members in parts.values()]
    shared = in_parts[0] & in_parts[1] | in_parts[1] & in_parts[2] | in_parts[0] & in_parts[2]
    leaks = near_copies_in_training(parts, groups)
    assert len(leaks) > 2 and shared if "random" in split else not leaks and not shared


def test_shares_and_classes_are_even(busi):
    samples, groups = busi
    parts = split_samples(samples, groups, Division())
    for part, share in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
        assert len(parts[part]) / 780 == pytest.approx(share, abs=0.01)
        labels = Counter(samples[i].label for i in parts[part])
        assert labels["malignant"] / len(parts[part]) == pytest.approx(210 / 780, abs=0.03)


@pytest.mark.parametrize("split", ["grouped-cv", "random-cv"])
def test_folds_test_every_image_once_and_train_on_as_many(split, many):
    folds = [split_samples(*many, Division(split=split, fold=fold)) for fold in range(5)]
    assert sorted(i for parts in folds for i in parts["test"]) == list(range(84))
    assert all(len(parts["train"]) == pytest.approx(59, abs=4) for parts in folds)


def test_tuning_never_shows_a_test_image(many):
    test = set(split_samples(*many, Division())["test"])
    stand_ins = []
    for fold in range(3):
        parts = split_samples(*many, Division(split="tuning", fold=fold, choose_on="nothing"))
        assert sorted(parts["train"] + parts["test"]) == sorted(set(range(84)) - test)
        assert len(parts["train"]) / len(parts["test"]) == pytest.approx(2, abs=1)
        stand_ins += parts["test"]
    assert sorted(stand_ins) == sorted(set(range(84)) - test)


@pytest.mark.parametrize(
    ("normals", "where"), [("both", "train val test"), ("train", "train val"), ("test", "test"), ("none", "")]
)
def test_normal_images_are_in_the_parts_that_may_hold_them(normals, where, many, busi):
    for (samples, groups), split in ((many, "grouped"), (busi, "busi_grouped_cv")):
        parts = split_samples(samples, groups, Division(split=split, normals=normals))
        held = [part for part, members in parts.items() if any(samples[i].label == "normal" for i in members)]
        assert " ".join(held) == where


@pytest.mark.parametrize("choose_on", ["nothing", "test"])
def test_validation_images_are_trained_on_if_nothing_is_chosen_on_them(choose_on, many):
    usual = split_samples(*many, Division())
    parts = split_samples(*many, Division(choose_on=choose_on))
    assert parts == {"train": sorted(usual["train"] + usual["val"]), "val": [], "test": usual["test"]}


def test_a_seed_is_all_the_chance_there_is(many, drawn):
    first = split_samples(*many, Division(seed=4))
    drawn.clear()
    assert split_samples(*many, Division(seed=4)) == first != split_samples(*many, Division(seed=5))


def test_the_folds_of_a_table_are_tested_in_the_order_of_their_numbers():
    samples = [s._replace(fold=str((2, 9, 10, 11)[i % 4])) for i, s in enumerate(make_samples(lesion=40))]
    for fold, (test, val) in enumerate((("2", "9"), ("9", "10"), ("10", "11"), ("11", "2"))):
        parts = split_samples(samples, np.arange(40), Division(split="given", fold=fold))
        assert [{samples[i].fold for i in parts[p]} for p in ("test", "val")] == [{test}, {val}]
        assert len(parts["train"]) == 20


def test_given_parts_are_used_by_their_names_and_validation_is_taken_from_training_where_there_is_none(capsys):
    samples = make_samples(benign=60, normal=20)
    names = ["test" if i % 5 == 0 else "val" if i % 5 == 1 else "train" for i in range(80)]
    given = [s._replace(split=name) for s, name in zip(samples, names, strict=True)]
    parts = split_samples(given, np.arange(80) // 2, Division(split="given"))
    assert {part: {names[i] for i in members} for part, members in parts.items()} == {p: {p} for p in parts}
    without = [s._replace(split="train" if s.split == "val" else s.split) for s in given]
    parts = split_samples(without, np.arange(80), Division(split="given"))
    assert {names[i] for i in parts["test"]} == {"test"} and len(parts["val"]) == pytest.approx(0.15 * 64, abs=2)
    assert "15 % of the training images" in capsys.readouterr().out
    with pytest.raises(DataError, match="calls a part 'holdout', which is none"):
        split_samples([s._replace(split="holdout") for s in given], np.arange(80), Division(split="given"))


def test_parts_that_are_there_and_not_used_are_said(capsys):
    split_samples([s._replace(split="train") for s in make_samples(**FEW)], np.arange(30), Division())
    assert "note: the data have parts of their own" in capsys.readouterr().out


def test_by_hospital_tests_one_folder_and_trains_on_the_others():
    samples = [s for city in ("rio", "cairo", "lima") for s in make_samples(city, benign=40, malignant=20)]
    groups = np.arange(180) // 2
    for fold, city in enumerate(("cairo", "lima", "rio")):
        parts = split_samples(samples, groups, Division(split="by-hospital", fold=fold))
        assert [samples[i].name for i in parts["test"]] == [s.name for s in samples if s.folder == city]
        for other in {"rio", "cairo", "lima"} - {city}:
            counts = [sum(samples[i].folder == other for i in parts[part]) for part in ("train", "val")]
            assert counts == pytest.approx([51, 9], abs=3)
        assert near_copies_in_training(parts, groups) == []
    samples[7] = samples[7]._replace(folder="")
    with pytest.raises(DataError, match="by-hospital: 1 images have no hospital in meta.csv"):
        split_samples(samples, groups, Division(split="by-hospital"))


def test_near_copies_in_training_are_those_of_test_images():
    parts = {"train": [0, 1], "val": [2], "test": [3, 4, 5]}
    assert near_copies_in_training(parts, np.array([7, 8, 9, 7, 9, 5])) == [3, 4]


FEW = {"benign": 15, "malignant": 15}


@pytest.mark.parametrize(
    ("counts", "groups", "division", "message"),
    [
        ({"benign": 10, "malignant": 9, "normal": 90}, range(109), Division(), "19 images with a lesion are too few"),
        ({"benign": 60}, [i // 4 for i in range(60)], Division(), "60 images in 15 groups .* too few"),
        (FEW, range(30), Division(split="grouped-cv", fold=5), "grouped-cv has fold 0 to 4, not 5"),
        (FEW, range(30), Division(fold=1), "grouped has fold 0, not 1"),
        (FEW, range(30), Division(split="given"), "meta.csv has no entries in a column split or fold"),
        (FEW, range(30), Division(split="by-hospital"), "by-hospital tests one hospital .* three folders, or"),
    ],
)
def test_what_cannot_be_divided_is_refused(counts, groups, division, message):
    with pytest.raises(DataError, match=message):
        split_samples(make_samples(**counts), np.array(groups), division)


def test_15_benign_and_15_malignant_images_are_enough():
    parts = split_samples(make_samples(**FEW), np.arange(30), Division())
    assert sum(map(len, parts.values())) == 30 and min(map(len, parts.values())) >= 3


# ---------------------------------------------------------------- from a file


@pytest.fixture
def file(tmp_path):
    """A function that writes a split's file and divides six images, l1 to l6, by it."""

    def divide(text, **options):
        (tmp_path / "mine.csv").write_text(text, encoding="utf-8")
        samples = [Sample(f"l{i}", "lesion", Path("x"), ()) for i in range(1, 7)]
        parts = split_samples(samples, np.arange(6), Division(split=str(tmp_path / "mine.csv"), **options))
        return {part: [samples[i].name for i in members] for part, members in parts.items()}

    return divide


def test_a_file_names_the_part_of_each_image(file):
    parts = file("\ufeffpart,image\ntest,L3.png\ntrain,l1\n train ,l2\nval,l4.jpg\n")
    assert parts == {"train": ["l1", "l2"], "val": ["l4"], "test": ["l3"]}  # l5 and l6 are left out


def test_a_dot_in_a_name_belongs_to_it(tmp_path):
    (tmp_path / "mine.csv").write_text("image,part\np1.left,train\np2.left.png,val\np3.left,test\n")
    samples = [Sample(f"p{i}.{side}", "lesion", Path("x"), ()) for i in (1, 2, 3) for side in ("left", "right")]
    parts = split_samples(samples, np.arange(6), Division(split=str(tmp_path / "mine.csv")))
    assert parts == {"train": [0], "val": [2], "test": [4]}


def test_a_file_names_the_fold_of_each_image(file):
    text = "image,fold\nl1,1\nl2,1\nl3,2\nl4,2\nl5,10\n"
    assert file(text) == {"train": ["l5"], "val": ["l3", "l4"], "test": ["l1", "l2"]}
    assert file(text, fold=2) == {"train": ["l3", "l4"], "val": ["l1", "l2"], "test": ["l5"]}


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("image,part\nl1,train\nl8,val\nl7,test\n", {}, "2 of the 3 images .* are not here, 'l7' first"),
        ("image,part\nl1,train\nl2,val\nL1.png,test\n", {}, "mine.csv, line 4: L1.png .* twice"),
        ("image,part\nl1,train\nl2,valid\n", {}, "mine.csv, line 3: part 'valid' .* train, val, test"),
        ("name,part\nl1,train\n", {}, "mine.csv: .* columns image, and part or fold"),
        ("image,set\nl1,train\n", {}, "mine.csv: .* columns image, and part or fold"),
        ("", {}, "mine.csv: .* columns image, and part or fold"),
        ("image,part\nl1,train\nl2,val\n", {}, "no lesion image is left for test. Use more images.$"),
        ("image,part\nl1,train\nl3,test\n", {}, "left for val. Use more images, or --choose-on nothing"),
        ("image,part\nl1,train\nl2,val\nl3,test\n", {"fold": 1}, "has fold 0, not 1"),
        ("image,fold\nl1,1\nl2,2\n", {}, "needs three folds; there are 2"),
        ("image,fold\nl1,1\nl2,2\nl3,3\n", {"fold": 3}, "has fold 0 to 2, not 3"),
    ],
)
def test_a_file_that_cannot_be_right_is_refused(text, options, message, file):
    with pytest.raises(DataError, match=message):
        file(text, **options)


def test_a_file_that_is_no_text_is_refused(file, tmp_path):
    (tmp_path / "odd.csv").write_bytes(b"image,part\n\xff\xfe\n")
    with pytest.raises(DataError, match="odd.csv: cannot be read"):
        count_folds(str(tmp_path / "odd.csv"))


@pytest.mark.parametrize("split", ["groupd", "nowhere.csv"])
def test_an_unknown_split_is_refused_with_those_there_are(split):
    with pytest.raises(DataError, match=rf"{split}: no such split; .*grouped, grouped-cv, .*by-hospital, .*p1-1, p1-2"):
        count_folds(split)


def test_the_number_of_folds_of_a_split():
    splits = ("grouped", "grouped-cv", "given", "by-hospital", "busi_grouped_cv", "p1-1")
    assert [count_folds(split) for split in splits] == [1, 5, None, None, 5, 1]


# ---------------------------------------------------------------- the published splits of BUSI


def test_no_near_copy_of_busi_is_in_two_parts(busi):
    samples, groups = busi
    for split in ("grouped", "busi_grouped_cv", "curated-0"):
        assert near_copies_in_training(split_samples(samples, groups, Division(split=split)), groups) == []


@pytest.mark.parametrize("fold", range(5))
def test_the_file_of_five_folds_is_what_is_computed(fold, busi):
    written, computed = (split_samples(*busi, Division(split=s, fold=fold)) for s in ("busi_grouped_cv", "grouped-cv"))
    assert written["test"] == computed["test"]
    assert set(computed["val"]) <= set(written["val"])  # the file has no halves of folds


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_public_lists_divide_the_lesions_and_leak_into_their_test_images(number, busi):
    samples, groups = busi
    parts = split_samples(samples, groups, Division(split=f"p1-{number}", normals="none"))
    assert len(parts["train"] + parts["val"]) == 452 and len(parts["test"]) == 195
    assert {samples[i].label for members in parts.values() for i in members} == {"benign", "malignant"}
    assert not set(groups[parts["train"]]) & set(groups[parts["val"]])
    assert 40 <= len(near_copies_in_training(parts, groups)) <= 70


def test_the_curated_images_are_each_tested_once(busi):
    tested = [i for fold in range(4) for i in split_samples(*busi, Division(split=f"curated-{fold}"))["test"]]
    assert len(tested) == len(set(tested)) == 450
