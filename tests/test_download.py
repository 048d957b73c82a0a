import shutil
import zipfile

import download
import pytest

from dataset import DataError


def test_archive_is_unpacked_and_found(phantom_data, tmp_path):
    shutil.make_archive(str(tmp_path / "archive"), "zip", phantom_data.parent, phantom_data.name)
    with pytest.raises(DataError, match="archive.zip"):  # the folder in it has no name of BUSI's
        download.find_data(tmp_path)
    shutil.rmtree(tmp_path / "phantoms")
    nested = tmp_path / "x" / "Dataset_BUSI_with_GT" / "Dataset_BUSI_with_GT"
    shutil.copytree(phantom_data, nested)
    shutil.make_archive(str(tmp_path / "archive"), "zip", tmp_path / "x")
    assert download.find_data(tmp_path) == tmp_path / "Dataset_BUSI_with_GT" / "Dataset_BUSI_with_GT"


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
        download.find_data(folder)
    assert [p.name for p in folder.iterdir()] == ["archive.zip"]
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_a_damaged_archive_is_named(tmp_path):
    (tmp_path / "archive.zip").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(DataError, match="archive.zip.*Download it again"):
        download.find_data(tmp_path)


def test_a_named_folder_is_never_replaced(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        download.find_data(tmp_path / "absent")
    with pytest.raises(DataError, match="found no folders"):
        download.find_data(tmp_path)


def test_a_failed_download_says_so(tmp_path, monkeypatch, capsys):
    import kagglehub

    def fail(handle):
        raise ConnectionError("no route\nsecond line")

    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(kagglehub, "dataset_download", fail)
    assert download.find_data(None) is None
    assert "ConnectionError: no route)" in capsys.readouterr().out
