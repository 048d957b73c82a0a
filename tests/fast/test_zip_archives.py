"""Zips as people download them: BUSI's for a training, any other for an import, and none that means harm."""

import os
import shutil
import zipfile
from functools import partial

import numpy as np
import pytest
from folders import changed, read, save, write_classes, write_pairs

from dataset import DataError, find_samples
from segmentation.data.find_data import find_data
from segmentation.importing import archives as module
from segmentation.importing.archives import unpack_source


def pack(archive, write, top="", separator="/", method=zipfile.ZIP_STORED):
    """A zip of what `write` makes, below `top`. Returns the truth."""
    source = archive.parent / "source"
    truth = write(source)
    with zipfile.ZipFile(archive, "w", method) as opened:
        for path in sorted(p for p in source.rglob("*") if p.is_file()):
            member = zipfile.ZipInfo("x")
            member.filename = os.path.join(top, path.relative_to(source)).replace("/", separator)
            opened.writestr(member, path.read_bytes(), method)
    shutil.rmtree(source)
    return truth


SLIDES = changed(lambda root: {}, *(f"+slide{i}.png" for i in range(30)))
PAPERS = changed(lambda root: {}, "+paper.txt")
WITH_STRAYS = changed(write_pairs, "+README.md", "+images/Thumbs.db", "+__MACOSX/images/._scan1.png")


def with_large_empty_mask(root):
    """A mask without a lesion, 2000x2000 as BMP, is 4 MB of zeros, and no bomb."""
    found = write_pairs(root)
    for folder in ("images", "masks"):
        save(root / folder / "large.bmp", np.zeros((2000, 2000), np.uint8))
    return found | {"large": ("normal", 0)}


ARCHIVES = {  # the zip's name, what is in it, and how
    "Kaggle's, downloaded twice": ("archive (1).zip", write_classes, {"top": "Dataset_BUSI_with_GT"}),
    "no folder on top": ("Dataset_BUSI.zip", write_classes, {}),
    "one more folder": ("busi.zip", write_classes, {"top": "Dataset_BUSI_with_GT/Dataset_BUSI_with_GT"}),
    "two folders of any name": ("x.zip", write_classes, {"top": "download/breast"}),
    "images and masks": ("scans.zip", write_pairs, {}),
    "no folder": ("BrEaST.zip", partial(write_pairs, image="case{:03d}.png", mask="case{:03d}_tumor.png"), {}),
    "upper case": ("DATA.ZIP", write_pairs, {}),
    "stray files": ("scans.zip", WITH_STRAYS, {}),
    "a word before": ("scans.zip", partial(write_pairs, image="Images/bus_{}.png", mask="Masks/mask_{}.png"), {}),
    "a large empty mask": ("scans.zip", with_large_empty_mask, {"method": zipfile.ZIP_DEFLATED}),
    "backslashes, as old tools for Windows write": ("scans.zip", write_pairs, {"separator": "\\"}),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_archives_are_imported_by_their_name_or_the_folders(case, tmp_path):
    name, write, options = ARCHIVES[case]
    (tmp_path / "d").mkdir()
    expected = pack(tmp_path / "d" / name, write, **options)
    for number, named in enumerate((tmp_path / "d" / name, tmp_path / "d")):
        out = tmp_path / f"out{number}"
        out.mkdir()
        assert read(unpack_source(named, out)) == expected
    assert os.listdir(tmp_path / "d") == [name]


@pytest.mark.parametrize("case", [case for case in ARCHIVES if ARCHIVES[case][1] is write_classes])
def test_busi_is_unpacked_once_for_a_training(case, tmp_path, capsys):
    """Beside it: text, pictures without masks, half a download, an empty file, a folder and a pipe of such names."""
    name, write, options = ARCHIVES[case]
    if options.get("top", "").startswith("download"):
        return
    expected = pack(tmp_path / name, write, **options)
    pack(tmp_path / "papers.zip", PAPERS)
    pack(tmp_path / "slides.zip", SLIDES)
    (tmp_path / "half.zip").write_bytes((tmp_path / name).read_bytes()[:9000])
    (tmp_path / "empty.zip").touch()
    (tmp_path / "folder.zip").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.zip")
        (tmp_path / "link.zip").symlink_to("nowhere.zip")
    samples = find_samples(find_data(tmp_path))
    assert {s.name: s.label for s in samples} == {name: label for name, (label, _) in expected.items()}
    assert f"unpacking {tmp_path / name}" in capsys.readouterr().out
    assert find_samples(find_data(tmp_path)) == samples  # it is there now
    assert "unpacking" not in capsys.readouterr().out


def test_what_is_there_already_stays(tmp_path):
    pack(tmp_path / "busi.zip", changed(write_classes, "+README.md"), top="x")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match=r"busi.zip: .*x.* already"):
        find_data(tmp_path)
    assert os.listdir(tmp_path / "x") == ["mine.txt"]


# ---------------------------------------------------------------- what is refused


def test_what_is_not_one_archive_of_busi_is_left_as_it_is(tmp_path):
    for name, write in {"a.zip": write_classes, "slides.zip": SLIDES}.items():
        pack(tmp_path / name, write)
    shutil.copy(tmp_path / "a.zip", tmp_path / "b.zip")
    with pytest.raises(DataError, match=r"several archives of BUSI \(a.zip, b.zip\)"):
        find_data(tmp_path)
    for name in ("a.zip", "b.zip"):
        (tmp_path / name).unlink()
    with pytest.raises(DataError, match="neither BUSI nor imported.*import_data.py"):
        find_data(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["slides.zip"]


def member(name, content=b"x", mode=0o100644):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    return info, content


HARMFUL = {
    "above": member("../evil.png"),
    "absolute": member("/tmp/evil.png"),
    "above, with backslashes": member("a\\..\\..\\evil.png"),
    "a link": member("link.png", b"/etc/passwd", 0o120777),
}


@pytest.mark.parametrize("case", HARMFUL)
def test_no_member_leaves_the_folder_or_becomes_a_link(case, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    with zipfile.ZipFile(folder / "archive.zip", "w") as archive:
        for name in ("benign/benign (1).png", "benign/benign (1)_mask.png"):
            archive.writestr(*member(name))
        archive.writestr(*HARMFUL[case])
    find_data(folder)
    assert [p.name for p in tmp_path.iterdir()] == ["data"] and (folder / "benign").is_dir()
    assert not any(p.is_symlink() for p in folder.rglob("*"))


@pytest.mark.parametrize(("limit", "value"), [("MAX_FILES", 10), ("MAX_ARCHIVE_BYTES", 5000)])
def test_archives_of_far_more_than_any_data_are_refused(limit, value, tmp_path, monkeypatch):
    pack(tmp_path / "scans.zip", write_classes)
    monkeypatch.setattr(module, limit, value)
    with pytest.raises(DataError, match="scans.zip: .* far more than BUSI"):
        find_data(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["scans.zip"]


@pytest.mark.parametrize("damage", ["no zip", "half of it", "a changed byte"])
def test_damaged_archives_are_named(damage, tmp_path):
    path = tmp_path / "archive.zip"
    pack(path, write_classes)
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 9] ^= 255
    half = path.read_bytes()[:9000]
    path.write_bytes({"no zip": b"PK\x03\x04 not really", "half of it": half, "a changed byte": content}[damage])
    with pytest.raises(DataError, match="archive.zip: cannot be unpacked.*Download it again"):
        find_data(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["archive.zip"]
