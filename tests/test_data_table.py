"""A table beside the data: patients, classes and folds."""

from pathlib import Path

import pytest

from dataset import DataError, Sample
from segmentation.importing.data_table import add_table, find_table, read_table


def samples(*names: str, label: str = "lesion") -> list[Sample]:
    return [Sample(name, label, Path(f"{name}.png"), (Path("m.png"),)) for name in names]


def write(folder: Path, text: str, name: str = "meta.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


@pytest.mark.parametrize(
    "text",
    [
        "image,patient,class,fold5\na,1,malignant,3\nb,1,benign,5\n",
        "ID;Case;Pathology;kFold\na.png;1;Malignant;3\nb.png;1;B;5\n",  # as some spreadsheets save it
        "\ufeffImage_filename\tCaseID\tClassification\tfold\na.png\t1\tmalignant\t3\nb.png\t1\tbenign\t5\n",
    ],
)
def test_patient_class_and_fold_are_read_whatever_the_columns_are_called(tmp_path, text):
    write(tmp_path, text)
    a, b = add_table(samples("a", "b"), tmp_path)
    assert (a.patient, a.label, a.fold) == ("1", "malignant", "3")
    assert (b.patient, b.label, b.fold) == ("1", "benign", "5")


def test_a_table_of_patients_alone_leaves_the_rest(tmp_path):
    write(tmp_path, "file,patient\na.png,P 1\n", "META.CSV")
    (a,) = add_table(samples("a", label="benign"), tmp_path)
    assert (a.patient, a.label, a.fold) == ("P 1", "benign", "")


def test_without_a_table_nothing_changes(tmp_path):
    assert find_table(tmp_path) is None
    assert add_table(samples("a"), tmp_path) == samples("a")


def test_images_missing_from_it_are_named_in_a_note(tmp_path, capsys):
    write(tmp_path, "image,patient\na,1\n")
    assert [s.patient for s in add_table(samples("a", "b", "c"), tmp_path)] == ["1", "", ""]
    assert "2 images are not in meta.csv: b, c" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,patient\na,1\nzz,2\n", "names 1 images that are not here: zz"),
        ("picture,patient\na,1\n", "has no column image"),
        ("image,class\na,cancer\n", "line 2: class 'cancer' is none of"),
        ("image,patient\na,1\nA.png,2\n", "line 3: A.png stands here twice"),
        ("image,class\na,normal\n", "its mask holds a lesion"),
        ("", "has no column image"),
    ],
)
def test_what_cannot_be_right_is_refused_by_name(tmp_path, text, words):
    write(tmp_path, text)
    with pytest.raises(DataError, match="meta.csv") as refused:
        add_table(samples("a"), tmp_path)
    assert words in str(refused.value)


@pytest.mark.parametrize(("folder", "row"), [("benign", "malignant"), ("normal", "benign"), ("malignant", "normal")])
def test_a_class_that_contradicts_the_folder_is_refused(tmp_path, folder, row):
    write(tmp_path, f"image,class\na,{row}\n")
    with pytest.raises(DataError, match=f"a is {row} here"):
        add_table(samples("a", label=folder), tmp_path)


def test_two_tables_are_refused(tmp_path):
    write(tmp_path, "image\na\n"), write(tmp_path, "image\na\n", "bus_data.csv")
    with pytest.raises(DataError, match="two tables"):
        find_table(tmp_path)


def test_a_table_one_folder_below_is_found(tmp_path):
    (tmp_path / "BUSBRA").mkdir()
    assert find_table(tmp_path) is None
    path = write(tmp_path / "BUSBRA", "image\na\n")
    assert find_table(tmp_path) == path and read_table(path)["a"] == ("", "", "")
