"""LabelMe, COCO, volumes, GIF and WebP through import_data.py, and what the plain form holds."""

import hashlib
import json
import zipfile

import numpy as np
import pytest
from import_cases import H, Imported, N, W, dicom, lesion, pairs, png, scan, white

BOX = [[10, 8], [30, 8], [30, 24], [10, 24]]


def boxed() -> np.ndarray:
    """What LabelMe makes of BOX: its edge belongs to it."""
    mask = np.zeros((H, W), bool)
    mask[8:25, 10:31] = True
    return mask


def labelme(path, shapes, size=(H, W), name="x.png"):
    record = {"shapes": shapes, "imagePath": name, "imageHeight": size[0], "imageWidth": size[1]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))


def shape(label="lesion", kind="polygon", points=BOX):
    return {"label": label, "shape_type": kind, "points": points}


@pytest.mark.parametrize(("kind", "points"), [("polygon", BOX), ("rectangle", [BOX[2], BOX[0]])])
@pytest.mark.parametrize("folder", ["", "annotations/"])
def test_labelme(kind, points, folder, tmp_path):
    for k in range(N):
        png(tmp_path / "d" / "images" / f"{k}.png", scan(k))
        labelme(
            tmp_path / "d" / (folder or "images") / f"{k}.json", [shape("Malignant", kind, points)], name=f"..\\{k}.png"
        )
    found = Imported(tmp_path / "d", cwd=tmp_path)
    assert all(np.array_equal(mask, boxed()) for mask in found.lesions.values()) and len(found.rows) == N
    assert {row["class"] for row in found.rows.values()} == {"malignant"}


def test_labelme_circle_and_two_labels(tmp_path):
    for k in range(N):
        png(tmp_path / "d" / f"{k}.png", scan(k))
        labelme(tmp_path / "d" / f"{k}.json", [shape(), shape("Gland", "circle", [[50, 30], [50, 36]])])
    assert Imported(tmp_path / "d", cwd=tmp_path).refused(".json", "lesion (8), gland (8)", "--segment")
    assert all(np.array_equal(mask, boxed()) for mask in Imported(
        tmp_path / "d", "--segment", "Lesion", cwd=tmp_path).lesions.values())  # fmt: skip
    values = Imported(tmp_path / "d", "--segment", "Lesion", "--mask-values", "200", cwd=tmp_path, output="b")
    assert values.refused("--mask-values: there are no masks, but outlines")
    (mask, *_) = Imported(tmp_path / "d", "--segment", "gland", cwd=tmp_path, output="b").lesions.values()
    assert abs(mask.sum() - np.pi * 36) < 20 and mask[30, 50]


@pytest.mark.parametrize(
    ("shapes", "size", "words"),
    [
        ([shape("a", "line", BOX[:2])], (H, W), "no area"), ([shape(points=[["a", 1]] * 3)], (H, W), "no area"),
        ([shape()], (W, H), "--ignore-exif"), ([shape()], (9, 9), "outlines a picture of 9x9"),
        ([], (H, W), "--unmasked"),
    ],
)  # fmt: skip
def test_labelme_that_cannot_be_read(shapes, size, words, tmp_path):
    for k in range(N):
        png(tmp_path / "d" / f"{k}.png", scan(k))
        labelme(tmp_path / "d" / f"{k}.json", shapes if k == 3 else [shape()], size if k == 3 else (H, W))
    assert Imported(tmp_path / "d", cwd=tmp_path).refused("3.", words)


def coco(path, segmentation, names, size=(H, W)):
    images = [{"id": 7 + k, "file_name": name, "height": size[0], "width": size[1]} for k, name in enumerate(names)]
    annotations = [{"id": k, "image_id": 7 + k, "category_id": 3, **segmentation(k)} for k in range(len(names))]
    categories = [{"id": 0, "name": "things"}, {"id": 3, "name": "Tumor"}]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def lengths(mask):
    """Run lengths, uncompressed: columns first, beginning with background."""
    flat = mask.ravel(order="F")
    ends = np.flatnonzero(np.diff(flat, prepend=False, append=flat[-1]))
    return np.diff([0, *ends, flat.size]).tolist()


def compressed(mask):
    from pycocotools import mask as tools

    return tools.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


@pytest.mark.parametrize("kind", [lengths, compressed])
def test_coco_run_lengths_of_roboflow(kind, tmp_path):
    """A JSON file in each part's folder, beside its pictures."""
    for part, numbers in (("train", range(4)), ("valid", range(4, 6)), ("test", range(6, 8))):
        for k in numbers:
            png(tmp_path / "d" / part / f"{k}.png", scan(k))
        drawn = [{"segmentation": {"size": [H, W], "counts": kind(lesion(k))}, "iscrowd": 1} for k in numbers]
        coco(tmp_path / "d" / part / "_annotations.coco.json", drawn.__getitem__, [f"{k}.png" for k in numbers])
    found = Imported(tmp_path / "d", cwd=tmp_path)
    assert found.right() and found.rows["5"]["split"] == "val"


def test_coco_polygons_and_boxes(tmp_path):
    pairs(tmp_path / "d", mask="")
    flat = [value for point in BOX for value in point]
    names = [f"some/where/{k}.png" for k in range(N)]
    coco(tmp_path / "d" / "instances.json", lambda k: {"segmentation": [flat]}, names)
    found = Imported(tmp_path / "d", cwd=tmp_path)
    assert all(abs(int(mask.sum()) - 20 * 16) < 8 and mask[16, 20] for mask in found.lesions.values())
    coco(tmp_path / "d" / "instances.json", lambda k: {"bbox": [1, 2, 3, 4], "segmentation": []}, names)
    assert Imported(tmp_path / "d", cwd=tmp_path, output="b").refused("instances.json", "a box and no outline")
    (tmp_path / "d" / "instances.json").write_text('{"images": [{"id": 1}], "annotations": []}')
    assert Imported(tmp_path / "d", cwd=tmp_path, output="b").refused("instances.json", "no COCO file")


@pytest.mark.parametrize("ending", ["nrrd", "seg.nrrd", "nii", "nii.gz", "mha"])
@pytest.mark.parametrize("images", [True, False])
def test_volumes(ending, images, tmp_path):
    sitk = pytest.importorskip("SimpleITK")

    def save(path, values):
        path.parent.mkdir(parents=True, exist_ok=True)
        volume = sitk.GetImageFromArray(values[None])
        volume.SetSpacing((0.2, 0.3, 1))
        sitk.WriteImage(volume, str(path))

    for k in range(N):
        save(tmp_path / "d" / "masks" / f"{k}.{ending}", lesion(k).astype(np.uint8))
        if images:
            save(tmp_path / "d" / "images" / f"{k}.{ending.removeprefix('seg.')}", scan(k))
        else:
            png(tmp_path / "d" / "images" / f"{k}.png", scan(k))
    found = Imported(tmp_path / "d", cwd=tmp_path)
    assert found.right(), found.error
    assert (found.rows["3"]["mm_row"], found.rows["3"]["mm_column"]) == (("0.3", "0.2") if images else ("", ""))


def test_volumes_that_are_no_picture(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    pairs(tmp_path / "d")
    turned = sitk.GetImageFromArray(scan(0)[None])
    turned.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))  # as nibabel writes an array of rows and columns
    sitk.WriteImage(turned, str(tmp_path / "d" / "images" / "8.nii"))
    png(tmp_path / "d" / "masks" / "8.png", white(lesion(8)))
    assert Imported(tmp_path / "d", cwd=tmp_path).refused("8.nii", "rows and columns exchanged")
    (tmp_path / "d" / "images" / "8.nii").unlink()
    (tmp_path / "d" / "masks" / "8.png").unlink()
    path = tmp_path / "d" / "images" / "9.nrrd"
    png(tmp_path / "d" / "masks" / "9.png", white(lesion(9)))
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, H, W), np.uint8)), str(path))
    assert Imported(tmp_path / "d", cwd=tmp_path).refused("9.nrrd", f"holds {W}x{H}x3")
    path.write_text("NRRD0004\ntype: uchar\ndimension: 2\nsizes: 64 48\nencoding: raw\ndata file: /etc/passwd\n\n")
    assert Imported(tmp_path / "d", cwd=tmp_path).refused("9.nrrd", "in another file")


@pytest.mark.parametrize("ending", ["gif", "webp"])
def test_gif_and_webp(ending, tmp_path):
    for k in range(N):
        for part, values in (("images", scan(k)), ("masks", white(lesion(k)))):
            png(tmp_path / "d" / part / f"{k}.{ending}", values, **({"lossless": True} if ending == "webp" else {}))
    assert Imported(tmp_path / "d", cwd=tmp_path).right()


# ---------------------------------------------------------------- the plain form


def test_the_plain_form(tmp_path):
    pairs(tmp_path / "d" / "benign", "b{}.png", "b{}_mask.png", range(3))
    pairs(tmp_path / "d" / "malignant", "m{}.png", "m{}_mask.png", range(3, 6))
    pairs(tmp_path / "d" / "normal", "n{}.png", "", range(6, 8))
    (tmp_path / "d" / "notes.txt").write_text("x")
    found = Imported(tmp_path / "d", cwd=tmp_path)
    assert list(found.rows["b0"]) == "image class patient split mm_row mm_column hospital source sha256".split()
    assert found.rows["m3"]["class"] == "malignant" and found.rows["m3"]["source"] == "d/malignant/m3.png"
    assert found.rows["b1"]["sha256"] == hashlib.sha256(f"{H} {W} ".encode() + scan(1).tobytes()).hexdigest()
    assert not found.lesions["n6"].any() and np.array_equal(found.lesions["b2"], lesion(2))
    assert (
        "8: 3 benign, 3 malignant, 2 normal; 6 mask files" in found.said
        and "1 files: 1 .txt in the source" in found.said
    )
    assert len(found.said.splitlines()) <= 16 and found.said.endswith(f"train_model.py --data-dir {found.folder}\n")
    page = (found.folder / "import.html").read_text()
    assert page.count("data:image/jpeg") >= 8 and "http" not in page and "m3" in page
    again = Imported(found.folder, cwd=tmp_path, output="again")
    assert {k: (r["class"], r["sha256"]) for k, r in again.rows.items()} == {
        k: (r["class"], r["sha256"]) for k, r in found.rows.items()}  # fmt: skip
    third = Imported(tmp_path / "d", "--output", found.folder, cwd=tmp_path, output="")
    assert third.refused("plain: is there already", "--output")


def test_an_output_is_never_replaced_and_looking_writes_nothing(tmp_path):
    pairs(tmp_path / "d")
    (tmp_path / "plain").mkdir()
    before = sorted(tmp_path.rglob("*"))
    look = Imported(tmp_path / "d", cwd=tmp_path, output="")
    assert look.code == 0 and "near-copies" in look.said and sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("damage", ["image", "mask"])
def test_whole_or_not_at_all(damage, tmp_path):
    pairs(tmp_path / "d")
    path = tmp_path / "d" / f"{damage}s" / "7.png"
    path.write_bytes(path.read_bytes()[:-40])
    assert Imported(tmp_path / "d", cwd=tmp_path).refused("7.png")


def test_numbered_names_keep_the_sources_out(tmp_path):
    pairs(tmp_path / "Klinik am Weiher", "Ottavia_{}.png", "Ottavia_{}_mask.png", range(4))
    pairs(tmp_path / "b", numbers=range(4, 8))
    (tmp_path / "Klinik am Weiher" / "meta.csv").write_text("image,patient\nOttavia_0,Grimaldi\nOttavia_1,Grimaldi\n")
    found = Imported(tmp_path / "Klinik am Weiher", tmp_path / "b", "--names", "numbered", cwd=tmp_path)
    assert list(found.rows) == [f"case_{k:04}" for k in range(1, 9)]
    assert [found.rows[f"case_000{k}"]["patient"] for k in (1, 2, 3)] == ["1", "1", ""]
    text = "".join((found.folder / name).read_text() for name in ("meta.csv", "import.html"))
    assert not any(word in text for word in ("Ottavia", "Grimaldi", "Weiher"))


def test_two_hospitals_keep_their_patients_apart(tmp_path):
    for name, numbers in (("a", range(4)), ("b", range(4, 8))):
        pairs(tmp_path / name, "images/{}.png", "masks/{}.png", numbers)
        rows = [f"{k},{k % 2}" for k in numbers]
        (tmp_path / name / "meta.csv").write_text("\n".join(["image,patient", *rows]))
    found = Imported(tmp_path / "a", tmp_path / "b", cwd=tmp_path)
    assert {r["patient"] for r in found.rows.values()} == {"a: 0", "a: 1", "b: 0", "b: 1"}
    assert {r["hospital"] for r in found.rows.values()} == {"a", "b"}


@pytest.mark.parametrize("inside", [True, False])
def test_a_zip_is_unpacked_elsewhere(inside, tmp_path):
    pairs(tmp_path / "src")
    (tmp_path / "d").mkdir()
    with zipfile.ZipFile(tmp_path / "d" / "set.zip", "w") as archive:
        for path in sorted((tmp_path / "src").rglob("*.png")):
            archive.write(path, path.relative_to(tmp_path / "src"))
    found = Imported(tmp_path / "d" if inside else tmp_path / "d" / "set.zip", cwd=tmp_path)
    assert found.right() and [path.name for path in (tmp_path / "d").iterdir()] == ["set.zip"]
    assert found.rows["3"]["source"] == ("d" if inside else "set") + "/images/3.png"


def test_nothing_of_a_header_reaches_an_output(tmp_path):
    for k in range(N):
        dicom(tmp_path / "d" / "images" / f"{k}.dcm", scan(k))
        png(tmp_path / "d" / "masks" / f"{k}.png", white(lesion(k)))
    found = Imported(tmp_path / "d", cwd=tmp_path)
    for path in found.folder.rglob("*.*"):
        assert b"Ottavia" not in path.read_bytes() and b"774193" not in path.read_bytes()
    assert found.right() and "Ottavia" not in found.said
