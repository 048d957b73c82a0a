"""Forty folders as people have them, invented by somebody who did not write the reader.

Each function builds one and says what is right: which lesions come out (with classes, patients and parts), or that one
line names a file, and which flag then gives them. A case may end in several right ways; it is wrong if none holds. The
number of a picture is known from its pixels, whatever it is called.
"""

import base64
import io
import json
import unicodedata
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from import_cases import H, Imported, W, dicom, lesion, pairs, png, scan, white
from PIL import Image

PARTS = {0: "train", 1: "train", 2: "train", 3: "train", 4: "val", 5: "test"}
CROP = slice(2, 38), slice(6, 54)
LEAVE_OUT = ("--unmasked", "leave-out")


class Read(NamedTuple):
    """What is right if the folder is read."""

    masks: dict[int, np.ndarray]  # by the number of the picture; 100 + k is picture k, cropped
    label: dict[int, tuple[str, ...]] = {}  # classes that are right; lesion where it is not said
    patients: dict[int, str] = {}  # of the same text: one patient; "": nobody
    unsaid: bool = False  # the patients may be left empty
    splits: dict[int, str] | None = None
    said: tuple[str, ...] = ()  # words of the printed lines
    least: float = 1  # IoU
    twice: bool = False  # a picture may be there twice


class Refused(NamedTuple):
    """What is right if it is not: one line that names a file of it."""

    words: tuple[str, ...] = ()
    flags: tuple = ()  # that give `then`
    then: Read | None = None
    also: tuple = ()  # flags with which it is refused as well


def lesions(*numbers: int) -> dict[int, np.ndarray]:
    return {k: lesion(k) for k in numbers}


FOUR, SIX = lesions(*range(4)), lesions(*range(6))


def picture(k: int) -> np.ndarray:
    return scan(k - 100)[CROP] if k >= 100 else scan(k)


def distance(name: str, found: Imported, k: int) -> float:
    a, b = found.images[name], picture(k)
    return float(abs(a.astype(int) - b).mean()) if a.shape == b.shape else np.inf


def read_wrong(found: Imported, right: Read) -> str:
    """What is wrong with what came out; "" if nothing is."""
    if found.code:
        return f"refused: {found.error.strip()}"
    numbers = {}
    for name in found.rows:
        far, numbers[name] = min((distance(name, found, k), k) for k in right.masks)
        if far > 6:
            return f"{name} should not be there"
    if missing := set(right.masks) - set(numbers.values()):
        return f"pictures {missing} are missing"
    if len(numbers) > len(right.masks) and not right.twice:
        return f"{len(numbers)} rows for {len(right.masks)} pictures"
    if len({name.casefold() for name in numbers}) < len(numbers):
        return "two names are one to Windows"
    if unsaid := [word for word in right.said if word not in found.said]:
        return f"nothing is said about {unsaid}: {found.said}"
    wrong = [w for name, k in numbers.items() if (w := row_wrong(found, name, k, right))]
    return wrong[0] if wrong else patients_wrong({k: found.rows[n]["patient"] for n, k in numbers.items()}, right)


def row_wrong(found: Imported, name: str, k: int, right: Read) -> str:
    mask, truth, row = found.lesions[name], right.masks[k], found.rows[name]
    iou = (mask & truth).sum() / (mask | truth).sum() if (mask | truth).any() else 1
    if iou < right.least:
        return f"{name}: {mask.sum()} lesion pixels for {truth.sum()}, IoU {iou:.2f}"
    if row["class"] not in (usual := right.label.get(k, ("lesion",) if truth.any() else ("normal",))):
        return f"{name} is {row['class']}, not {usual}"
    if right.splits is not None and row["split"] != right.splits[k]:
        return f"{name} is in part {row['split']!r}, not {right.splits[k]!r}"
    return ""


def patients_wrong(found: dict[int, str], right: Read) -> str:
    if not right.patients or (right.unsaid and not any(found.values())):
        return ""
    same = all((found[a] == found[b]) == (right.patients[a] == right.patients[b]) for a in found for b in found)
    named = all(bool(found[k]) == bool(right.patients[k]) for k in found)
    return "" if same and named else f"patients {found}"


def refused_wrong(root: Path, found: Imported, right: Refused, again) -> str:
    """What is wrong with a refusal; "" if nothing is."""
    lines = found.error.strip().splitlines()
    if not found.code:
        return f"not refused: {found.said}"
    if found.code != 1 or len(lines) != 1 or not lines[0].startswith("error: "):
        return f"not one line: {found.error}"
    if not any(path.name in lines[0].replace(str(root), "") for path in root.rglob("*") if path.is_file()):
        return f"names no file: {lines[0]}"
    if missing := [word for word in (*right.words, *right.flags[:1]) if word not in lines[0]]:
        return f"does not name {missing}: {lines[0]}"
    if right.then and (wrong := read_wrong(again(*right.flags), right.then)):
        return f"{lines[0]} With {right.flags}: {wrong}"
    if right.also and not (other := again(*right.also)).code:
        return f"{lines[0]} With {right.also}: {other.said}"
    return ""


def box(k):
    return [6 + 3 * k, 8, 26 + 3 * k, 8, 26 + 3 * k, 28, 6 + 3 * k, 28]


def boxed(k):
    mask = np.zeros((H, W), bool)
    mask[8:28, 6 + 3 * k : 26 + 3 * k] = True
    return mask


def coco(path, names, drawn):
    images = [{"id": i, "file_name": name, "height": H, "width": W} for i, name in enumerate(names)]
    found = [{"id": i, "image_id": i, "category_id": 1, "iscrowd": 0, "segmentation": [box(k)], "bbox": [6, 8, 20, 20],
              "area": 400} for i, k in enumerate(drawn) if k is not None]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    kinds = [{"id": 0, "name": "tumors", "supercategory": "none"}, {"id": 1, "name": "lesion"}]
    path.write_text(json.dumps({"images": images, "annotations": found, "categories": kinds}))


def second(k):
    mask = np.zeros((H, W), bool)
    mask[36:42, 40 + k : 52 + k] = True
    return mask


def rim(mask):
    inner = mask.copy()
    for axis in (0, 1):
        for step in (1, -1):
            inner &= np.roll(mask, step, axis)
    return mask & ~inner


class Folders:
    """Each function makes one in `d`, and returns the ends that are right."""

    def nnunet_without_test_labels(d):
        pairs(d, "imagesTr/BUS_{:03}_0000.png", "labelsTr/BUS_{:03}.png", range(4), draw=lambda m: m.astype(np.uint8))
        pairs(d, "imagesTs/BUS_{:03}_0000.png", "", (4, 5))
        labels = {"channel_names": {"0": "US"}, "labels": {"background": 0, "tumour": 1}, "file_ending": ".png"}
        (d / "dataset.json").write_text(json.dumps(labels))
        return Read(FOUR), Refused(("BUS_004_0000.png",), LEAVE_OUT, Read(FOUR))

    def nnunet_two_channels(d):
        """Elastography is channel 1."""
        pairs(d, "imagesTr/BUS_{:03}_0000.png", "labelsTr/BUS_{:03}.png", range(4), draw=lambda m: m.astype(np.uint8))
        for k in range(4):
            png(d / "imagesTr" / f"BUS_{k:03}_0001.png", scan(k + 20))
        return Read(FOUR), Refused(("_000",))

    def roboflow_coco_with_an_image_marked_null(d):
        for part, numbers in (("train", range(4)), ("valid", (4, 5)), ("test", (6,))):
            names = [f"bus_{k}_png.rf.{k}a1b2c3d4.jpg" for k in numbers]
            for k, name in zip(numbers, names, strict=True):
                png(d / part / name, scan(k), quality=95)
            coco(d / part / "_annotations.coco.json", names, [k if k != 5 else None for k in numbers])
        (d / "README.roboflow.txt").write_text("x")
        parts = dict(enumerate(["train"] * 4 + ["val"] * 2 + ["test"]))
        masks = {k: boxed(k) if k != 5 else boxed(k) & False for k in range(7)}
        return (Refused(("bus_5_png",), ("--unmasked", "normal"), Read(masks, splits=parts, least=0.9)),)

    def roboflow_png_masks(d):
        for k, part in PARTS.items():
            part = part.replace("val", "valid")
            png(d / part / f"bus_{k}_jpg.rf.0{k}ff.jpg", scan(k), quality=95)
            png(d / part / f"bus_{k}_jpg.rf.0{k}ff_mask.png", lesion(k).astype(np.uint8))
            (d / part / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, lesion\n")
        return (Read(SIX, splits=PARTS),)

    def yolo(d):
        for k in range(6):
            part = "train" if k < 4 else "val"
            png(d / "images" / part / f"{k}.png", scan(k))
            (d / "labels" / part).mkdir(parents=True, exist_ok=True)
            (d / "labels" / part / f"{k}.txt").write_text("0 0.2 0.2 0.5 0.2 0.5 0.6\n")
        (d / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [lesion]\n")
        return (Refused((".txt",), also=("--unmasked", "normal")),)

    def cvat_xml(d):
        pairs(d, mask="", numbers=range(4))
        text = '<image id="0" name="0.png"><polygon label="lesion" points="1,1;9,1;9,9"/></image>'
        (d / "annotations.xml").write_text(f"<annotations>{text}</annotations>")
        return (Refused((".xml",), also=("--unmasked", "normal")),)

    def labelme_masks_drawn_with_its_ai_tool(d):
        """LabelMe 5: shape_type mask, its pixels as a PNG in base64, from the first to the last point."""
        for k in range(4):
            png(d / f"{k}.png", scan(k))
            rows, columns = (np.flatnonzero(lesion(k).any(axis)) for axis in (1, 0))
            cut = lesion(k)[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            Image.fromarray(cut).save(stream := io.BytesIO(), "PNG")
            points = [[int(columns[0]), int(rows[0])], [int(columns[-1]), int(rows[-1])]]
            drawn = base64.b64encode(stream.getvalue()).decode()
            shape = {"label": "lesion", "shape_type": "mask", "points": points, "mask": drawn}
            record = {"version": "5.4.1", "shapes": [shape], "imagePath": f"{k}.png", "imageHeight": H, "imageWidth": W}
            (d / f"{k}.json").write_text(json.dumps(record))
        return Read(FOUR), Refused((".json",))

    def supervisely(d):
        (d / "p" / "ds0" / "ann").mkdir(parents=True)
        for k in range(4):
            png(d / "p" / "ds0" / "img" / f"{k}.png", scan(k))
            corners = np.reshape(box(k), (4, 2)).tolist()
            drawn = {"classTitle": "lesion", "geometryType": "polygon", "points": {"exterior": corners, "interior": []}}
            record = {"size": {"height": H, "width": W}, "objects": [drawn]}
            (d / "p" / "ds0" / "ann" / f"{k}.png.json").write_text(json.dumps(record))
        (d / "p" / "meta.json").write_text(json.dumps({"classes": [{"title": "lesion", "shape": "polygon"}]}))
        right = Read({k: boxed(k) for k in range(4)}, least=0.9)
        return right, Refused((".json",), also=("--unmasked", "normal"))

    def coco_whose_parts_number_anew(d):
        for part, start in (("train", 0), ("val", 3)):
            for k in range(3):
                png(d / f"{part}2017" / f"{k:06}.png", scan(start + k))
            path = d / "annotations" / f"instances_{part}2017.json"
            coco(path, [f"{k:06}.png" for k in range(3)], range(start, start + 3))
        parts = {k: "train" if k < 3 else "val" for k in range(6)}
        return Read({k: boxed(k) for k in range(6)}, splits=parts, least=0.9), Refused((".json",))

    def cellpose_numbers_in_16_bits(d):
        for k in range(4):
            png(d / "images" / f"{k}.png", scan(k))
            png(d / "masks" / f"{k}_masks.png", lesion(k).astype(np.uint16) + 2 * second(k).astype(np.uint16))
        both = Read({k: lesion(k) | second(k) for k in range(4)})
        return (Refused(("_masks.png",), ("--mask-values", "all"), both),)

    def half_of_the_masks_inverted(d):
        for k in range(6):
            png(d / "images" / f"{k}.png", scan(k))
            png(d / "masks" / f"{k}.png", white(lesion(k) ^ (k % 2 > 0)))
        return Read(SIX), Refused((".png",))

    def probability_maps(d):
        masks = {}
        for k in range(4):
            y, x = np.mgrid[:H, :W]
            far = np.hypot((x - 30 - k) / 14, (y - 22) / 10)
            values = (255 / (1 + np.exp(3 * (far - 1)))).astype(np.uint8)
            masks[k] = values > 127
            png(d / "images" / f"{k}.png", scan(k))
            png(d / "masks" / f"{k}.png", values)
        return Read(masks, least=0.95), Refused()

    def cut_outs_with_transparent_surroundings(d):
        """The scan itself, with alpha where the lesion is, as Photoshop saves a selection."""
        for k in range(4):
            png(d / "images" / f"{k}.png", scan(k))
            png(d / "masks" / f"{k}.png", np.dstack([*[scan(k)] * 3, white(lesion(k))]))
        return Read(FOUR), Refused()

    def contours_that_are_not_filled(d):
        pairs(d, numbers=range(4), draw=lambda m: white(rim(m)))
        return Read(FOUR), Refused()

    def contours_drawn_on_the_scan(d):
        for k in range(4):
            png(d / "images" / f"{k}.png", scan(k))
            drawn = np.dstack([scan(k)] * 3)
            drawn[rim(lesion(k))] = 255, 0, 0
            png(d / "annotations" / f"{k}.png", drawn)
        return Read(FOUR), Refused()

    def slicer_segments(d):
        sitk = pytest.importorskip("SimpleITK")
        (d / "masks").mkdir(parents=True)
        for k in range(4):
            png(d / "images" / f"{k}.png", scan(k))
            volume = sitk.GetImageFromArray((lesion(k) + 2 * second(k)).astype(np.uint8)[None])
            for number, name in enumerate(("lesion", "shadow")):
                volume.SetMetaData(f"Segment{number}_Name", name)
                volume.SetMetaData(f"Segment{number}_LabelValue", str(number + 1))
            sitk.WriteImage(volume, str(d / "masks" / f"{k}.seg.nrrd"))
        return tuple(Refused((), flag, Read(FOUR)) for flag in (("--mask-values", "1"), ("--segment", "lesion")))

    def tissue_everywhere_and_a_legend(d):
        for k in range(4):
            png(d / "images" / f"{k}.png", scan(k))
            colours = np.full((H, W, 3), (0, 0, 255), np.uint8)
            colours[30:], colours[lesion(k)] = (0, 255, 0), (255, 0, 0)
            png(d / "masks" / f"{k}.png", colours)
        (d / "label_colors.txt").write_text("0 0 255 fat\n0 255 0 gland\n255 0 0 lesion\n")
        return (Refused((), ("--mask-values", "#ff0000"), Read(FOUR)),)

    def patient_folders_of_equal_names(d):
        for k in range(4):
            pairs(d, f"Patient_{k:02}/US.png", f"Patient_{k:02}/mask.png", [k])
        return (Read(FOUR, patients={k: str(k) for k in range(4)}),)

    def patient_date_series_with_umlauts(d):
        for k in range(4):
            place = f"{('Müller, Jörg', 'Weiß Änne')[k // 2]}/2021-03-0{k // 2 + 4}/Serie 1/{k % 2 + 1}"
            pairs(d, place + ".png", place + "_mask.png", [k])
        return (Read(FOUR, patients={k: str(k // 2) for k in range(4)}, unsaid=True),)

    def bilder_und_masken(d):
        pairs(d, "Bilder/Läsion {} (links).PNG", "Masken/Läsion {} (links).png", range(4))
        return Read(FOUR), Refused((), ("--mask-folder", "Masken"), Read(FOUR))

    def a_zip_with_the_systems_leftovers(d):
        source = pairs(d.parent / "source" / "US Daten", numbers=range(4))
        for k in range(4):
            png(source / "images" / "@eaDir" / f"{k}.png" / "SYNOFILE_THUMB_M.png", scan(k)[::2, ::2])
        for name in ("Thumbs.db", "desktop.ini", ".DS_Store"):
            (source / "images" / name).write_bytes(b"x")
        d.mkdir()
        with zipfile.ZipFile(d / "Daten.zip", "w") as archive:
            for path in sorted(p for p in source.rglob("*") if p.is_file()):
                archive.write(path, path.relative_to(source.parent))
                hidden = path.relative_to(source.parent).with_name(f"._{path.name}")
                archive.writestr(f"__MACOSX/{hidden}", b"\0\5\x16\7")
        return (Read(FOUR),)

    def each_mask_called_in_another_way(d):
        for k, name in enumerate(("{}_seg.png", "{}-annot.bmp", "GT_{}.png", "{}_label.tif")):
            pairs(d, f"IMG-{k:04}.png", name.format(f"IMG-{k:04}"), [k])
        return Read(FOUR), Refused(("--table",))

    def names_that_differ_in_capitals(d):
        for k, name in enumerate(("scan_a", "scan_A", "scan_b", "scan_B")):
            pairs(d, f"images/{name}.png", f"masks/{name}.png", [k])
        return Read(FOUR), Refused(("scan_",))

    def a_last_number_that_is_another_image(d):
        """P1_1 is the second image of P1; its mask was saved as P1_mask_1, as a second lesion of P1 would be."""
        for k, (image, mask) in enumerate((("P1", "P1_mask"), ("P1_1", "P1_mask_1"), ("P2", "P2_mask"))):
            pairs(d, f"{image}.png", f"{mask}.png", [k])
        right = Read(lesions(0, 1, 2))
        return right, Refused(("P1",), also=LEAVE_OUT), Refused((), LEAVE_OUT, right)

    def classes_that_number_anew_with_masks_in_one_folder(d):
        for k in range(4):
            png(d / "images" / ("benign", "malignant")[k // 2] / f"{k % 2}.png", scan(k))
        pairs(d, "images/benign/{}.png", numbers=(0, 1))
        return (Refused((".png",)),)

    def a_copy_of_everything(d):
        pairs(d / "Daten", numbers=range(4))
        pairs(d / "Daten - Kopie", numbers=range(4))
        return Read(FOUR, twice=True, said=("equal",)), Refused(("Kopie",))

    def folds_as_folders(d):
        for fold in (1, 2):
            for k in range(4):
                part = "val" if k // 2 + 1 == fold else "train"
                pairs(d, f"fold{fold}/{part}/images/{{}}.png", f"fold{fold}/{part}/masks/{{}}.png", [k])
        return Read(FOUR, splits=dict.fromkeys(range(4), "")), Refused(("fold",))

    def two_readers_in_one_folder(d):
        for k in range(4):
            pairs(d, "{}.png", "{}_mask_JM.png", [k])
            png(d / f"{k}_mask_KT.png", white(np.roll(lesion(k), 5, 1)))
        rows = [f"d/{k}.png,d/{k}_mask_JM.png" for k in range(4)]
        (d.parent / "pairs.csv").write_text("\n".join(["image,mask", *rows]))
        return (Refused((), ("--table", d.parent / "pairs.csv"), Read(FOUR)),)

    def predictions_and_overlays_of_another_program(d):
        pairs(d, "{}.png", "{}_mask.png", range(4))
        for k in range(4):
            png(d / f"{k}_pred.png", white(np.roll(lesion(k), 5, 1)))
            png(d / f"{k}_vis.jpg", np.dstack([scan(k), scan(k) // 2, scan(k) // 2]))
        return Read(FOUR, said=("passed over",)), Refused(("0_",), LEAVE_OUT, Read(FOUR))

    def a_folder_not_annotated_yet(d):
        pairs(d / "labeled", numbers=range(4))
        pairs(d, "unlabeled/{}.png", "", range(4, 7))
        return Read(FOUR, said=("unlabeled",)), Refused(("unlabeled",), LEAVE_OUT, Read(FOUR))

    def parts_as_lists(d):
        """train.csv, val.csv and test.csv, as many training scripts want them."""
        pairs(d, numbers=PARTS)
        for part in ("train", "val", "test"):
            rows = [f"images/{k}.png,masks/{k}.png" for k, p in PARTS.items() if p == part]
            (d / f"{part}.csv").write_text("\n".join(["image,mask", *rows]))
        return Read(SIX, splits=PARTS), Read(SIX, said=("train.csv", "split")), Refused((".csv",))

    def a_german_list_from_excel(d):
        pairs(d, numbers=range(6))
        rows = [f"{k + 1};{k}.png;P-{k // 2};{('gutartig', 'bösartig')[k // 4]}" for k in range(6)]
        text = "\r\n".join(["Nr;Bilddatei;Patienten-ID;Dignität", *rows])
        (d / "Patientenliste.csv").write_text(text, encoding="utf-8-sig")
        label = {k: ("lesion", ("benign", "malignant")[k // 4]) for k in range(6)}
        right = Read(SIX, label, {k: str(k // 2) for k in range(6)})
        asked, named = ("--patient-column", "Patienten-ID"), ("Patientenliste.csv",)
        return right, Refused(named, asked, right), right._replace(said=named, unsaid=True)

    def one_patient_spelt_in_three_ways(d):
        pairs(d, numbers=range(6))
        name = "Müller, Anna"
        cells = [name, unicodedata.normalize("NFD", name), "Müller,\u00a0Anna", "Weiß, Änne", "-", "n/a"]
        (d / "meta.csv").write_text("\n".join(["image;patient", *(f"{k}.png;{c}" for k, c in enumerate(cells))]))
        return (Read(SIX, patients=dict(enumerate(["a", "a", "a", "b", "", ""]))),)

    def a_spreadsheet_and_videos(d):
        pairs(d, numbers=range(4))
        for name in ("patients.xlsx", "~$patients.xlsx", "videos/clip 1.mp4", "videos/clip 2.AVI", "report.pdf"):
            (d / name).parent.mkdir(exist_ok=True)
            (d / name).write_bytes(b"PK\3\4")
        return (Read(FOUR, said=(".mp4", "patients.xlsx")),)

    def dicom_without_endings(d):
        for k in range(4):
            place = f"PAT{k // 2:03}/ST0/SE0/IM{k % 2}"
            dicom(d / place, scan(k), PatientID=f"secret{k}")
            png(d / f"{place}_mask.png", white(lesion(k)))
        return (Read(FOUR, patients={k: str(k // 2) for k in range(4)}, unsaid=True),)

    def a_cine_with_one_mask(d):
        pairs(d, numbers=range(4))
        dicom(d / "images" / "cine.dcm", np.stack([scan(k) for k in range(4, 9)]), NumberOfFrames=5)
        png(d / "masks" / "cine.png", white(lesion(6)))
        return (Refused(("cine.dcm",)),)

    def links_as_git_annex_makes_them(d):
        pairs(d / ".git/annex/objects", "images/SHA256E-s9--{}a.png", "masks/SHA256E-s7--{}f.png", range(4))
        for folder, name in (("images", "SHA256E-s9--{}a.png"), ("masks", "SHA256E-s7--{}f.png")):
            (d / folder).mkdir()
            for k in range(4):
                (d / folder / f"{k}.png").symlink_to(f"../.git/annex/objects/{folder}/{name.format(k)}")
        return (Read(FOUR),)

    def jpegs_that_exif_turns_with_upright_masks(d):
        for k in range(4):
            exif = Image.Exif()
            exif[274] = 6
            png(d / "images" / f"{k}.jpg", np.ascontiguousarray(np.rot90(scan(k))), quality=95, exif=exif)
            png(d / "masks" / f"{k}.png", white(lesion(k)))
        return (Read(FOUR, said=("EXIF",)),)

    def the_plain_form_within_its_source(d):
        pairs(d, numbers=range(4))
        assert not Imported(d, cwd=d.parent, output="d/mine").code
        return Read(FOUR), Refused(("mine",))

    def crops_beside_their_images(d):
        pairs(d, "{}.png", "{}_mask.png", range(4))
        for k in range(4):
            png(d / f"{k}_crop.png", scan(k)[CROP])
            png(d / f"{k}_crop_mask.png", white(lesion(k)[CROP]))
        crops = {100 + k: lesion(k)[CROP] for k in range(4)}
        return (Read(FOUR | crops),)


@pytest.mark.parametrize("case", [case for name, case in vars(Folders).items() if name[0] != "_"])
def test_a_foreign_folder_is_right_or_refused(case, tmp_path):
    root, runs = tmp_path / "d", iter(range(9))
    rights = case(root)

    def again(*flags):
        sources = () if "--table" in flags else (root,)
        return Imported(*sources, *flags, cwd=tmp_path, output=f"again{next(runs)}")

    found = Imported(root, cwd=tmp_path)
    wrong = [read_wrong(found, right) if isinstance(right, Read) else refused_wrong(root, found, right, again)
             for right in rights]  # fmt: skip
    assert "" in wrong, "\n".join(wrong)
