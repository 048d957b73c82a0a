"""A table beside the data: patients, classes and folds."""

from pathlib import Path

import pytest

from dataset import DataError, Sample
from segmentation.importing.data_table import add_table, find_table


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
def test_patient_class_and_fold_are_read_whatever_the_columns_are_called(text, tmp_path):
    write(tmp_path, text)
    a, b = add_table(samples("a", "b"), tmp_path)
    assert (a.patient, a.label, a.fold) == ("1", "malignant", "3")
    assert (b.patient, b.label, b.fold) == ("1", "benign", "5")


def test_a_table_of_patients_alone_leaves_the_rest(tmp_path):
    write(tmp_path, "file,patient\na.png,P 1\n", "META.CSV")
    (a,) = add_table(samples("a", label="benign"), tmp_path)
    assert (a.patient, a.label, a.fold) == ("P 1", "benign", "")


def test_images_missing_from_it_are_named_in_a_note(tmp_path, capsys):
    write(tmp_path, "image,patient\na,1\n")
    assert [s.patient for s in add_table(samples("a", "b", "c"), tmp_path)] == ["1", "", ""]
    line = capsys.readouterr().out
    assert line.startswith("note: 2 images") and "meta.csv" in line and line.endswith("b, c\n")


@pytest.mark.parametrize(
    ("text", "label", "words"),
    [
        ("image,patient\na,1\nzz,2\n", "lesion", ("1 images", "zz")),
        ("picture,patient\na,1\n", "lesion", ("no column image", "picture, patient")),
        ("", "lesion", ("no column image",)),
        ("image,class\na,cancer\n", "lesion", ("line 2", "'cancer'", "benign, malignant, normal")),
        ("image,patient\na,1\nA.png,2\n", "lesion", ("line 3", "A.png", "twice")),
        ("image,class\na,normal\n", "lesion", ("a is normal here", "holds a lesion")),
        ("image,class\na,malignant\n", "benign", ("a is malignant here, and benign",)),
        ("image,class\na,benign\n", "normal", ("a is benign here, and normal",)),
        ("image,class\na,normal\n", "malignant", ("a is normal here, and malignant",)),
    ],
)
def test_what_cannot_be_right_is_refused_by_name(text, label, words, tmp_path):
    write(tmp_path, text)
    with pytest.raises(DataError, match="meta.csv") as refused:
        add_table(samples("a", label=label), tmp_path)
    assert all(word in str(refused.value) for word in words), refused.value


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "meta.csv").write_bytes(b"image\n\xff\xfe\n")
    with pytest.raises(DataError, match="meta.csv: cannot be read"):
        add_table(samples("a"), tmp_path)


def test_the_table_may_lie_one_folder_below_and_there_is_one(tmp_path):
    assert find_table(tmp_path) is None and add_table(samples("a"), tmp_path) == samples("a")
    (tmp_path / "BUSBRA").mkdir()
    path = write(tmp_path / "BUSBRA", "image\na\n")
    assert find_table(tmp_path) == path
    write(tmp_path / "BUSBRA", "image\na\n", "bus_data.csv")
    with pytest.raises(DataError, match="two tables"):
        find_table(tmp_path)
