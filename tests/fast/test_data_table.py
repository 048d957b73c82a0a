"""A table beside the data: patients, classes and folds."""

import json
import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from folders import read, write_classes, write_rows
from PIL import Image

from dataset import DataError
from import_data import ImportConfig, understand
from segmentation.data.splits import PARTS
from segmentation.importing.data_table import match_rows, parse_table
from segmentation.importing.understanding import Wishes, understand_source


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


@pytest.mark.parametrize("place", [".", "tables"])
@pytest.mark.parametrize("numbers", [(7, 8, 9), (2, 3, 1)])  # of the lines, which are no names, or other pictures'
def test_a_column_that_names_the_files_goes_before_numbers_of_lines(place, numbers, tmp_path):
    write_rows(tmp_path, [(str(k), "lesion", f"images/{k}.png", f"masks/{k}.png") for k in (1, 2, 3)])
    lines = [f"{number},images/{k}.png,P{k},benign" for k, number in zip((1, 2, 3), numbers, strict=True)]
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / "clinical.csv").write_text("\n".join(["id,file_path,patient_id,pathology", *lines]))
    cases = understand_source(tmp_path, Wishes()).cases
    assert {case.name: (case.patient, case.label) for case in cases} == {str(k): (f"P{k}", "benign") for k in (1, 2, 3)}


@pytest.mark.parametrize("number", [lambda k: 7 - k, lambda k: k % 5 + 1, lambda k: k])  # a rank, a category, a line
def test_a_column_called_id_goes_before_others_that_hold_numbers(number, tmp_path):
    write_rows(tmp_path, [(str(k), "lesion", f"images/{k}.png", f"masks/{k}.png") for k in range(1, 7)])
    lines = [f"{number(k)},{k},P{k}" for k in range(1, 9)]  # two of the pictures were left out
    (tmp_path / "clinical.csv").write_text("\n".join(["number,id,patient", *lines]))
    cases = understand_source(tmp_path, Wishes()).cases
    assert {case.name: case.patient for case in cases} == {str(k): f"P{k}" for k in range(1, 7)}


@pytest.mark.parametrize("first", [1, 4])  # do both hospitals number their pictures alike
def test_a_table_in_a_hospitals_own_folder_is_about_its_own_pictures(first, tmp_path):
    pictures = {"a": range(1, 4), "b": range(first, first + 3)}
    write_rows(tmp_path, [(f"{h}/{k}", "lesion", f"{h}/images/{k}.png", f"{h}/masks/{k}.png")
                          for h, numbers in pictures.items() for k in numbers])  # fmt: skip
    for h in pictures:
        (tmp_path / h / "tables").mkdir()
        lines = ["image,patient", *(f"{k},{h}{k}" for k in range(1, 7))]
        (tmp_path / h / "tables" / "info.csv").write_text("\n".join(lines))
    cases = understand_source(tmp_path, Wishes()).cases
    found = {(case.image.relative_to(tmp_path).parts[0], case.image.stem): case.patient for case in cases}
    assert found == {(h, str(k)): f"{h}{k}" for h, numbers in pictures.items() for k in numbers}


def test_pairs_are_found_through_a_linked_folder(tmp_path):
    write_rows(tmp_path / "real", [(str(k), "lesion", f"images/{k}.png", f"masks/{k}.png") for k in (1, 2, 3)])
    (tmp_path / "real" / "tables").mkdir()
    table = tmp_path / "link" / "pairs.csv"
    table.parent.symlink_to(tmp_path / "real" / "tables")
    lines = [f"../images/{k}.png,../masks/{k}.png,P{k}" for k in (1, 2, 3)]
    table.write_text("\n".join(["image,mask,patient", *lines]))
    cases = understand_source(table.parent, Wishes(table=table)).cases
    assert {case.name: case.patient for case in cases} == {str(k): f"P{k}" for k in (1, 2, 3)}


def test_a_table_in_a_folder_beside_its_pictures_names_them_from_there(tmp_path):
    write_rows(tmp_path, [(name, "lesion", f"{name}.png", f"masks/{name}.png") for name in ("1", "2", "b/1")])
    (tmp_path / "tables").mkdir()
    lines = ["image,patient", "../1.png,P1", "../2.png,P2", "../b/1.png,Pb"]
    (tmp_path / "tables" / "info.csv").write_text("\n".join(lines))
    cases = understand_source(tmp_path, Wishes()).cases
    assert sorted(case.patient for case in cases) == ["P1", "P2", "Pb"]


@pytest.mark.parametrize(("place", "start"), [("d", ""), ("tables", "../d/"), ("tables", "{}/d/")])
def test_a_table_of_pairs_keeps_patients_and_parts_wherever_it_lies(place, start, tmp_path):
    names = ["1", "2", "b/1"]  # of which two are called alike
    write_rows(tmp_path / "d", [(name, "lesion", f"{name}.png", f"masks/{name}.png") for name in names])
    table, root = tmp_path / place / "pairs.csv", start.format(tmp_path)
    table.parent.mkdir(exist_ok=True)
    lines = [f"{root}{n}.png,{root}masks/{n}.png,P{n},{part}" for n, part in zip(names, PARTS, strict=True)]
    table.write_text("\n".join(["image,mask,patient,split", *lines]))
    cases = understand_source(table.parent, Wishes(table=table)).cases
    assert [(case.patient, case.split) for case in cases] == [("P1", "train"), ("P2", "val"), ("Pb/1", "test")]


def test_a_class_in_the_folders_of_the_masks_counts(tmp_path):
    write_rows(tmp_path, [(k, "lesion", f"images/{k}.png", f"masks/{c}/{k}.png") for k, c in
                          (("s1", "benign"), ("s2", "malignant"), ("s3", "malignant"))])  # fmt: skip
    cases = understand_source(tmp_path, Wishes(mask_folders=(Path("masks"),))).cases
    assert [case.label for case in cases] == ["benign", "malignant", "malignant"]


def test_a_mask_in_the_folder_of_each_class_says_none(tmp_path):
    for c in ("benign", "malignant"):
        write_rows(tmp_path, [(f"{c}{k}", "lesion", f"images/{k}.png", f"masks/{c}/{k}.png") for k in (1, 2, 3)])
    cases = understand_source(tmp_path, Wishes(mask_folders=(Path("masks"),))).cases
    assert [(case.label, len(case.masks)) for case in cases] == [("lesion", 2)] * 3


def test_flags_for_one_of_two_folders_are_refused_only_where_they_mean_nothing(tmp_path):
    for folder in ("a", "b"):
        write_rows(tmp_path / folder, [(str(k), "lesion", f"images/{k}.png", f"masks/{k}.png") for k in (1, 2, 3)])
    labelled = tmp_path / "b"
    shutil.rmtree(labelled / "masks")
    for picture in (labelled / "images").iterdir():
        shapes = [{"label": n, "shape_type": "rectangle", "points": [[5, 5], [15, 15]]} for n in ("lesion", "gland")]
        with Image.open(picture) as image:
            size = {"imageHeight": image.height, "imageWidth": image.width}
        picture.with_suffix(".json").write_text(json.dumps({"imagePath": picture.name, "shapes": shapes, **size}))
    both = ImportConfig((tmp_path / "a", labelled), mask_values=("255",), segment=("lesion",))
    with ExitStack() as stack:
        assert [len(source.cases) for source in understand(both, stack)] == [3, 3]
        with pytest.raises(DataError, match="--mask-values: there are no masks"):
            understand(replace(both, source=(labelled,)), stack)
        with pytest.raises(DataError, match="--segment: there are no labels"):
            understand(replace(both, source=(tmp_path / "a",)), stack)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "meta.csv").write_bytes(b"image\n\xff\xfe\n")
    with pytest.raises(DataError, match="meta.csv: cannot be read"):
        parse_table(tmp_path / "meta.csv")
