import shutil
import zipfile
from pathlib import Path

import pytest

import dataset
from dataset import DataError, Sample
from segmentation.find_data import ARCHIVES, BUSI_COUNTS, data_source, find_data, find_or_draw
from segmentation.phantoms import MARKER


def test_archive_is_unpacked_and_found(phantom_data, tmp_path):
    shutil.make_archive(str(tmp_path / "archive"), "zip", phantom_data.parent, phantom_data.name)
    with pytest.raises(DataError, match="archive.zip"):  # the folder in it has no name of BUSI's
        find_data(tmp_path)
    shutil.rmtree(tmp_path / "phantoms")
    nested = tmp_path / "x" / "Dataset_BUSI_with_GT" / "Dataset_BUSI_with_GT"
    shutil.copytree(phantom_data, nested)
    shutil.make_archive(str(tmp_path / "archive"), "zip", tmp_path / "x")
    assert find_data(tmp_path) == tmp_path / "Dataset_BUSI_with_GT" / "Dataset_BUSI_with_GT"


def test_data_is_found_below_the_folder_that_was_named(phantom_data, tmp_path):
    nested = Path(shutil.copytree(phantom_data, tmp_path / "Dataset_BUSI_with_GT"))
    assert find_data(tmp_path) == find_data(nested) == nested
    for part in ("images", "masks"):
        (tmp_path / "pairs" / "Dataset_BUSI_with_GT" / part).mkdir(parents=True)
    assert find_data(tmp_path / "pairs") == tmp_path / "pairs" / "Dataset_BUSI_with_GT"


def test_pairs_in_an_archive_are_found_too(tmp_path):
    for name in ("images/a.png", "masks/a.png"):
        with zipfile.ZipFile(tmp_path / ARCHIVES[0], "a") as archive:
            archive.writestr(*member(name))
    assert find_data(tmp_path) == tmp_path


def member(name, content=b"x", mode=0o100644):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    return info, content


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (member("../evil.png"), "outside"),
        (member("/tmp/evil.png"), "outside"),
        (member("a\\..\\..\\evil.png"), "outside"),
        (member("link.png", b"/etc/passwd", 0o120777), "link"),
        (member("bomb.png", bytes(30_000_000)), "100:1"),
    ],
)
def test_malicious_archives_are_refused_whole(tmp_path, bad, word):
    folder = tmp_path / "data"
    folder.mkdir()
    with zipfile.ZipFile(folder / "archive.zip", "w") as archive:
        archive.writestr(*member("benign/good.png"))
        archive.writestr(*bad)
    with pytest.raises(DataError, match=word):
        find_data(folder)
    assert [p.name for p in folder.iterdir()] == ["archive.zip"]
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_a_damaged_archive_is_named(tmp_path):
    (tmp_path / "archive.zip").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(DataError, match="archive.zip.*Download it again"):
        find_data(tmp_path)


def test_a_named_folder_is_never_replaced(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        find_data(tmp_path / "absent")
    with pytest.raises(DataError, match="found no folders"):
        find_data(tmp_path)


def test_a_failed_download_says_so(tmp_path, monkeypatch, capsys):
    import kagglehub

    def fail(handle):
        raise ConnectionError("no route\nsecond line")

    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(kagglehub, "dataset_download", fail)
    assert find_data(None) is None
    assert "ConnectionError: no route)" in capsys.readouterr().out


# ---------------------------------------------------------------- what it is


def made_up(counts, folder):
    """Samples with as many masks as BUSI has, in a folder of its layout."""
    for label in counts:
        (folder / label).mkdir()
    return [
        Sample(f"{label} ({i})", label, Path("x"), (Path("m"),) * (1 + (masks - images if i == 0 else 0)))
        for label, (images, masks) in counts.items()
        for i in range(images)
    ]


def test_busi_is_known_by_its_published_counts(tmp_path, capsys):
    samples = made_up(BUSI_COUNTS, tmp_path)
    assert (len(samples), sum(len(s.masks) for s in samples)) == (780, 798)
    assert data_source(tmp_path, samples) == "busi" and not capsys.readouterr().out
    one_mask_more = [samples[1]._replace(masks=(Path("m"),) * 2)]  # as many images, another number of masks
    for others in (samples[1:], [samples[0], *one_mask_more, *samples[2:]]):
        assert data_source(tmp_path, others) == "custom"
        masks = sum(len(s.masks) for s in others)
        assert f"{len(others)} images and {masks} masks; BUSI has 780 and 798" in capsys.readouterr().out


def test_pairs_are_never_called_busi(tmp_path, capsys):
    samples = made_up(BUSI_COUNTS, tmp_path)
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    assert data_source(tmp_path, samples) == data_source(tmp_path, samples[:5]) == "custom"
    assert not capsys.readouterr().out  # nobody said that it should be


def test_phantoms_say_what_they_are(phantom_data, broken_data, capsys):
    samples = dataset.find_samples(phantom_data)
    assert data_source(phantom_data, samples) == "phantom" and "note" not in capsys.readouterr().out
    (broken_data / MARKER).unlink()
    assert data_source(broken_data, dataset.find_samples(broken_data)) == "custom"
    assert "BUSI has 780 and 798" in capsys.readouterr().out


def test_phantoms_are_drawn_once_where_no_data_can_be_had(tmp_path, monkeypatch, capsys):
    drawn = []

    def draw(folder, images, seed):
        drawn.append((folder, images, seed))
        folder.mkdir(parents=True)
        (folder / MARKER).touch()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("segmentation.find_data.write_phantoms", draw)
    monkeypatch.setattr("segmentation.find_data.find_data", lambda data_dir: data_dir)
    assert find_or_draw(tmp_path / "mine", 0) == (tmp_path / "mine", False)
    assert not capsys.readouterr().out and not drawn
    folder = Path("data") / "phantoms-160-seed4"
    for _ in range(2):
        assert find_or_draw(None, 4) == (folder, True)
        assert "NO BREAST ULTRASOUND DATA: training on SIMULATED images" in capsys.readouterr().out
    assert drawn == [(folder, 160, 4)]
