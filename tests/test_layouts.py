"""Folders as people have them: every image finds its masks, or the file without a partner is named."""

import os
import shutil
import sys
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from folders import PICTURES, SHAPE, lesion, picture, read, save, size, white, write_classes, write_pairs

from dataset import DataError
from segmentation.data.phantoms import MARKER
from segmentation.importing.layouts import OURS, list_pictures
from segmentation.importing.pairing import understand_layout


def pairs(image, mask, **options):
    return lambda root: write_pairs(root, image=image, mask=mask, **options)


def classes(**options):
    return lambda root: write_classes(root, **options)


def below(folders, write):
    return lambda root: write(root / folders)


def one_name_in_two_folders(image, mask, folders):
    """1.png to 3.png in each of two folders; `truth` by the folders' names."""

    def build(root):
        found = {}
        for k, folder in enumerate(folders):
            label = folder if folder in ("benign", "malignant") else "lesion"
            for i in (1, 2, 3):
                save(root / image.format(folder, i), picture(i))
                white(lesion(i + k), root / mask.format(folder, i))
                found[f"{folder} {i}"] = (label, size(i + k))
        return found

    return build


def class_folders_inside(root):
    """images/benign/1.png, masks/benign/1.png; the normal images have no masks."""
    found = one_name_in_two_folders("images/{}/{}.png", "masks/{}/{}.png", ("benign", "malignant"))(root)
    for i in (1, 2, 3):
        save(root / "images" / "normal" / f"{i}.png", picture(i))
        found[f"normal {i}"] = ("normal", 0)
    return found


def breast(root):
    """BrEaST: cases with one lesion, others with two, and one with none."""
    found = {}
    for i in range(1, 8):
        save(root / f"case{i:03d}.png", picture(i))
        if i < 7:
            white(lesion(i), root / f"case{i:03d}_tumor.png")
        if i in (2, 5):
            other = np.zeros(SHAPE, bool)
            other[30:35, 40:47] = True
            white(other, root / f"case{i:03d}_other1.png")
        found[f"case{i:03d}"] = ("lesion", size(i) + 35 * (i in (2, 5))) if i < 7 else ("normal", 0)
    (root / "BrEaST-Lesions-USG-clinical-data-Dec-15-2023.xlsx").write_bytes(b"PK")
    return found


def numbered(more, first="{}_mask.png"):
    """The second mask of every third image has this name."""

    def build(root):
        found = write_pairs(root, image="{}.png", mask=first)
        other = np.zeros(SHAPE, bool)
        other[30:35, 40:47] = True
        for i in (0, 3, 6):
            white(other, root / more.format(i))
            found[str(i)] = ("lesion", size(i) + 35)
        return found

    return build


def bus_bra(root):
    """As published: another word before the number, the side behind it, and a table."""
    found = {}
    for i in range(1, 7):
        for k, side in enumerate("lr"):
            save(root / "BUSBRA" / "Images" / f"bus_{i:04d}-{side}.png", picture(i))
            white(lesion(i + k), root / "BUSBRA" / "Masks" / f"mask_{i:04d}-{side}.png")
            found[f"bus_{i:04d}-{side}"] = ("lesion", size(i + k))
    (root / "BUSBRA" / "bus_data.csv").write_text("ID,Case,Pathology\nbus_0001-l,1,benign\n")
    found["bus_0001-l"] = ("benign", size(1))
    return found


def bus_uclm(root):
    """Colours: green is benign, red is malignant, all black is normal."""
    found = {}
    for i, name in enumerate(["ALWI_000", "ALWI_001", "FUHI_000", "FUHI_003", "VITR_012", "VITR_013"]):
        save(root / "images" / f"{name}.png", np.dstack([picture(i)] * 3))
        mask = np.zeros((*SHAPE, 3), np.uint8)
        if i % 3:
            mask[lesion(i)] = [(0, 255, 0), (255, 0, 0)][i % 2]
        save(root / "masks" / f"{name}.png", mask)
        found[name] = ("lesion", size(i)) if i % 3 else ("normal", 0)
    (root / "INFO.csv").write_text("Image;Label\n")
    return found


def one_name_two_endings(root):
    """1.jpg is the image, 1.png its mask, in one folder."""
    return write_pairs(root, image="{}.jpg", mask="{}.png")


def other_letters(spell):
    """The masks' names are spelt in another way. Nothing else tells the images apart."""

    def build(root):
        found = {}
        for i, name in enumerate(["Åsa", "Bjørn", "Zoé", "Zoë"]):
            save(root / "images" / f"{unicodedata.normalize('NFC', name)}.png", picture(i))
            white(lesion(i), root / "masks" / f"{spell(name)}.png")
            found[unicodedata.normalize("NFC", name)] = ("lesion", size(i))
        return found

    return build


def in_brackets(root):
    """The word stands in brackets, as a system names copies."""
    found = {}
    for i, name in enumerate(["Anna", "Bert", "Carla"]):
        save(root / f"{name}.png", picture(i))
        white(lesion(i), root / f"{name} (mask).png")
        found[name] = ("lesion", size(i))
    return found


def two_words(root):
    """The mask's name says both what it is and what it is of."""
    found = {}
    for i, word in enumerate(["lesion", "tumor", "lesion", "tumour"]):
        save(root / "images" / f"{i}.png", picture(i))
        white(lesion(i), root / "masks" / f"{i}_{word}_mask.png")
        found[str(i)] = ("lesion", size(i))
    return found


def busi_beside_another(root):
    """The name of BUSI's folder ends with a word for masks."""
    found = write_classes(root / "sets" / "Dataset_BUSI_with_GT")
    return found | write_pairs(root / "sets" / "mine", image="images/{}.png", mask="masks/{}.png")


def two_sets(root):
    """One with folders, one with names."""
    found = write_pairs(root / "a", image="images/a{}.png", mask="masks/a{}.png")
    return found | write_pairs(root / "b", image="b{}.png", mask="b{}_mask.png")


def normal_beside_images(root):
    """The normal images have no folder of images."""
    found = write_pairs(root, image="benign/images/{}.png", mask="benign/masks/{}.png")
    del found["9"]
    (root / "benign" / "images" / "9.png").unlink()
    (root / "benign" / "masks" / "9.png").unlink()
    save(root / "normal" / "n1.png", picture(1))
    return {name: ("benign", pixels) for name, (_, pixels) in found.items()} | {"n1": ("normal", 0)}


def three_names_of_lesions(root):
    """An image that is called mask-like names itself."""
    found = {}
    for i, name in enumerate(["scan_label", "brain_tumor", "lesion-3", "tumor_12", "mask of a ball", "gt"]):
        save(root / f"{name}.png", picture(i))
        white(lesion(i), root / f"{name}_mask.png")
        found[name] = ("lesion", size(i))
    return found


def folder_a_patient(root):
    """One image in each folder, with masks of any name."""
    found = {}
    for i in range(6):
        save(root / f"id{i}" / "images" / f"image{i}.png", picture(i))
        white(lesion(i), root / f"id{i}" / "masks" / f"7f{i * i}a.png")
        found[f"image{i}"] = ("lesion", size(i))
    return found


LAYOUTS = {
    "BUSI": classes(),
    "BUSI, upper case": classes(classes=("BENIGN", "MALIGNANT", "NORMAL")),
    "BUSI, title case": classes(classes=("Benign", "Malignant", "Normal")),
    "BUSI without normal": classes(classes=("benign", "malignant")),
    "BUSI nested": below("Dataset_BUSI_with_GT", classes()),
    "BUSI nested twice": below("Dataset_BUSI_with_GT/Dataset_BUSI_with_GT", classes()),
    "BUSI in a folder of any name": below("Breast Ultrasound Images Dataset", classes()),
    "BUSI with plain names": classes(name="{} {}.png", mask="{} {}_mask.png"),
    "BUSI with classes of two words": lambda root: (
        write_classes(root, classes=("benign", "malignant", "normal")),
        (root / "benign").rename(root / "benign tumors"),
        (root / "malignant").rename(root / "Malignant_cases"),
    )[0],
    "images, masks": pairs("images/scan{}.png", "masks/scan{}.png"),
    "imgs, labels": pairs("imgs/scan{}.png", "labels/scan{}.png"),
    "images, annotations": pairs("images/scan{}.jpg", "annotations/scan{}.png"),
    "scans, gt": pairs("scans/{}.png", "gt/{}.png"),
    "original, GT": pairs("original/{:06d}.png", "GT/{:06d}.png"),
    "Images, Ground Truth": pairs("Images/{}.png", "Ground Truth/{}.png"),
    "GroundTruth": pairs("TrainingImages/{}.png", "TrainingGroundTruth/{}_segmentation.png"),
    "JPEGImages, SegmentationClass": pairs("JPEGImages/{}.jpg", "SegmentationClass/{}.png"),
    "imagesTr, labelsTr": pairs("imagesTr/bus_{:03d}_0000.png", "labelsTr/bus_{:03d}.png"),
    "trainval-image, trainval-mask": pairs("trainval-image/{:04d}.jpg", "trainval-mask/{:04d}.jpg"),
    "image, mask, deep": pairs("data/set 1/image/{}.png", "data/set 1/mask/{}.png"),
    "masks/0": pairs("images/scan{}.png", "masks/0/scan{}.png"),
    "masks_new": pairs("images/scan{}.png", "masks_new/scan{}.png"),
    "images, tumor": pairs("images/scan{}.png", "tumor/scan{}.png"),
    "images, roi": pairs("images/scan{}.png", "roi/scan{}.png"),
    "a, b": pairs("a/scan{}.png", "b/scan{}.png"),
    "x_mask": pairs("scan{}.png", "scan{}_mask.png"),
    "x-mask": pairs("scan{}.png", "scan{}-mask.png"),
    "xMask": pairs("scan{}.png", "scan{}Mask.png"),
    "x.mask": pairs("scan{}.png", "scan{}.mask.png"),
    "x (mask)": in_brackets,
    "mask12": pairs("{}.png", "mask{}.png"),
    "img12, mask12": pairs("img{}.png", "mask{}.png"),
    "im_x, gt_x": pairs("im_{}.png", "gt_{}.png"),
    "mask_x": pairs("scan{}.png", "mask_scan{}.png"),
    "x_segmentation": pairs("ISIC_{:07d}.jpg", "ISIC_{:07d}_segmentation.png"),
    "x_lesion": pairs("scan{}.png", "scan{}_lesion.png"),
    "x_tumour": pairs("scan{}.png", "scan{}_tumour.png"),
    "x_lesion_mask": pairs("images/scan{}.png", "masks/scan{}_lesion_mask.png"),
    "lesion_mask_x": pairs("images/scan_{}.png", "masks/lesion_mask_{}.png"),
    "masks/x_mask": pairs("images/scan{}.png", "masks/scan{}_mask.png"),
    "img_x, mask_x": pairs("img_{}.png", "mask_{}.png"),
    "x_image, x_mask": pairs("{}_image.png", "{}_mask.png"),
    "images, other names": pairs("images/bus_{:04d}-l.png", "masks/mask_{:04d}-l.png"),
    "upper-case endings": pairs("images/scan{}.PNG", "masks/scan{}.BMP"),
    "lesion-3": pairs("lesion-{}.png", "lesion-{}_mask.png"),
    "tumor_12 in images": pairs("images/tumor_{}.png", "masks/tumor_{}.png"),
    "scan_label in images": pairs("images/scan{}_label.png", "masks/scan{}_label.png"),
    "class folder lesion": pairs("lesion/scan{}.png", "lesion/scan{}_mask.png"),
    "folder of both words": pairs("images_and_masks/scan{}.png", "images_and_masks/scan{}_mask.png"),
    "folder called segmentation": pairs("segmentation/images/{}.png", "segmentation/masks/{}.png"),
    "images called like masks": three_names_of_lesions,
    "train and val": one_name_in_two_folders("{}/images/{}.png", "{}/masks/{}.png", ("train", "val")),
    "train and test inside": one_name_in_two_folders("images/{}/{}.png", "masks/{}/{}.png", ("train", "test")),
    "classes outside": one_name_in_two_folders("{}/images/{}.png", "{}/masks/{}.png", ("benign", "malignant")),
    "classes in the names": one_name_in_two_folders("{}_images/{}.png", "{}_masks/{}.png", ("benign", "malignant")),
    "classes inside": class_folders_inside,
    "one name in two classes": one_name_in_two_folders("{}/{}.png", "{}/{}_mask.png", ("benign", "malignant")),
    "two hospitals": one_name_in_two_folders("{}/scans/{}.png", "{}/gt/{}.png", ("giza", "lima")),
    "numbered masks": numbered("{}_mask_1.png"),
    "numbered masks, no line": numbered("{}_mask1.png"),
    "a copy of a mask": numbered("{}_mask (1).png"),
    "numbered masks, no first": numbered("{}_mask_2.png", first="{}_mask_1.png"),
    "numbered masks, no word": numbered("masks/{}_2.png", first="masks/{}_1.png"),
    "a folder of masks for each image": pairs("p{}.png", "masks/p{}/0.png"),
    "a folder for each patient": folder_a_patient,
    "BrEaST": breast,
    "BUS-BRA": bus_bra,
    "BUS-UCLM": bus_uclm,
    "one name, two endings": one_name_two_endings,
    "NFC beside NFD": other_letters(lambda name: unicodedata.normalize("NFD", name)),
    "capitals beside small letters": other_letters(str.upper),
    "two words": two_words,
    "BUSI beside another": busi_beside_another,
    "images called like masks, in a folder of images": below("breast images", three_names_of_lesions),
    "masks/0 of train and val": one_name_in_two_folders("{}/images/{}.png", "{}/masks/0/{}.png", ("train", "val")),
    "two sets in one folder": two_sets,
    "normal beside images": normal_beside_images,
}


NAMELESS = ("images, roi", "a, b", "one name, two endings")  # no word for masks


@pytest.mark.parametrize("case", LAYOUTS)
def test_layouts_are_read(case, tmp_path, capsys):
    expected = LAYOUTS[case](tmp_path)
    assert read(tmp_path) == expected
    assert ("by what they hold, as no name says so" in capsys.readouterr().out) == (case in NAMELESS)


# ---------------------------------------------------------------- what is named


def lines_of(root, **options) -> list[str]:
    with pytest.raises(DataError) as error:
        read(root, **options)
    return str(error.value).splitlines()


def named_in(lines: list[str], *names: str) -> bool:
    """Whether each line names one of these files, in any order, and nothing else is said."""
    return sorted(Path(line.split(": ")[0]).name for line in lines) == sorted(names)


@pytest.mark.parametrize("layout", [("images/{}.png", "masks/{}.png"), ("{}.png", "{}_mask.png")])
def test_masks_without_an_image_are_named_all(layout, tmp_path):
    write_pairs(tmp_path, image=layout[0], mask=layout[1])
    for i in (3, 5, 9):
        (tmp_path / layout[0].format(i)).unlink()
    lines = lines_of(tmp_path)
    assert named_in(lines, *(Path(layout[1].format(i)).name for i in (3, 5, 9)))
    assert all("mask without exactly one image" in line for line in lines)


def test_benign_and_malignant_images_without_a_mask_are_named_all(tmp_path):
    write_classes(tmp_path)
    for name in ("benign/benign (2)", "malignant/malignant (1)", "malignant/malignant (4)", "normal/normal (3)"):
        (tmp_path / f"{name}_mask.png").unlink()
    lines = lines_of(tmp_path)
    assert named_in(lines, "benign (2).png", "malignant (1).png", "malignant (4).png")
    assert all("has no mask file" in line for line in lines)


def test_images_without_a_mask_are_normal_and_named(tmp_path, capsys):
    expected = write_pairs(tmp_path)
    for i in (2, 5):
        (tmp_path / "masks" / f"scan{i}.png").unlink()
        expected[f"scan{i}"] = ("normal", 0)
    assert read(tmp_path) == expected
    assert "note: 2 of 10 images have no mask file and count as normal: scan2, scan5" in capsys.readouterr().out


def test_a_lost_first_mask_is_named(tmp_path):
    numbered("{}_mask_1.png")(tmp_path)
    (tmp_path / "3_mask.png").unlink()
    lines = lines_of(tmp_path)
    assert named_in(lines, "3.png") and "has no mask file" in lines[0]


def test_a_lost_first_mask_is_named_where_no_other_image_has_two(tmp_path):
    write_classes(tmp_path)
    (tmp_path / "benign" / "benign (2)_mask.png").rename(tmp_path / "benign" / "benign (2)_mask_1.png")
    assert named_in(lines_of(tmp_path), "benign (2).png")


def test_masks_numbered_from_one_are_worth_a_note(tmp_path, capsys):
    """x_mask where there is one, x_mask_1 and x_mask_2 where there are two."""
    expected = numbered("{}_mask_2.png")(tmp_path)
    for i in (0, 3, 6):
        (tmp_path / f"{i}_mask.png").rename(tmp_path / f"{i}_mask_1.png")
    assert read(tmp_path) == expected
    assert "note: 3 images have numbered masks and none without a number (0.png, 3.png, 6.png)" in (
        capsys.readouterr().out
    )


def test_other_names_pair_nothing(tmp_path):
    """Two of ten masks have an image's name; the rest is named."""
    for i in range(10):
        save(tmp_path / "images" / f"scan{i}.png", picture(i))
        white(lesion(i), tmp_path / "masks" / (f"scan{i}.png" if i < 2 else f"other{i}.png"))
    assert named_in(lines_of(tmp_path), *(f"other{i}.png" for i in range(2, 10)))


@pytest.mark.parametrize("folder", ["images", "masks", ""])
def test_pictures_of_one_sort_are_no_data(folder, tmp_path):
    for i in range(PICTURES):
        save(tmp_path / folder / f"scan{i}.png", picture(i))
    (tmp_path / "annotations").mkdir()
    for i in range(3):
        (tmp_path / "annotations" / f"scan{i}.json").touch()
    lines = lines_of(tmp_path)
    assert "10 pictures" in lines[0] and "scan0.png first, but none is the mask of another" in lines[0]
    assert "3 .json files, which are not read" in lines[0]


def test_sets_of_two_folders_are_not_mixed_by_their_numbers(tmp_path):
    """The masks of one hospital do not go to the images of another that has the same numbers."""
    for i in range(10):
        save(tmp_path / "giza" / "images" / f"giza_{i}.png", picture(i))
        white(lesion(i), tmp_path / "lima" / "masks" / f"lima_{i}.png")
    assert "none is the mask of another" in lines_of(tmp_path)[0]


@pytest.mark.parametrize("lost", [(3,), range(10)])
def test_a_lost_image_is_not_replaced_by_another_sets(lost, tmp_path):
    write_pairs(tmp_path / "a", image="images/{}.png", mask="masks/{}.png")
    write_pairs(tmp_path / "b", image="{}.png", mask="{}_mask.png")
    for i in lost:
        (tmp_path / "b" / f"{i}.png").unlink()
    assert named_in(lines_of(tmp_path), *(f"{i}_mask.png" for i in lost))


def test_one_image_and_one_mask_are_no_pair_for_that(tmp_path):
    save(tmp_path / "images" / "a.png", picture())
    white(lesion(), tmp_path / "masks" / "b.png")
    assert "a.png first, but none is the mask of another" in lines_of(tmp_path)[0]


def test_masks_in_folders_of_another_name_are_worth_a_note(tmp_path, capsys):
    expected = write_pairs(tmp_path, image="part 1/images/{}.png", mask="part 1 of 2/masks/{}.png")
    assert read(tmp_path) == expected
    assert "note: 10 masks lie in folders of other names than their images (0.png, 1.png, 2.png, ...)" in (
        capsys.readouterr().out
    )


def test_masks_of_two_experts_are_merged_and_worth_a_note(tmp_path, capsys):
    write_pairs(tmp_path, mask="masks/expert1/scan{}.png")
    for i in range(PICTURES - 1):
        other = np.zeros(SHAPE, bool)
        other[30:35, 40:47] = True
        white(other, tmp_path / "masks" / "expert2" / f"scan{i}.png")
    assert read(tmp_path)["scan4"] == ("lesion", size(4) + 35)
    assert "note: 9 images have masks in several folders; they are merged" in capsys.readouterr().out


def test_masks_paired_by_a_number_are_worth_a_note(tmp_path, capsys):
    numbered("masks/{}_2.png", first="masks/{}_1.png")(tmp_path)
    read(tmp_path)
    assert "note: 6 masks are taken for further ones of an image by the number" in capsys.readouterr().out


def test_pictures_that_are_there_twice_are_worth_a_note(tmp_path, capsys):
    """BUS-UC has a folder of all images beside others."""
    for folder in ("All", "Some"):
        write_pairs(tmp_path / folder)
    assert len(read(tmp_path)) == 2 * PICTURES
    assert "note: 20 images have the name and the size of another" in capsys.readouterr().out


def test_copies_of_images_without_masks_are_named(tmp_path):
    """They are no normal images."""
    write_pairs(tmp_path)
    shutil.copytree(tmp_path / "images", tmp_path / "images (copy)")
    lines = lines_of(tmp_path)
    assert named_in(lines, *(f"scan{i}.png" for i in range(10))) and "images (copy)" in lines[0]


def test_what_the_files_hold_is_worth_a_note(tmp_path, capsys):
    expected = write_pairs(tmp_path, image="a/{}.png", mask="b/{}.png")
    assert read(tmp_path) == expected
    assert "note: 10 pictures are taken for masks by what they hold, as no name says so" in capsys.readouterr().out


def test_overlays_beside_the_images_are_named(tmp_path):
    write_pairs(tmp_path, image="{}.png", mask="{}_mask.png")
    for i in (1, 4):
        save(tmp_path / f"{i}_overlay.png", picture(i))
    lines = lines_of(tmp_path)
    assert named_in(lines, "1_overlay.png", "4_overlay.png") and "named after an image" in lines[0]


def test_another_set_beside_images_and_masks_is_passed_over(tmp_path, capsys):
    expected = write_pairs(tmp_path)
    write_classes(tmp_path / "old")
    assert read(tmp_path) == expected
    assert "note: 24 pictures outside the folders of images are passed over" in capsys.readouterr().out


def test_normal_images_beside_images_and_masks_are_read(tmp_path):
    expected = write_pairs(tmp_path)
    save(tmp_path / "normal" / "n1.png", picture(1))
    assert read(tmp_path) == expected | {"n1": ("normal", 0)}


@pytest.mark.parametrize("folder", ["predictions", "overlays/small"])
def test_pictures_beside_images_and_masks_are_passed_over(folder, tmp_path, capsys):
    expected = write_pairs(tmp_path)
    for i in range(PICTURES):
        save(tmp_path / folder / f"scan{i}.png", picture(i))
    assert read(tmp_path) == expected
    assert "note: 10 pictures outside the folders of images are passed over (scan0.png" in capsys.readouterr().out


def test_one_name_for_two_images_is_named(tmp_path):
    write_pairs(tmp_path)
    save(tmp_path / "images" / "scan3.bmp", picture(1))
    assert "scan3.png: mask without exactly one image" in lines_of(tmp_path)[0]
    (tmp_path / "masks" / "scan3.png").unlink()
    lines = lines_of(tmp_path)
    assert named_in(lines, "scan3.png", "scan3.bmp") and "occurs twice" in lines[0]


def test_classes_that_contradict_each_other_are_named(tmp_path):
    write_classes(tmp_path)
    for end in ("", "_mask"):
        (tmp_path / "benign" / f"benign (2){end}.png").rename(tmp_path / "malignant" / f"benign (2){end}.png")
    lines = lines_of(tmp_path)
    assert named_in(lines, "benign (2).png") and "lies in malignant/, but is named benign" in lines[0]


@pytest.mark.parametrize(("folder", "label"), [("non-malignant", "lesion"), ("benign vs malignant", "lesion")])
def test_a_class_is_not_read_into_a_folders_name(folder, label, tmp_path):
    write_pairs(tmp_path / folder)
    assert {found for found, _ in read(tmp_path).values()} == {label, "normal"}


def test_pictures_of_other_sizes_than_their_masks_are_named_all(tmp_path):
    write_pairs(tmp_path)
    for i in (3, 6):
        white(lesion(i)[:39], tmp_path / "masks" / f"scan{i}.png")
    lines = lines_of(tmp_path)
    assert named_in(lines, "scan3.png", "scan6.png") and "mask is 50x39, its image 50x40" in lines[0]


# ---------------------------------------------------------------- what systems leave behind


def test_stray_files_are_passed_over_with_a_count(tmp_path, capsys):
    expected = write_classes(tmp_path)
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._benign (1).png", "notes.txt", "list.xlsx"):
        (tmp_path / "benign" / name).write_bytes(b"x")
    for name in ("__MACOSX/benign/._benign (1).png", "@eaDir/benign (1).png", ".ipynb_checkpoints/benign (1).png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"x")
    assert read(tmp_path) == expected
    assert f"note: 9 other files in {tmp_path} are passed over (" in capsys.readouterr().out


def test_our_own_marker_is_no_stray(tmp_path, capsys):
    write_classes(tmp_path)
    (tmp_path / MARKER).touch()
    read(tmp_path)
    assert OURS == MARKER and "note" not in capsys.readouterr().out


def test_phantoms_of_an_earlier_run_are_passed_over(tmp_path, capsys):
    expected = write_classes(tmp_path / "mine")
    write_classes(tmp_path / "phantoms-160-seed0")
    (tmp_path / "phantoms-160-seed0" / MARKER).touch()
    assert read(tmp_path) == expected
    assert "note: 1 other files" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="no such files there")
def test_what_is_no_file_is_passed_over_or_named(tmp_path, capsys):
    expected = write_classes(tmp_path)
    os.mkfifo(tmp_path / "benign" / "b.png")  # reading it would wait for ever
    (tmp_path / "benign" / "c.png").mkdir()
    assert read(tmp_path) == expected
    assert "note: 1 other files" in capsys.readouterr().out
    (tmp_path / "benign" / "d.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "malignant" / "e.png").symlink_to("e.png")
    assert named_in(lines_of(tmp_path), "d.png", "e.png")


@pytest.mark.skipif(sys.platform == "win32", reason="no links there")
def test_links_to_nothing_are_named_where_there_are_no_classes(tmp_path):
    write_pairs(tmp_path)
    (tmp_path / "images" / "d.png").symlink_to(tmp_path / "nowhere.png")
    assert named_in(lines_of(tmp_path), "d.png")


@pytest.mark.skipif(sys.platform == "win32", reason="no links there")
def test_folders_that_links_lead_to_are_read_once(tmp_path):
    expected = write_pairs(tmp_path / "real")
    root = tmp_path / "linked"
    root.mkdir()
    (root / "images").symlink_to(tmp_path / "real" / "images")
    (root / "masks").symlink_to(tmp_path / "real" / "masks")
    assert read(root) == expected
    (tmp_path / "real" / "again").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "images" / "loop").symlink_to("..")
    (tmp_path / "real" / "a copy of images").symlink_to("images")
    assert read(tmp_path / "real") == expected


@pytest.mark.skipif(sys.platform == "win32", reason="no links there")
def test_links_do_not_lead_to_what_lies_around(tmp_path):
    expected = write_classes(tmp_path / "real")
    write_pairs(tmp_path / "others")
    (tmp_path / "real" / "up").symlink_to("..")
    assert read(tmp_path / "real") == expected


def test_folders_that_cannot_be_listed_are_named(tmp_path, monkeypatch):
    write_classes(tmp_path)
    scan = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("malignant"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"malignant: cannot be listed \(Permission denied\)"):
        list_pictures(tmp_path)


def test_folders_that_lie_too_deep_are_named(tmp_path):
    write_pairs(tmp_path / "a/b/c/d/e/f/g/h")
    assert "folders deep" in lines_of(tmp_path)[0]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a name is always text")
def test_names_that_are_no_text_are_named(tmp_path, capsys):
    expected = write_pairs(tmp_path)
    (tmp_path / os.fsdecode(b"notes \xff.txt")).touch()
    assert read(tmp_path) == expected
    assert r"(notes \udcff.txt)" in capsys.readouterr().out
    for folder in ("images", "masks"):
        shutil.copy(tmp_path / folder / "scan1.png", os.fsencode(tmp_path / folder) + b"/old\xff.png")
    lines = lines_of(tmp_path)
    assert named_in(lines, os.fsdecode(b"old\xff.png")) and "bytes that are no text" in lines[0]


def test_order_is_that_of_the_numbers(tmp_path):
    for i, name in enumerate(["scan 10", "scan 9", "scan 1²2", "٣", "scan 9a"]):
        save(tmp_path / "images" / f"{name}.png", picture(i))
        white(lesion(i), tmp_path / "masks" / f"{name}.png")
    assert list(read(tmp_path)) == ["٣", "scan 1²2", "scan 9", "scan 9a", "scan 10"]


# ---------------------------------------------------------------- speed


def test_ten_thousand_files_are_paired_in_seconds(tmp_path):
    """0.3 s on two idle cores."""
    for folder, word in (("images", "bus"), ("masks", "mask")):
        (tmp_path / folder).mkdir()
        for i in range(5000):
            open(f"{tmp_path}/{folder}/{word}_{i:05d}-l.png", "x").close()
    start = time.process_time()
    pictures, strays = list_pictures(tmp_path)
    layout = understand_layout(pictures, tmp_path)
    assert time.process_time() - start < 2
    assert (len(layout.masks), layout.lone, layout.strays, strays) == (5000, [], [], [])
    assert all(image.name[4:] == mask.name[5:] for image, (mask,) in layout.masks.items())
