"""Folders that used to be guessed at: each ends right, or with one line that names a file and the flag that decides."""

import shutil
import zlib

import numpy as np
import pytest
from import_cases import Imported, N, dicom, lesion, pairs, png, scan, tiff, white
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset


def part(k: int) -> str:
    return "train" if k < 4 else "val" if k < 6 else "test"


# ---------------------------------------------------------------- 1, 15: the folder's own split


@pytest.mark.parametrize(
    ("image", "mask", "words"),
    [
        ("{p}/images/{k}.png", "{p}/masks/{k}.png", {}),
        ("images/{p}/{k}.png", "masks/{p}/{k}.png", {}),
        ("{p}_images/{k}.png", "{p}_masks/{k}.png", {}),
        ("{p}/{k}.png", "{p}/{k}_mask.png", {}),
        ("{p} set/images/{k}.png", "{p} set/labels/{k}.png", {"val": "Validation", "train": "Training"}),
        ("images{p}/us_{k:03}_0000.png", "labels{p}/us_{k:03}.png", {"train": "Tr", "val": "Tr", "test": "Ts"}),
    ],
)
def test_1_the_folders_own_parts_are_kept(image, mask, words, tmp_path):
    for k in range(N):
        p = words.get(part(k), part(k))
        pairs(tmp_path / "d", image.format(p=p, k=k), mask.format(p=p, k=k), [k])
    found = Imported(tmp_path / "d", cwd=tmp_path)
    same = found.right(number=lambda name: int(name.split("_")[1] if "us_" in name else name.split(".")[0][-1]))
    assert same, found.error
    expected = {k: "train" if words.get("val") == "Tr" and part(k) == "val" else part(k) for k in range(N)}
    order = {name: row["split"] for name, row in found.rows.items()}
    assert sorted(order.values()) == sorted(expected.values()) and "given parts" in found.said


@pytest.mark.parametrize("column", ["split", "Subset", "fold"])
def test_1_parts_of_a_table_are_kept_by_name(column, tmp_path):
    pairs(tmp_path / "d")
    names = {"train": "Train", "val": "validation", "test": "TEST"}
    rows = [f"{k}.png,{names[part(k)]}" for k in range(N)]
    (tmp_path / "d" / "meta.csv").write_text("\n".join([f"image,{column}", *rows]))
    found = Imported(tmp_path / "d", cwd=tmp_path)
    assert found.right() and {name: row["split"] for name, row in found.rows.items()} == {
        str(k): part(k) for k in range(N)
    }


def test_1_folds_of_one_source_and_parts_of_another_are_both_kept(tmp_path):
    pairs(tmp_path / "a")
    (tmp_path / "a" / "meta.csv").write_text("\n".join(["image,fold", *(f"{k}.png,{k % 3}" for k in range(N))]))
    for k in range(N, 2 * N):
        pairs(tmp_path / "b", f"{part(k - N)}/images/{k}.png", f"{part(k - N)}/masks/{k}.png", [k])
    found = Imported(tmp_path / "a", tmp_path / "b", cwd=tmp_path)
    for k in range(2 * N):
        held = ("", str(k % 3)) if k < N else (part(k - N), "")
        assert (found.rows[str(k)]["split"], found.rows[str(k)]["fold"]) == held


# ---------------------------------------------------------------- 2: patients


@pytest.mark.parametrize(
    "column", ["Patient ID", "Patient-ID", "Case ID", "patient_name", "subject", "PatientNr. (anon)"]
)
def test_2_patients_by_any_usual_column(column, tmp_path):
    pairs(tmp_path / "d")
    cells = ["7", " 7.0", "007 ", "P1", "p1", "NA", "unknown", ""]
    (tmp_path / "d" / "clinical.csv").write_text(
        "\n".join([f"image,{column}", *(f"{k},{c}" for k, c in enumerate(cells))])
    )
    found = Imported(tmp_path / "d", cwd=tmp_path)
    assert [found.rows[str(k)]["patient"] for k in range(N)] == ["7", "7", "7", "P1", "P1", "", "", ""]
    assert "2, and 3 images of nobody known" in found.said


def test_2_a_column_or_the_names_can_be_named(tmp_path):
    for k in range(N):
        pairs(tmp_path / "d", f"images/{'ABCD'[k // 2]}X_{k}.png", f"masks/{'ABCD'[k // 2]}X_{k}.png", [k])
    assert "--patient-column name" in (look := Imported(tmp_path / "d", cwd=tmp_path, output="")).said and not look.code
    found = Imported(tmp_path / "d", "--patient-column", "name", cwd=tmp_path)
    assert {row["patient"] for row in found.rows.values()} == {"AX", "BX", "CX", "DX"}
    (tmp_path / "d" / "meta.csv").write_text("image,woman\nAX_0,5\nAX_1,5\n")
    found = Imported(tmp_path / "d", "--patient-column", "Woman", cwd=tmp_path, output="second")
    assert [found.rows[name]["patient"] for name in ("AX_0", "AX_1", "BX_2")] == ["5", "5", ""]
    assert Imported(tmp_path / "d", "--patient-column", "lady", cwd=tmp_path, output="c").refused(
        "meta.csv", "lady", "woman"
    )


# ---------------------------------------------------------------- 3 to 6: grey values


@pytest.mark.parametrize(("top", "bits"), [(255, 16), (1023, 16), (4095, 16), (255, 12)])
def test_5_dicom_that_says_more_bits_than_it_has(top, bits, tmp_path):
    factor = (top + 1) // 256
    for k in range(N):
        elements = {"BitsStored": bits, "HighBit": bits - 1}
        pixels = scan(k).astype(np.uint16) * factor
        pixels[0, 0] = 255 * factor
        dicom(tmp_path / "d" / "images" / f"{k}.dcm", pixels, **elements)
        png(tmp_path / "d" / "masks" / f"{k}.png", white(lesion(k)))
    found = Imported(tmp_path / "d", cwd=tmp_path)
    assert all(np.count_nonzero(abs(found.images[str(k)].astype(int) - scan(k)) > 1) <= 1 for k in range(N))


def test_3_4_one_range_a_source(tmp_path):
    """12 bits in one folder, 16 in another: each has its own white."""
    for name, factor in (("a", 16), ("b", 257)):
        for k in range(4):
            png(
                tmp_path / name / "images" / f"{name}{k}.png", (scan(k + 10 * (name == "b")).astype(np.uint16) * factor)
            )
            png(tmp_path / name / "masks" / f"{name}{k}.png", white(lesion(k)))
    found = Imported(tmp_path / "a", tmp_path / "b", cwd=tmp_path)
    assert not found.code, found.error
    for name, image in found.images.items():
        assert abs(image.astype(int) - scan(int(name[1]) + 10 * (name[0] == "b"))).max() <= 1


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("turn", [1, 5, 6, 7, 8])
def test_6_tiff_is_upright_and_no_negative(turn, deep, tmp_path):
    stored = {
        1: lambda p: p,
        5: lambda p: p.T,
        6: np.rot90,
        7: lambda p: np.rot90(p, 2).T,
        8: lambda p: np.rot90(p, -1),
    }
    for k in range(N):
        pixels = np.ascontiguousarray(stored[turn](255 - scan(k)))
        pixels = pixels.astype(np.uint16) * 257 if deep else pixels
        tiff(tmp_path / "d" / "images" / f"{k}.tif", pixels, photometric=0, orientation=turn)
        png(tmp_path / "d" / "masks" / f"{k}.png", white(lesion(k)))
    png(tmp_path / "d" / "images" / "9.png", np.full((48, 64), 65535, np.uint16))
    png(tmp_path / "d" / "masks" / "9.png", white(lesion(9)))
    found = Imported(tmp_path / "d", cwd=tmp_path)
    assert all(abs(found.images[str(k)].astype(int) - scan(k)).max() <= 1 for k in range(N)), found.error


# ---------------------------------------------------------------- 7: own predictions


def test_7_own_predictions_are_left_out(tmp_path):
    pairs(tmp_path / "d", "{}.png", "{}_mask.png")
    for k in range(3):
        for ending in ("overlay.jpg", "mask.png", "probability.png"):
            png(tmp_path / "d" / "predictions" / f"{k}_{ending}", white(~lesion(k)))
    (tmp_path / "d" / "predictions" / "predictions.csv").write_text("file,name\n")
    found = Imported(tmp_path / "d", cwd=tmp_path)
    assert found.right() and "9 files are predictions of this project" in found.said


# ---------------------------------------------------------------- 8, 9: of which image


def test_8_a_table_over_two_hospitals_of_equal_names(tmp_path):
    for name in "AB":
        pairs(tmp_path / "d" / name, numbers=range(4))
        for k in range(4):
            png(tmp_path / "d" / name / "images" / f"{k}.png", scan(k + 10 * (name == "B")))
    (tmp_path / "d" / "meta.csv").write_text("image,patient\n0,1\n1,2\n2,3\n3,4\n")
    assert Imported(tmp_path / "d", cwd=tmp_path).refused("meta.csv", "0 may be", "A/images/0.png")
    rows = [f"{name}/images/{k}.png,{name}{k}" for name in "AB" for k in range(4)]
    (tmp_path / "d" / "meta.csv").write_text("\n".join(["image,patient", *rows]))
    assert {r["patient"] for r in Imported(tmp_path / "d", cwd=tmp_path).rows.values()} == {
        f"{n}{k}" for n in "AB" for k in range(4)
    }
    (tmp_path / "d" / "meta.csv").rename(tmp_path / "d" / "A" / "meta.csv")
    (tmp_path / "d" / "A" / "meta.csv").write_text("image,patient\n0,1\n1,2\n2,3\n3,4\n")
    found = Imported(tmp_path / "d", cwd=tmp_path, output="third")
    assert {name: r["patient"] for name, r in found.rows.items() if r["patient"]} == {
        f"a {k}": str(k + 1) for k in range(4)
    }


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("hospA_{:03}.png", "hospB_{:03}_mask.png"), ("images/P{}_L.png", "masks/P{}_R.png"),
        ("images/malignant_{}.png", "masks/benign_{}.png"), ("images/case_{}.png", "masks/mask_{}.png"),
        ("giza/images/{}.png", "lima/masks/{}.png"), ("images/giza/{}.png", "masks/lima/{}.png"),
        ("images/P{}_1.png", "masks/P{}_2.png"), ("images/a{}.png", "masks/b{}.png"),
    ],
)  # fmt: skip
def test_9_other_words_do_not_pair(image, mask, tmp_path):
    pairs(tmp_path / "d", image, mask)
    assert Imported(tmp_path / "d", cwd=tmp_path).refused("--table")


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("Images/bus_{:04}-l.png", "Masks/mask_{:04}-l.png"), ("im_{}.png", "gt_{}.png"), ("{}.png", "{}_mask.png"),
        ("original/{:06}.png", "GT/{:06}.png"), ("images/US{}.png", "masks/US{}_lesion.png"),
        ("{}_image.png", "{}_mask.png"), ("images/{}.png", "masks/{}_1.png"), ("scans/{}.png", "labels/{}.png"),
        ("images/{}.png", "masks/{}/object_1.png"),
    ],
)  # fmt: skip
def test_9_words_for_image_and_mask_do(image, mask, tmp_path):
    pairs(tmp_path / "d", image, mask, range(1, 9))
    found = Imported(tmp_path / "d", cwd=tmp_path)
    assert found.right(), found.error


# ---------------------------------------------------------------- 10, 11: without a mask


@pytest.mark.parametrize("blank", [False, True])
def test_10_images_without_a_lesion_are_asked_for(blank, tmp_path):
    pairs(tmp_path / "d")
    for k in range(20, 24):
        png(tmp_path / "d" / "images" / f"{k}.png", scan(k))
        if blank:
            png(tmp_path / "d" / "masks" / f"{k}.png", white(lesion(k) & False))
    assert Imported(tmp_path / "d", cwd=tmp_path).refused(
        "20.png", "4 of 12", "--unmasked normal", "--unmasked leave-out"
    )
    assert Imported(tmp_path / "d", "--unmasked", "leave-out", cwd=tmp_path).right()
    found = Imported(tmp_path / "d", "--unmasked", "normal", cwd=tmp_path, output="other")
    assert [found.rows[str(k)]["class"] for k in (7, 20)] == ["lesion", "normal"] and not found.lesions["20"].any()


@pytest.mark.parametrize("where", ["normal/images/n{}.png", "images/normal/n{}.png", "images/normal ({}).png"])
def test_10_normal_in_a_name_is_enough(where, tmp_path):
    pairs(tmp_path / "d")
    pairs(tmp_path / "d", where, "", range(20, 22))
    found = Imported(tmp_path / "d", cwd=tmp_path)
    assert sorted(r["class"] for r in found.rows.values()) == ["lesion"] * N + ["normal"] * 2, found.error


@pytest.mark.parametrize("name", ["Copy of {}.png", "overlay_{}.png", "{}_overlay.png", "{} copy.png"])
def test_10_copies_are_no_normals(name, tmp_path):
    pairs(tmp_path / "d", "images/scan{}.png", "masks/scan{}.png")
    png(tmp_path / "d" / "images" / name.format("scan1"), scan(40))
    assert Imported(tmp_path / "d", "--unmasked", "normal", cwd=tmp_path).refused("named after", "scan1")


def test_10_equal_pixels_with_and_without_a_lesion(tmp_path):
    pairs(tmp_path / "d")
    png(tmp_path / "d" / "images" / "zzz.png", scan(3))
    assert Imported(tmp_path / "d", "--unmasked", "normal", cwd=tmp_path).refused("zzz.png", "3.png", "same pixels")


@pytest.mark.parametrize("ending", ["gif", "webp", "nii.gz", "json", "mat", "svg"])
def test_11_masks_partly_of_another_kind(ending, tmp_path):
    root = pairs(tmp_path / "d", numbers=range(6))
    for k in (6, 7):
        png(root / "images" / f"{k}.png", scan(k))
        path = root / "masks" / f"{k}.{ending}"
        if ending in ("gif", "webp"):
            png(path, white(lesion(k)), **({"lossless": True} if ending == "webp" else {}))
        else:
            path.write_bytes(b"\x1f\x8b")
    found = Imported(root, "--unmasked", "normal", cwd=tmp_path)
    assert found.right() if ending in ("gif", "webp") else found.refused(f"6.{ending}"), found.error


# ---------------------------------------------------------------- 12, 13: which mask


@pytest.mark.parametrize(
    "folders", [("masks/lesion", "masks/gland"), ("masks_reader1", "masks_reader2"), ("masks/A", "masks/B")]
)
@pytest.mark.parametrize("half", [False, True])
def test_12_two_sorts_of_masks_are_asked_for(folders, half, tmp_path):
    pairs(tmp_path / "d", mask=folders[0] + "/{}.png", numbers=range(4 if half else N))
    pairs(tmp_path / "d", mask=folders[1] + "/{}.png", numbers=range(4 * half, N), draw=lambda m: white(~m))
    assert Imported(tmp_path / "d", cwd=tmp_path).refused("--mask-folder", *folders) or half
    if not half:
        assert Imported(tmp_path / "d", "--mask-folder", folders[0], cwd=tmp_path).right()


def test_12_class_ids_are_asked_for(tmp_path):
    def draw(mask):
        return np.where(mask, 3, np.where(np.arange(64) > 50, 2, np.where(np.arange(48)[:, None] < 4, 1, 0))).astype(
            np.uint8
        )

    pairs(tmp_path / "d", draw=draw)
    assert Imported(tmp_path / "d", cwd=tmp_path).refused("0.png", "1, 2 and 3", "--mask-values")
    assert Imported(tmp_path / "d", "--mask-values", "3", cwd=tmp_path).right()
    assert all(m.sum() > lesion(0).sum() for m in Imported(
        tmp_path / "d", "--mask-values", "all", cwd=tmp_path, output="all").lesions.values())  # fmt: skip


def test_12_colours_can_be_named(tmp_path):
    def draw(mask):
        colours = np.zeros((48, 64, 3), np.uint8)
        colours[mask], colours[40:] = (255, 0, 0), (0, 0, 255)
        return colours

    pairs(tmp_path / "d", draw=draw)
    assert Imported(tmp_path / "d", cwd=tmp_path).refused("0.png", "(255, 0, 0)", "--mask-values #")
    assert Imported(tmp_path / "d", "--mask-values", "#ff0000", cwd=tmp_path).right()


@pytest.mark.parametrize("draw", [lambda m: white(m | True), lambda m: np.full((48, 64, 3), (9, 99, 20), np.uint8)])
def test_12_masks_from_edge_to_edge_are_refused(draw, tmp_path):
    pairs(tmp_path / "d", draw=draw)
    assert Imported(tmp_path / "d", cwd=tmp_path).refused("0.png")


def segmentation(path, masks, labels=(), numbers=()):
    bits = np.packbits(np.stack(masks).ravel(), bitorder="little").tobytes()
    elements = {}
    if labels:
        sequence, frames = [], []
        for number, label in zip(numbers, labels, strict=True):
            item, frame, reference = Dataset(), Dataset(), Dataset()
            item.SegmentNumber, item.SegmentLabel = number, label
            reference.ReferencedSegmentNumber = number
            frame.SegmentIdentificationSequence = [reference]
            sequence.append(item), frames.append(frame)
        elements = {"SegmentSequence": sequence, "PerFrameFunctionalGroupsSequence": frames}
    dicom(path, white(masks[0]), BitsAllocated=1, BitsStored=1, HighBit=0, NumberOfFrames=len(masks), Modality="SEG",
          SegmentationType="BINARY", PixelData=bits + b"\0" * (len(bits) % 2), **elements)  # fmt: skip


def test_13_probabilities_of_segments_are_no_areas(tmp_path):
    pairs(tmp_path / "d", numbers=range(1, N))
    png(tmp_path / "d" / "images" / "0.png", scan(0))
    dicom(tmp_path / "d" / "masks" / "0.dcm", white(lesion(0)), Modality="SEG", SegmentationType="FRACTIONAL")
    assert Imported(tmp_path / "d", cwd=tmp_path).refused("0.dcm", "probabilities", "BINARY")


@pytest.mark.parametrize(("labels", "segment"), [(("Skin", "Lesion"), "lesion"), (("Skin", "Lesion"), "5"), ((), "2")])
def test_13_segments_are_asked_for(labels, segment, tmp_path):
    for k in range(N):
        png(tmp_path / "d" / "images" / f"{k}.png", scan(k))
        skin = np.zeros((48, 64), bool)
        skin[:5] = True
        segmentation(tmp_path / "d" / "masks" / f"{k}.dcm", [skin, lesion(k)], labels, (2, 5))
    assert Imported(tmp_path / "d", cwd=tmp_path).refused("0.dcm", "--segment")
    assert Imported(tmp_path / "d", "--segment", segment, cwd=tmp_path).right()


def test_13_one_segment_is_the_lesion(tmp_path):
    for k in range(N):
        png(tmp_path / "d" / "images" / f"{k}.png", scan(k))
        segmentation(tmp_path / "d" / "masks" / f"{k}.dcm", [lesion(k)])
    assert Imported(tmp_path / "d", cwd=tmp_path).right()


# ---------------------------------------------------------------- 14: twice


def test_14_equal_pictures_of_two_sources_are_kept_once(tmp_path):
    pairs(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    pairs(tmp_path / "b", numbers=range(8, 10))
    found = Imported(tmp_path / "a", tmp_path / "b", cwd=tmp_path)
    assert (
        len(found.rows) == 10
        and "8 pictures are in two sources, and kept once (b/images/0.png is a/images/0.png)" in found.said
    )
    assert Imported(tmp_path, tmp_path / "a", cwd=tmp_path, output="c").refused("Name each folder once")
    assert Imported(tmp_path / "a", tmp_path / "a", cwd=tmp_path, output="c").refused("Name each folder once")


# ---------------------------------------------------------------- 16, 17: EXIF and mm


def test_16_exif_is_said_and_can_be_ignored(tmp_path):
    for k in range(N):
        exif = Image.Exif()
        exif[274] = 3 if k < 3 else 1
        png(tmp_path / "d" / "images" / f"{k}.png", scan(k), exif=exif)
        png(tmp_path / "d" / "masks" / f"{k}.png", white(lesion(k)))
    assert "turns 3 images" in Imported(tmp_path / "d", cwd=tmp_path, output="").said
    assert Imported(tmp_path / "d", "--ignore-exif", cwd=tmp_path).right()


def test_16_a_quarter_turn_names_exif(tmp_path):
    pairs(tmp_path / "d")
    exif = Image.Exif()
    exif[274] = 6
    png(tmp_path / "d" / "images" / "3.png", scan(3), exif=exif)
    assert Imported(tmp_path / "d", cwd=tmp_path).refused("3.png", "--ignore-exif")
    assert Imported(tmp_path / "d", "--ignore-exif", cwd=tmp_path).right()


def region(delta):
    area = Dataset()
    area.RegionSpatialFormat = area.RegionDataType = 1
    area.RegionFlags = area.RegionLocationMinX0 = area.RegionLocationMinY0 = 0
    area.RegionLocationMaxX1, area.RegionLocationMaxY1 = 63, 47
    area.PhysicalUnitsXDirection = area.PhysicalUnitsYDirection = 3  # cm
    area.PhysicalDeltaX = area.PhysicalDeltaY = delta
    return {"SequenceOfUltrasoundRegions": [area]}


@pytest.mark.parametrize(
    ("elements", "mm"),
    [
        ({"PixelSpacing": [0.3, 0.2]}, ("0.3", "0.2")), ({"PixelSpacing": [1, 1]}, ("", "")),
        (region(0.05), ("0.5", "0.5")),
        ({"ImagerPixelSpacing": [1, 1]}, ("", "")), (region(1.0), ("", "")), (region(0.0005), ("", "")), ({}, ("", "")),
    ],
)  # fmt: skip
def test_17_mm(elements, mm, tmp_path):
    for k in range(N):
        dicom(tmp_path / "d" / "images" / f"{k}.dcm", scan(k), **elements)
        png(tmp_path / "d" / "masks" / f"{k}.png", white(lesion(k)))
    found = Imported(tmp_path / "d", cwd=tmp_path)
    assert found.right() and {(r["mm_row"], r["mm_column"]) for r in found.rows.values()} == {mm}
    assert ("8 images name a pixel size that is a placeholder" in found.said) == (mm == ("", "") and bool(elements))


# ---------------------------------------------------------------- 18, 19: names


def test_18_dicom_by_its_content(tmp_path):
    names = ["1.2.840.1", "1.2.840.2", "US.3", "US.4", "x5.IMA", "x6.dic", "IM7", "8.dcm"]
    for k, name in enumerate(names, 1):
        dicom(tmp_path / "d" / "images" / "PA0" / name, scan(k))
        png(tmp_path / "d" / "masks" / "PA0" / f"{name.split('.')[0] if k > 4 else name}.png", white(lesion(k)))
    index = tmp_path / "d" / "images" / "DICOMDIR"
    dicom(index, scan(0))
    index.write_bytes(
        index.read_bytes().replace(b"1.2.840.10008.5.1.4.1.1.6.1\0", b"1.2.840.10008.1.3.10\0\0\0\0\0\0\0\0")
    )
    found = Imported(tmp_path / "d", cwd=tmp_path)
    assert found.right(number=lambda name: int(name[-1])), found.error
    assert "PID" not in (tmp_path / "plain" / "meta.csv").read_text() and "passed over" in found.said


@pytest.mark.parametrize("name", ["d.tar.gz", "d.rar", "d.7z"])
def test_19_archives_are_named(name, tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / name).write_bytes(b"Rar!")
    assert Imported(tmp_path / "d", cwd=tmp_path).refused(name, "Unpack it")
    assert Imported(tmp_path / "d" / name, cwd=tmp_path).refused(name, "unpack")


def test_19_a_mask_for_each_object(tmp_path):
    for k in range(N):
        png(tmp_path / "d" / "images" / f"{k}.png", scan(k))
        for half, rows in enumerate((slice(0, 15), slice(15, None)), 1):
            mask = np.zeros((48, 64), bool)
            mask[rows] = lesion(k)[rows]
            png(tmp_path / "d" / "masks" / f"{k}_obj{half}.png", white(mask))
    assert Imported(tmp_path / "d", cwd=tmp_path).right()


def test_19_a_table_always_works(tmp_path):
    rows = []
    for k in range(N):
        png(tmp_path / "d" / "x" / f"Anna{k}.png", scan(k))
        png(tmp_path / "d" / "y" / f"task-{9 - k}-by-1.png", white(lesion(k)))
        rows.append(f"x/Anna{k}.png,y/task-{9 - k}-by-1.png,p{k // 2},benign,{part(k)}")
    png(tmp_path / "d" / "x" / "8.png", scan(8))
    table = tmp_path / "d" / "pairs.csv"
    table.write_text("\n".join(["image,mask,patient,class,split", *rows, "x/8.png,,p9,normal,test"]))
    found = Imported("--table", table, cwd=tmp_path)
    assert len(found.rows) == 9 and found.rows["Anna3"]["split"] == "train" and found.rows["8"]["class"] == "normal"
    assert all(np.array_equal(found.lesions[f"Anna{k}"], lesion(k)) for k in range(N))
    both = Imported("--table", table, "--mask-folder", "y", cwd=tmp_path, output="b")
    assert both.code == 2 and "--mask-folder is for folders" in both.error
    table.write_text("image,mask\nx/8.png,y/none.png\n")
    assert Imported("--table", table, cwd=tmp_path, output="b").refused("pairs.csv, line 2", "y/none.png")


# ---------------------------------------------------------------- 21: a bomb


def test_21_a_deflated_bomb_is_refused(tmp_path):
    pairs(tmp_path / "d")
    path = dicom(tmp_path / "d" / "images" / "20.dcm", scan(0), uid.DeflatedExplicitVRLittleEndian)
    png(tmp_path / "d" / "masks" / "20.png", white(lesion(0)))
    head = path.read_bytes()
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = squeeze.compress(b"\x10\0\x10\0PN\0\0") + b"".join(squeeze.compress(bytes(1 << 20)) for _ in range(64))
    start = 144 + int.from_bytes(head[140:144], "little")
    body += squeeze.flush()
    lying = (len(body) + start - 144).to_bytes(4, "little")
    path.write_bytes(head[:140] + lying + head[144:start] + body)
    assert Imported(tmp_path / "d", cwd=tmp_path).refused("20.dcm", "inflates to more than")


# ---------------------------------------------------------------- others of these kinds


def test_a_patients_sex_is_no_patient(tmp_path):
    pairs(tmp_path / "d")
    rows = [f"{k}.png;F;50;n\xb0{k // 2}" for k in range(N)]
    text = "\n".join(["File name;Patient sex;Patient age;Case no.", *rows])
    for output, encoding in (("a", "utf-8"), ("b", "cp1252"), ("c", "utf-16")):
        (tmp_path / "d" / "list.csv").write_text(text, encoding=encoding)
        found = Imported(tmp_path / "d", cwd=tmp_path, output=output)
        assert [row["patient"] for row in found.rows.values()] == [f"n\xb0{k // 2}" for k in range(N)]


def test_masks_of_several_pages_are_refused(tmp_path):
    pairs(tmp_path / "d", numbers=range(7))
    png(tmp_path / "d" / "images" / "7.png", scan(7))
    tiff(tmp_path / "d" / "masks" / "7.tif", white(lesion(7)), white(lesion(1)))
    assert Imported(tmp_path / "d", cwd=tmp_path).refused("7.tif", "holds 2 masks")


@pytest.mark.parametrize("flag", [[], ["--unmasked", "normal"]])
def test_a_second_folder_of_the_same_images_is_no_set_of_normals(flag, tmp_path):
    pairs(tmp_path / "d")
    pairs(tmp_path / "d", "images_enhanced/{}.png", "")
    assert Imported(tmp_path / "d", *flag, cwd=tmp_path).refused("images_enhanced", ".png")


@pytest.mark.parametrize("text", ['{"shapes": []}', "[1, 2", "{}"])
def test_a_folder_without_pictures_is_one_line(text, tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.json").write_text(text)
    assert Imported(tmp_path / "d", cwd=tmp_path).refused("d")


def test_one_hospital_in_two_folders_is_one_by_its_name(tmp_path):
    for name, numbers in (("a", range(4)), ("b", range(4, 8))):
        pairs(tmp_path / name, numbers=numbers)
        rows = [f"{k},{k % 2},Giza" for k in numbers]
        (tmp_path / name / "meta.csv").write_text("\n".join(["image,patient,hospital", *rows]))
    found = Imported(tmp_path / "a", tmp_path / "b", cwd=tmp_path)
    assert {row["patient"] for row in found.rows.values()} == {"Giza: 0", "Giza: 1"}


def test_dicom_where_0_is_white(tmp_path):
    for k in range(N):
        elements = {"PhotometricInterpretation": "MONOCHROME1", "WindowCenter": 2048, "WindowWidth": 4096}
        dicom(tmp_path / "d" / "images" / f"{k}.dcm", (255 - scan(k)).astype(np.uint16) * 16, **elements)
        png(tmp_path / "d" / "masks" / f"{k}.png", white(lesion(k)))
    found = Imported(tmp_path / "d", cwd=tmp_path)
    assert all(abs(found.images[str(k)].astype(int) - scan(k)).max() <= 1 for k in range(N))


def test_inverted_and_compressed_masks(tmp_path):
    for k in range(N):
        png(tmp_path / "d" / "images" / f"{k}.png", scan(k))
        png(tmp_path / "d" / "masks" / f"{k}.png", white(~lesion(k)))
    assert Imported(tmp_path / "d", cwd=tmp_path).right()
