"""DICOM Segmentations: read back, they hold the masks; dciodvfy finds no error."""

import shutil
import subprocess
from pathlib import Path

import dicom_files
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread, uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from segmentation.common.errors import RunError
from segmentation.inference import dicom_seg, own_images
from segmentation.scoring.decision import Decision

highdicom = pytest.importorskip("highdicom")

SERIES = "1.2.826.0.1.3680043.8.498.4712"
LESION = (slice(6, 21), slice(11, 38))  # bright, in the sources; another place in each frame of the loop
OTHER = Dataset()
OTHER.PatientID, OTHER.TypeOfPatientID = "Ludmila", "TEXT"
WHOLE = {"PatientSex": "F", "SeriesInstanceUID": SERIES, "OtherPatientIDsSequence": Sequence([OTHER])}


class Brightness:
    """A network that takes bright for lesion."""

    input_shape = (None, dicom_files.ROWS, dicom_files.COLUMNS, 1)

    def predict_on_batch(self, x):
        return x / 255


def bright(shift: int = 0) -> np.ndarray:
    frame = np.full((dicom_files.ROWS, dicom_files.COLUMNS), 20, np.uint8)
    frame[LESION[0], LESION[1].start + shift : LESION[1].stop + shift] = 240
    return frame


def write_grey(path: Path) -> Path:
    single = {"SOPClassUID": uid.UltrasoundImageStorage}
    return dicom_files.stored(path, bright(), **WHOLE | single)


def write_jpeg(path: Path) -> Path:
    rgb = np.stack([bright()] * 3, axis=2)
    lossy = WHOLE | {"LossyImageCompression": "01", "LossyImageCompressionRatio": 5}
    lossy["LossyImageCompressionMethod"] = "ISO_10918_1"
    frame = dicom_files.jpeg(rgb, subsampling=1)
    return dicom_files.encapsulated(path, [frame], rgb, "YBR_FULL_422", uid.JPEGBaseline8Bit, **lossy)


def write_loop(path: Path) -> Path:
    """Three frames, of which the second is empty; their pixels are no multiple of 8."""
    frames = np.stack([bright(), np.full_like(bright(), 20), bright(9)])[:, :-1, :-1].copy()
    return dicom_files.stored(path, frames, frames=3, Rows=frames.shape[1], Columns=frames.shape[2], **WHOLE)


SOURCES = {"grey": write_grey, "jpeg": write_jpeg, "loop": write_loop}


def predict(*paths: Path, output: Path, version: str | None = "my run") -> int:
    return own_images.predict_images(Brightness(), {}, paths, own_images.Wish(output, Decision(), segmented_by=version))


@pytest.fixture(params=SOURCES)
def written(request, tmp_path) -> tuple[Path, Path]:
    """A source and its segmentation."""
    source = SOURCES[request.param](tmp_path / "scan.dcm")
    assert predict(source, output=tmp_path / "out") == 0
    return source, tmp_path / "out" / "scan_seg.dcm"


def masks_of(written: tuple[Path, Path]) -> np.ndarray:
    """The masks as PNG files, (N, H, W) bool."""
    paths = sorted(written[1].parent.glob("*_mask.png"))
    return np.stack([np.asarray(Image.open(path)) > 0 for path in paths])


def test_it_holds_the_masks_of_the_frames_that_it_names(written):
    source, segmentation = dcmread(written[0]), highdicom.seg.segread(written[1])
    masks = masks_of(written)
    assert masks.any() and masks.shape == (int(source.get("NumberOfFrames") or 1), source.Rows, source.Columns)
    if len(masks) == 1:
        read = segmentation.get_pixels_by_source_instance([source.SOPInstanceUID])
    else:
        numbers = list(range(1, len(masks) + 1))
        read = segmentation.get_pixels_by_source_frame(source.SOPInstanceUID, numbers)
    assert np.array_equal(read[..., 0] > 0, masks)
    assert not masks[1].any() if len(masks) > 1 else masks[0][LESION].all()


def test_it_says_whose_it_is_and_what_made_it(written):
    source, segmentation = dcmread(written[0]), dcmread(written[1])
    for name in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "StudyDate", "AccessionNumber"):
        assert segmentation[name].value == source[name].value
    (series,) = segmentation.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == SERIES != segmentation.SeriesInstanceUID
    (instance,) = series.ReferencedInstanceSequence
    assert instance.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert instance.ReferencedSOPClassUID == source.SOPClassUID
    assert (
        "research only" in segmentation.ContentDescription.lower() and "research only" in segmentation.SeriesDescription
    )
    (segment,) = segmentation.SegmentSequence
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    assert algorithm.AlgorithmVersion == "my run" and "Attention U-Net" in algorithm.AlgorithmName


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="no dciodvfy here; it comes with Debian's dicom3tools")
def test_dciodvfy_finds_no_error(written):
    result = subprocess.run(["dciodvfy", written[1]], capture_output=True, text=True, check=False)
    said = result.stdout + result.stderr
    assert "Segmentation" in said and "Error" not in said, said
    assert result.returncode == 0


def test_patient_data_is_in_no_other_file_and_a_line_says_where_it_is(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    write_grey(tmp_path / "a" / "scan.dcm")
    Image.fromarray(bright()).save(tmp_path / "a" / "plain.png")
    assert predict(tmp_path / "a", output=tmp_path / "out") == 0
    said = capsys.readouterr()
    assert "1 files are no DICOM files" in said.out and "1 DICOM segmentations (*_seg.dcm) hold the patient" in said.out
    for path in (tmp_path / "out").iterdir():
        held = any(secret.encode() in path.read_bytes() for secret in dicom_files.SECRETS)
        assert held == (path.name == "scan_seg.dcm"), path
    assert not any(secret in said.out + said.err for secret in dicom_files.SECRETS)
    predict(tmp_path / "a", output=tmp_path / "without", version=None)
    assert not list((tmp_path / "without").glob("*_seg.dcm"))
    predict(tmp_path / "out", tmp_path / "a", output=tmp_path / "again", version=None)  # no result is a picture
    assert len(list((tmp_path / "again").glob("*_mask.png"))) == 2


def test_two_files_of_one_name_have_a_segmentation_each(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_grey(tmp_path / folder / "scan.dcm")
    assert predict(tmp_path / "a", tmp_path / "b", output=tmp_path / "out") == 0
    assert {path.name for path in (tmp_path / "out").glob("*_seg.dcm")} == {"scan_seg.dcm", "scan-2_seg.dcm"}


def test_a_segmentation_has_the_name_of_its_mask(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    Image.fromarray(bright()).save(tmp_path / "a" / "scan.png")
    write_grey(tmp_path / "b" / "scan.dcm")
    assert predict(tmp_path / "a", tmp_path / "b", output=tmp_path / "out") == 0
    assert {path.name for path in (tmp_path / "out").glob("scan-2_*")} > {"scan-2_mask.png", "scan-2_seg.dcm"}


def test_a_segmentation_has_the_name_of_its_file_whatever_its_frames_are_called(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_loop(tmp_path / folder / "loop.dcm")
    write_grey(tmp_path / "a" / "scan_page1.dcm")
    assert predict(tmp_path / "a", tmp_path / "b", output=tmp_path / "out") == 0
    names = {path.name for path in (tmp_path / "out").glob("*_seg.dcm")}
    assert names == {"loop_seg.dcm", "loop-2_seg.dcm", "scan_page1_seg.dcm"}


def test_a_source_without_identifiers_keeps_its_pictures_and_says_why(tmp_path, capsys):
    source = dicom_files.stored(tmp_path / "scan.dcm", bright())  # no series
    assert predict(source, output=tmp_path / "out") == 1
    assert f"error: {source}: has no identifiers" in capsys.readouterr().err
    assert (tmp_path / "out" / "scan_mask.png").exists() and not (tmp_path / "out" / "scan_seg.dcm").exists()


def test_the_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(dicom_seg, "find_spec", lambda name: None)
    with pytest.raises(RunError, match="requirements-dicom.txt"):
        dicom_seg.check_highdicom()
