"""Zips as people download them: any one that holds images with masks is unpacked, and none that means harm."""

import io
import os
import shutil
import zipfile

import numpy as np
import pytest
from folders import lesion, picture, read, white, write_classes, write_pairs
from PIL import Image

from dataset import DataError
from segmentation import find_data as module
from segmentation.importing.find_data import find_data


def pack(archive, source, top="", endings=()):
    """A zip of a folder's files, below `top`; the folder is removed. Returns the archive."""
    with zipfile.ZipFile(archive, "w") as opened:
        for path in sorted(p for p in source.rglob("*") if p.is_file()):
            opened.write(path, os.path.join(top, path.relative_to(source)))
    shutil.rmtree(source)
    return archive


def png(array):
    """A picture's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png")
    return buffer.getvalue()


def flat(root):
    """BrEaST's naming, with no folder at all."""
    return write_pairs(root, image="case{:03d}.png", mask="case{:03d}_tumor.png")


def with_strays(root):
    found = write_pairs(root)
    for name in ("README.md", "notes.csv", "images/Thumbs.db"):
        (root / name).write_text("x")
    (root / "__MACOSX" / "images").mkdir(parents=True)
    (root / "__MACOSX" / "images" / "._scan1.png").write_bytes(b"x")
    return found


ARCHIVES = {  # the zip's name, what is in it, and below which folders
    "Kaggle's": ("archive.zip", write_classes, "Dataset_BUSI_with_GT"),
    "Kaggle's, downloaded twice": ("archive (1).zip", write_classes, "Dataset_BUSI_with_GT"),
    "the authors'": ("Dataset_BUSI.zip", write_classes, "Dataset_BUSI_with_GT"),
    "no folder on top": ("Dataset_BUSI.zip", write_classes, ""),
    "one more folder": ("busi.zip", write_classes, "Dataset_BUSI_with_GT/Dataset_BUSI_with_GT"),
    "two folders of any name": ("x.zip", write_classes, "download/breast"),
    "images and masks": ("scans.zip", write_pairs, ""),
    "images and masks below": ("scans.zip", write_pairs, "scans"),
    "no folder": ("BrEaST.zip", flat, ""),
    "upper case": ("DATA.ZIP", write_pairs, ""),
    "stray files": ("scans.zip", with_strays, ""),
    "a word before": ("scans.zip", lambda r: write_pairs(r, image="Images/bus_{}.png", mask="Masks/mask_{}.png"), ""),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_archives_are_read(case, tmp_path, capsys):
    name, write, top = ARCHIVES[case]
    expected = write(tmp_path / "source")
    pack(tmp_path / name, tmp_path / "source", top)
    assert read(tmp_path) == expected
    assert f"unpacking {tmp_path / name}" in capsys.readouterr().out
    assert read(tmp_path) == expected  # it is there now
    assert "unpacking" not in capsys.readouterr().out
    assert not (tmp_path / "__MACOSX").exists()


def test_one_of_several_archives_is_taken_if_it_alone_is_data(tmp_path):
    """Beside it: text, pictures without masks, half a download, an empty file, a folder and a pipe of such names."""
    expected = write_classes(tmp_path / "source")
    pack(tmp_path / "archive (1).zip", tmp_path / "source")
    with zipfile.ZipFile(tmp_path / "papers.zip", "w") as opened:
        opened.writestr("paper.txt", "text")
    with zipfile.ZipFile(tmp_path / "slides.zip", "w") as opened:
        for i in range(30):
            opened.writestr(f"slide{i}.png", png(picture(i)))
    (tmp_path / "archive.zip").write_bytes((tmp_path / "archive (1).zip").read_bytes()[:9000])
    (tmp_path / "empty.zip").touch()
    (tmp_path / "folder.zip").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.zip")
        (tmp_path / "link.zip").symlink_to("nowhere.zip")
    assert read(tmp_path) == expected


def test_two_archives_of_data_are_refused_by_name(tmp_path):
    for name in ("a.zip", "b.zip"):
        write_classes(tmp_path / "source")
        pack(tmp_path / name, tmp_path / "source")
    with pytest.raises(DataError, match=r"several archives of images with masks \(a.zip, b.zip\). Unpack the one"):
        find_data(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "b.zip"]


@pytest.mark.parametrize("content", ["text", "pictures"])
def test_an_archive_without_masks_is_no_data(content, tmp_path):
    with zipfile.ZipFile(tmp_path / "slides.zip", "w") as opened:
        for i in range(30):
            opened.writestr(*((f"{i}.txt", "x") if content == "text" else (f"{i}.png", png(picture(i)))))
    with pytest.raises(DataError, match="found no images with masks here, nor in slides.zip"):
        find_data(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["slides.zip"]


def test_data_that_is_there_already_is_not_replaced(tmp_path):
    """Images without masks beside a zip of images with masks: the two may be of different patients."""
    write_pairs(tmp_path / "source")
    pack(tmp_path / "scans.zip", tmp_path / "source")
    white(lesion(), tmp_path / "images" / "scan1.png")
    with pytest.raises(DataError, match=r"scans.zip: holds images, which is in .* already. Move one of them away"):
        find_data(tmp_path)
    assert not (tmp_path / "masks").exists()


def test_other_files_that_are_there_already_stay(tmp_path):
    expected = with_strays(tmp_path / "source")
    pack(tmp_path / "scans.zip", tmp_path / "source")
    (tmp_path / "README.md").write_text("mine")
    assert read(tmp_path) == expected
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_folder_is_named_and_not_its_archive(tmp_path):
    write_pairs(tmp_path / "source")
    archive = pack(tmp_path / "scans.zip", tmp_path / "source")
    with pytest.raises(DataError, match="scans.zip: is a file. Give --data-dir the folder"):
        find_data(archive)


def test_an_unpacked_folder_is_used_and_not_its_archive(tmp_path, capsys):
    write_pairs(tmp_path / "source")
    pack(tmp_path / "scans.zip", tmp_path / "source")
    expected = write_classes(tmp_path / "Dataset_BUSI_with_GT")
    assert find_data(tmp_path) == tmp_path / "Dataset_BUSI_with_GT"
    assert read(tmp_path) == expected and "unpacking" not in capsys.readouterr().out


# ---------------------------------------------------------------- what is refused


def member(name, content=b"x", mode=0o100644):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    return info, content


HARMFUL = {
    "above": (member("../evil.png"), "outside"),
    "absolute": (member("/tmp/evil.png"), "outside"),
    "above, with backslashes": (member("a\\..\\..\\evil.png"), "outside"),
    "a drive": (member("C:evil.png"), "outside"),
    "a link": (member("link.png", b"/etc/passwd", 0o120777), "link"),
    "a bomb": (member("bomb.png", bytes(30_000_000)), "100:1"),
}


@pytest.mark.parametrize("case", HARMFUL)
def test_malicious_archives_are_refused_whole(case, tmp_path):
    bad, word = HARMFUL[case]
    folder = tmp_path / "data"
    folder.mkdir()
    with zipfile.ZipFile(folder / "archive.zip", "w") as archive:
        for name in ("benign/benign (1).png", "benign/benign (1)_mask.png"):
            archive.writestr(*member(name))
        archive.writestr(*bad)
    with pytest.raises(DataError, match=f"archive.zip: .*{word}"):
        find_data(folder)
    assert [p.name for p in folder.iterdir()] == ["archive.zip"]
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(("limit", "value"), [("MAX_FILES", 10), ("MAX_BYTES", 5000)])
def test_archives_of_far_more_than_any_data_are_refused(limit, value, tmp_path, monkeypatch):
    write_pairs(tmp_path / "source")
    pack(tmp_path / "scans.zip", tmp_path / "source")
    monkeypatch.setattr(module, limit, value)
    with pytest.raises(DataError, match="unpacks to far more than BUSI"):
        find_data(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["scans.zip"]


def test_empty_masks_are_no_bomb(tmp_path):
    """A mask without a lesion, 2000x2000 as BMP, is 4 MB of zeros."""
    expected = write_pairs(tmp_path / "source")
    for name in ("images/large.bmp", "masks/large.bmp"):
        Image.fromarray(np.zeros((2000, 2000), np.uint8)).save(tmp_path / "source" / name)
    with zipfile.ZipFile(tmp_path / "scans.zip", "w", zipfile.ZIP_DEFLATED) as opened:
        for path in sorted((tmp_path / "source").rglob("*.*")):
            opened.write(path, path.relative_to(tmp_path / "source"))
    shutil.rmtree(tmp_path / "source")
    assert read(tmp_path) == expected | {"large": ("normal", 0)}


@pytest.mark.parametrize("damage", ["no zip", "half of it", "a changed byte"])
def test_damaged_archives_are_named(damage, tmp_path):
    write_pairs(tmp_path / "source")
    path = pack(tmp_path / "archive.zip", tmp_path / "source")
    content = bytearray(path.read_bytes())
    if damage == "a changed byte":
        content[content.index(b"IDAT") + 9] ^= 255
    path.write_bytes({"no zip": b"PK\x03\x04 not really", "half of it": bytes(content[:9000])}.get(damage, content))
    with pytest.raises(DataError, match="archive.zip: cannot be unpacked.*Download it again"):
        find_data(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["archive.zip"]


def test_names_with_backslashes_are_folders(tmp_path):
    """As old tools for Windows write them."""
    expected = write_pairs(tmp_path / "source")
    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as opened:
        for path in sorted((tmp_path / "source").rglob("*.png")):
            info = zipfile.ZipInfo("x")
            info.filename = f"scans\\{path.parent.name}\\{path.name}"
            opened.writestr(info, path.read_bytes())
    shutil.rmtree(tmp_path / "source")
    assert read(tmp_path) == expected
