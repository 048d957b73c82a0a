"""A table beside the data: patients, classes and folds."""

from pathlib import Path

import pytest
from folders import read, write_classes

from dataset import DataError
from segmentation.importing.data_table import match_rows, parse_table


def rows(folder: Path, text: str, *names: str, encoding: str = "utf-8") -> dict:
    """What a table says of images of these names, by name."""
    (folder / "meta.csv").write_text(text, encoding=encoding)
    found = match_rows(parse_table(folder / "meta.csv"), [folder / f"{name}.png" for name in names])
    return {path.stem: row for path, row in found.items()}


@pytest.mark.parametrize(
    "text",
    [
        "image,patient,class,fold5\na,1,malignant,3\nb,1,benign,5\n",
        "ID;Case;Pathology;kFold\na.png;1;Malignant;3\nb.png;1;B;5\n",  # as some spreadsheets save it
        "\ufeffImage_filename\tCaseID\tClassification\tfold\na.png\t1\tmalignant\t3\nb.png\t1\tbenign\t5\n",
    ],
)
def test_patient_class_and_fold_are_read_whatever_the_columns_are_called(text, tmp_path):
    found = rows(tmp_path, text, "a", "b")
    a, b = found["a"], found["b"]
    assert (a.patient, a.label, a.fold) == ("1", "malignant", "3")
    assert (b.patient, b.label, b.fold) == ("1", "benign", "5")


def test_a_table_of_patients_alone_leaves_the_rest(tmp_path):
    assert rows(tmp_path, "file,patient\na.png,P 1\n", "a", "b") == {"a": ("P 1", "", "", "", "")}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("picture,patient\na,1\n", ("no column image", "picture, patient")),
        ("", ("no column image",)),
        ("image,class\na,cancer\n", ("line 2", "'cancer'", "benign, malignant, normal")),
        ("image,patient\na,1\nA.png,2\n", ("line 3", "A.png", "twice")),
    ],
)
def test_what_cannot_be_right_is_refused_by_name(text, words, tmp_path):
    with pytest.raises(DataError, match="meta.csv") as refused:
        rows(tmp_path, text, "a")
    assert all(word in str(refused.value) for word in words), refused.value


def test_a_class_that_contradicts_the_folder_is_refused(tmp_path):
    write_classes(tmp_path)
    (tmp_path / "meta.csv").write_text("image,class\nbenign (1),benign\nmalignant (2),benign\n")
    with pytest.raises(DataError, match=r"malignant \(2\).png: is benign and malignant by its folder, .* and table"):
        read(tmp_path)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "meta.csv").write_bytes(b"image\n\xff\xfe\n")
    with pytest.raises(DataError, match="meta.csv: cannot be read"):
        parse_table(tmp_path / "meta.csv")
