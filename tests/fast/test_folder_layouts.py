"""Folders as people have them: every image finds its masks, or the file without a partner is named."""

import os
import shutil
import sys
import time
import unicodedata
from functools import partial
from pathlib import Path

import pytest
from folders import PICTURES, changed, lesion, picture, read, save, white, write_classes, write_pairs, write_rows

from dataset import DataError
from segmentation.importing.pairing import understand_layout
from segmentation.pictures.listing import list_pictures


def pairs(image, mask):
    return partial(write_pairs, image=image, mask=mask)


def rows(*rows):
    return partial(write_rows, rows=rows)


def named(image, mask, *names, label="lesion"):
    """An image and its mask for each of these names."""
    return rows(*((name, label, image.format(name), mask.format(name)) for name in names))


def numbered_in(image, mask, *folders):
    """1.png to 3.png in each of these folders, which their names tell apart."""
    labels = {"benign": "benign", "malignant": "malignant"}
    files = [(folder, i) for folder in folders for i in (1, 2, 3)]
    return rows(*((f"{d} {i}", labels.get(d, "lesion"), image.format(d, i), mask.format(d, i)) for d, i in files))


def further(first, second, image="{0}.png"):
    """Every third of ten images has a second mask."""
    masks = [[first, second][: 1 + (i % 3 == 0 and i < 9)] for i in range(PICTURES)]
    names = [[pattern.format(i) for pattern in (image, *masks[i])] for i in range(PICTURES)]
    labels = ["lesion"] * 9 + ["normal"]
    return rows(*((Path(files[0]).stem, label, *files) for label, files in zip(labels, names, strict=True)))


def spelt(change):
    """The masks' names are spelt in another way."""
    names = [unicodedata.normalize("NFC", name) for name in ("Åsa", "Bjørn", "Zoé", "Zoë")]
    return rows(*((name, "lesion", f"images/{name}.png", f"masks/{change(name)}.png") for name in names))


def both(*writes):
    return lambda root: {name: truth for write in writes for name, truth in write(root).items()}


def below(folders, write):
    return lambda root: write(root / folders)


LIKE_MASKS = ("scan_label", "brain_tumor", "lesion-3", "tumor_12", "mask of a ball", "gt")
TWO_SETS = both(below("a", pairs("images/{}.png", "masks/{}.png")), below("b", pairs("b{}.png", "b{}_mask.png")))
NAMELESS = {  # no word for masks: what the files hold decides
    "images, roi": pairs("images/scan{}.png", "roi/scan{}.png"),
    "one name, two endings": pairs("{}.jpg", "{}.png"),
}
LAYOUTS = {
    "BUSI": write_classes,
    "BUSI, upper case": partial(write_classes, classes=("BENIGN", "Malignant", "NORMAL")),
    "BUSI in a folder of any name": below("Breast Ultrasound Images Dataset", write_classes),
    "BUSI with plain names": partial(write_classes, name="{} {}.png", mask="{} {}_mask.png"),
    "BUSI with classes of two words": changed(write_classes, "benign > benign tumors", "malignant > Malignant_cases"),
    "BrEaST": further("case{:03d}_tumor.png", "case{:03d}_other1.png", image="case{:03d}.png"),
    "BUS-BRA": pairs("BUSBRA/Images/bus_{:04d}-l.png", "BUSBRA/Masks/mask_{:04d}-l.png"),
    "images, masks": write_pairs,
    "imgs, labels": pairs("imgs/scan{}.png", "labels/scan{}.png"),
    "images, annotations": pairs("images/scan{}.jpg", "annotations/scan{}.png"),
    "scans, gt": pairs("scans/{}.png", "gt/{}.png"),
    "Images, Ground Truth": pairs("Images/{}.png", "Ground Truth/{}.png"),
    "GroundTruth": pairs("TrainingImages/{}.png", "TrainingGroundTruth/{}_segmentation.png"),
    "JPEGImages, SegmentationClass": pairs("JPEGImages/{}.jpg", "SegmentationClass/{}.png"),
    "imagesTr, labelsTr": pairs("imagesTr/bus_{:03d}_0000.png", "labelsTr/bus_{:03d}.png"),
    "image, mask, deep": pairs("data/set 1/image/{}.png", "data/set 1/mask/{}.png"),
    "masks/0": pairs("images/scan{}.png", "masks/0/scan{}.png"),
    "images, tumor": pairs("images/scan{}.png", "tumor/scan{}.png"),
    "upper-case endings": pairs("images/scan{}.PNG", "masks/scan{}.BMP"),
    "x_mask": pairs("scan{}.png", "scan{}_mask.png"),
    "xMask": pairs("scan{}.png", "scan{}Mask.png"),
    "x.mask": pairs("scan{}.png", "scan{}.mask.png"),
    "x (mask)": named("{}.png", "{} (mask).png", "Anna", "Bert", "Carla"),
    "im_x, gt_x": pairs("im_{}.png", "gt_{}.png"),
    "mask_x": pairs("scan{}.png", "mask_scan{}.png"),
    "x_segmentation": pairs("ISIC_{:07d}.jpg", "ISIC_{:07d}_segmentation.png"),
    "x_tumour": pairs("scan{}.png", "scan{}_tumour.png"),
    "x_lesion_mask": pairs("images/scan{}.png", "masks/scan{}_lesion_mask.png"),
    "lesion_mask_x": pairs("images/scan_{}.png", "masks/lesion_mask_{}.png"),
    "masks/x_mask": pairs("images/scan{}.png", "masks/scan{}_mask.png"),
    "x_image, x_mask": pairs("{}_image.png", "{}_mask.png"),
    "tumor_12 in images": pairs("images/tumor_{}.png", "masks/tumor_{}.png"),
    "class folder lesion": pairs("lesion/scan{}.png", "lesion/scan{}_mask.png"),
    "folder of both words": pairs("images_and_masks/scan{}.png", "images_and_masks/scan{}_mask.png"),
    "folder called segmentation": pairs("segmentation/images/{}.png", "segmentation/masks/{}.png"),
    "images called like masks": named("{}.png", "{}_mask.png", *LIKE_MASKS),
    "train and val": numbered_in("{}/images/{}.png", "{}/masks/{}.png", "train", "val"),
    "train and test inside": numbered_in("images/{}/{}.png", "masks/{}/{}.png", "train", "test"),
    "masks/0 of train and val": numbered_in("{}/images/{}.png", "{}/masks/0/{}.png", "train", "val"),
    "classes outside": numbered_in("{}/images/{}.png", "{}/masks/{}.png", "benign", "malignant"),
    "classes in the names": numbered_in("{}_images/{}.png", "{}_masks/{}.png", "benign", "malignant"),
    "classes inside": both(
        numbered_in("images/{}/{}.png", "masks/{}/{}.png", "benign", "malignant"),
        rows(*((f"normal {i}", "normal", f"images/normal/{i}.png") for i in (1, 2, 3))),
    ),
    "one name in two classes": numbered_in("{}/{}.png", "{}/{}_mask.png", "benign", "malignant"),
    "two hospitals": numbered_in("{}/scans/{}.png", "{}/gt/{}.png", "giza", "lima"),
    "normal beside images": both(
        named("benign/images/{}.png", "benign/masks/{}.png", "a", "b", "c", label="benign"),
        rows(("n1", "normal", "normal/n1.png")),
    ),
    "normal beside images and masks": both(write_pairs, rows(("n1", "normal", "normal/n1.png"))),
    "two sets in one folder": TWO_SETS,
    "numbered masks": further("{}_mask.png", "{}_mask_1.png"),
    "numbered masks, no line": further("{}_mask.png", "{}_mask1.png"),
    "numbered masks, no first": further("{}_mask_1.png", "{}_mask_2.png"),
    "numbered masks, no word": further("masks/{}_1.png", "masks/{}_2.png"),
    "a folder of masks for each image": pairs("p{}.png", "masks/p{}/0.png"),
    "a folder for each patient": rows(
        *((f"image{i}", "lesion", f"id{i}/images/image{i}.png", f"id{i}/masks/7f{i * i}a.png") for i in range(6))
    ),
    "NFC beside NFD": spelt(lambda name: unicodedata.normalize("NFD", name)),
    "capitals beside small letters": spelt(str.upper),
} | NAMELESS


@pytest.mark.parametrize("case", LAYOUTS)
def test_every_image_finds_its_masks(case, tmp_path, capsys):
    expected = LAYOUTS[case](tmp_path)
    assert read(tmp_path) == expected
    assert ("10 masks are told by what they hold" in capsys.readouterr().out) == (case in NAMELESS)


SCANS = [f"scan{i}.png" for i in range(PICTURES)]


# ---------------------------------------------------------------- what is named


def refusal(root) -> str:
    with pytest.raises(DataError) as error:
        read(root)
    return str(error.value)


BESIDE = pairs("{}.png", "{}_mask.png")
SAME_NAMES = both(below("a", pairs("images/{}.png", "masks/{}.png")), below("b", BESIDE))
TO_MALIGNANT = [f"benign/{name} > malignant/{name}" for name in ("benign (2).png", "benign (2)_mask.png")]
LOST = [f"-{c}/{c} ({i})_mask.png" for c, i in (("benign", 2), ("malignant", 4), ("normal", 3))]
ONE_IMAGE, NO_MASK, NO_FIRST = "exactly one image", "has no mask", "a further mask and no first one"
PROBLEMS = [  # what is made, the files that are named, and why
    (changed(write_pairs, "-images/scan3.png", "-images/scan9.png"), ["scan3.png", "scan9.png"], ONE_IMAGE),
    (changed(BESIDE, "-3.png", "-9.png"), ["3_mask.png", "9_mask.png"], ONE_IMAGE),
    (
        changed(write_pairs, *(f"masks/scan{i}.png > masks/other{i}.png" for i in range(2, 10))),
        [f"other{i}.png" for i in range(2, 10)],
        ONE_IMAGE,
    ),
    (changed(SAME_NAMES, "-b/3.png"), ["3_mask.png"], ONE_IMAGE),  # the other set has images of these names
    (changed(SAME_NAMES, *(f"-b/{i}.png" for i in range(10))), [f"{i}_mask.png" for i in range(10)], ONE_IMAGE),
    (changed(write_classes, *LOST), ["benign (2).png"], NO_MASK),
    (changed(further("{}_mask.png", "{}_mask_1.png"), "-3_mask.png"), ["3.png"], NO_FIRST),
    (
        changed(write_classes, "benign/benign (2)_mask.png > benign/benign (2)_mask_1.png"),  # no other image has two
        ["benign (2).png"],
        NO_FIRST,
    ),
    (changed(write_pairs, *(f"+images (copy)/{scan}" for scan in SCANS)), SCANS, "images (copy)"),
    (changed(BESIDE, "+1_overlay.png", "+4_overlay.png"), ["1_overlay.png", "4_overlay.png"], "named after an image"),
    (changed(write_pairs, "-masks/scan3.png", "+images/scan3.bmp"), ["scan3.bmp"], "twice"),
    (changed(write_classes, *TO_MALIGNANT), ["benign (2).png"], "is benign and malignant by its folder, name"),
]


@pytest.mark.parametrize(("write", "names", "words"), PROBLEMS)
def test_every_file_that_does_not_fit_is_named(write, names, words, tmp_path):
    write(tmp_path)
    line = refusal(tmp_path)
    assert names[0] in line and words in line and "\n" not in line
    assert len(names) == 1 or f"so are {len(names)} of " in line


@pytest.mark.parametrize("folder", ["images", "masks", "."])
def test_pictures_of_one_sort_are_no_data(folder, tmp_path):
    changed(lambda root: {}, *(f"+{folder}/{s}" for s in SCANS), *(f"+{s}.xml" for s in SCANS))(tmp_path)
    line = refusal(tmp_path)
    assert "10 pictures" in line and "scan0.png first" in line and "10 .xml files" in line


def test_numbers_alone_pair_neither_two_hospitals_nor_two_files(tmp_path):
    for i in range(10):
        save(tmp_path / "two" / "giza" / "images" / f"giza_{i}.png", picture(i))
        white(lesion(i), tmp_path / "two" / "lima" / "masks" / f"lima_{i}.png")
    save(tmp_path / "one" / "images" / "a.png", picture())
    white(lesion(), tmp_path / "one" / "masks" / "b.png")
    assert "none is the mask of another" in refusal(tmp_path / "one")
    assert "--table" in refusal(tmp_path / "two")


@pytest.mark.parametrize("folder", ["non-malignant", "benign vs malignant"])
def test_a_class_is_not_read_into_a_folders_name(folder, tmp_path):
    write_pairs(tmp_path / folder)
    assert {label for label, _ in read(tmp_path).values()} == {"lesion", "normal"}


# ---------------------------------------------------------------- what systems leave behind

no_links = pytest.mark.skipif(sys.platform == "win32", reason="no such files there")


def test_stray_files_are_passed_over(tmp_path):
    strays = ["Thumbs.db", "desktop.ini", ".DS_Store", "notes.txt", "benign/list.xlsx", "benign/._benign (1).png"]
    strays += ["__MACOSX/benign/._benign (1).png", "@eaDir/benign (1).png", ".ipynb_checkpoints/benign (1).png"]
    expected = changed(write_classes, *(f"+{name}" for name in strays))(tmp_path)
    assert read(tmp_path) == expected


@no_links
def test_what_is_no_file_is_passed_over_and_a_link_to_nothing_named(tmp_path):
    expected = write_classes(tmp_path)
    os.mkfifo(tmp_path / "benign" / "b.png")  # reading it would wait for ever
    (tmp_path / "benign" / "c.png").mkdir()
    assert read(tmp_path) == expected
    (tmp_path / "benign" / "d.png").symlink_to(tmp_path / "nowhere.png")
    assert "d.png" in refusal(tmp_path)
    (tmp_path / "benign" / "d.png").unlink()
    (tmp_path / "malignant" / "e.png").symlink_to("e.png")
    assert "e.png" in refusal(tmp_path)


@no_links
def test_folders_that_links_lead_to_are_read_once_and_never_those_around(tmp_path):
    expected = write_pairs(tmp_path / "real")
    write_pairs(tmp_path / "others")
    root = tmp_path / "linked"
    root.mkdir()
    for folder in ("images", "masks"):
        (root / folder).symlink_to(tmp_path / "real" / folder)
    assert read(root) == expected
    (tmp_path / "real" / "again").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "up").symlink_to("..")
    (tmp_path / "real" / "images" / "loop").symlink_to("..")
    (tmp_path / "real" / "a copy of images").symlink_to("images")
    assert read(tmp_path / "real") == expected


def test_folders_that_lie_too_deep_are_named(tmp_path):
    write_pairs(tmp_path / "a/b/c/d/e/f/g/h")
    assert "folders deep" in refusal(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a name is always text")
def test_names_that_are_no_text_are_named(tmp_path):
    write_pairs(tmp_path)
    for folder in ("images", "masks"):
        shutil.copy(tmp_path / folder / "scan1.png", os.fsencode(tmp_path / folder) + b"/old\xff.png")
    assert os.fsdecode(b"old\xff.png") in refusal(tmp_path)


def test_images_are_in_the_order_of_their_numbers(tmp_path):
    named("images/{}.png", "masks/{}.png", "scan 10", "scan 9", "scan 1²2", "٣", "scan 9a")(tmp_path)
    assert list(read(tmp_path)) == ["٣", "scan 1²2", "scan 9", "scan 9a", "scan 10"]


def test_four_thousand_files_are_paired_in_two_seconds(tmp_path):
    """0.1 s on an idle core."""
    for folder, word in (("images", "bus"), ("masks", "mask")):
        (tmp_path / folder).mkdir()
        for i in range(2000):
            open(f"{tmp_path}/{folder}/{word}_{i:05d}-l.png", "x").close()
    start = time.process_time()
    pictures, strays = list_pictures(tmp_path)
    layout = understand_layout(pictures, tmp_path)
    assert time.process_time() - start < 2
    assert (len(layout.masks), layout.lone, layout.strays, strays) == (2000, [], [], [])
    assert all(image.name[4:] == mask.name[5:] for image, (mask,) in layout.masks.items())
