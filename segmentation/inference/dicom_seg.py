"""Masks as DICOM Segmentations, which a hospital's viewer shows over the pictures that they belong to.

The patient's data is copied from the source's header, as the standard asks for, and into these files alone.
"""

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from dataset import DataError, read_gray
from segmentation.common.errors import RunError
from segmentation.common.files import numbered, write_atomic
from segmentation.pictures.dicom import is_dicom, one_line

SEGMENTATION_ENDING = "_seg.dcm"  # of a file that is written here
PROGRAM = "Attention U-Net for breast ultrasound, in Keras"
_IDENTIFIERS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "Modality")  # never empty
_MAY_BE_EMPTY = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "ReferringPhysicianName")
_MAY_BE_EMPTY += ("AccessionNumber", "StudyID", "StudyDate", "StudyTime")


def check_highdicom() -> None:
    """Refuse to begin without the package.

    Raises:
        RunError: what to install.
    """
    if find_spec("highdicom") is None:
        raise RunError("--dicom-seg needs the package highdicom: pip install -r requirements-dicom.txt")


def write_segmentations(folder: Path, rows: Sequence[Mapping], version: str) -> list[str]:
    """One DICOM Segmentation for each DICOM file among the predictions, with all its frames; and a line that says so.

    Args:
        folder: holds the masks of the predictions.
        rows: of predictions.csv.
        version: what made the masks: the run's name.

    Returns:
        One line for each file that cannot be written.
    """
    masks: dict[str, list[Path]] = {}
    called: dict[str, str] = {}
    for row in rows:
        masks.setdefault(row["file"], []).append(folder / f"{row['name']}_mask.png")
        name = re.sub(r"_page\d+(?=(-\d+)?$)", "", row["name"]) if row["page"] else row["name"]
        called.setdefault(row["file"], name)
    sources = [file for file in masks if is_dicom(Path(file))]
    if others := len(masks) - len(sources):
        print(f"note: {others} files are no DICOM files: there is no segmentation for them")
    problems = []
    for file in sources:
        names = (base.with_name(f"{base.name}{SEGMENTATION_ENDING}") for base in numbered(folder / called[file]))
        try:
            write_segmentation(Path(file), masks[file], next(name for name in names if not name.exists()), version)
        except DataError as error:
            problems.append(str(error))
    if written := len(sources) - len(problems):
        print(f"{written} DICOM segmentations (*{SEGMENTATION_ENDING}) hold the patient data of their sources")
    return problems


def write_segmentation(source: Path, masks: Sequence[Path], target: Path, version: str) -> None:
    """Write the masks of all frames of a DICOM file as one DICOM Segmentation.

    Raises:
        DataError: the header lacks what a segmentation must refer to, or is damaged.
    """
    with one_line(source):
        import pydicom

        header = pydicom.dcmread(source, stop_before_pixels=True)
        if not all(header.get(name) for name in _IDENTIFIERS):
            raise DataError(f"{source}: has no identifiers that a segmentation could refer to. Export it again.")
        if int(header.get("NumberOfFrames") or 1) != len(masks):
            raise DataError(f"{source}: not all of its frames have a mask, so there is no segmentation.")
        lesion = np.stack([read_gray(mask) > 127 for mask in masks])
        refers_to = header.SOPClassUID
        segmentation = _segment_first(header, lesion[0], re.sub(r"[^ -[\]-~]", "_", version)[:64])
        for element in segmentation.iterall():
            if element.keyword == "ReferencedSOPClassUID":
                element.value = refers_to
        if len(lesion) > 1:
            _add_frames(segmentation, lesion)
        write_atomic(target, segmentation.save_as)


def _segment_first(header, lesion: np.ndarray, version: str):
    """The segmentation of the first frame, a highdicom Segmentation. `header` is changed to that of one picture.

    highdicom itself refuses a cine loop: its frames have no place in space (ImagingDataCommons/highdicom#284).
    """
    import highdicom
    from pydicom.sr.codedict import codes
    from pydicom.uid import UltrasoundImageStorage

    for name in _MAY_BE_EMPTY:
        header.setdefault(name, "")
    header.SOPClassUID = UltrasoundImageStorage
    header.pop("FrameOfReferenceUID", None)  # the source's frame says where the mask lies, pixel by pixel
    algorithm = highdicom.AlgorithmIdentificationSequence(PROGRAM, codes.DCM.ArtificialIntelligence, version)
    segment = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label="Lesion",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Lesion,
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        anatomic_regions=[codes.SCT.Breast],
    )
    segmentation = highdicom.seg.Segmentation(
        source_images=[header],
        pixel_array=lesion,
        segmentation_type="BINARY",
        segment_descriptions=[segment],
        series_instance_uid=highdicom.UID(),
        series_number=1000,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer=PROGRAM,
        manufacturer_model_name="Attention U-Net",
        software_versions=version,
        device_serial_number="none",
        content_label="LESION",
        content_description="Research only: an outline that nobody has checked",
        series_description="Lesion outline, research only",
    )
    segmentation.PatientOrientation = header.get("PatientOrientation", "")
    return segmentation


def _add_frames(segmentation, lesion: np.ndarray) -> None:
    """Make a segmentation of the first frame one of all frames, (N, H, W) bool."""
    from pydicom.dataset import Dataset
    from pydicom.pixels.utils import pack_bits

    dimension = Dataset()
    dimension.DimensionOrganizationUID = segmentation.DimensionOrganizationSequence[0].DimensionOrganizationUID
    dimension.DimensionIndexPointer, dimension.FunctionalGroupPointer = 0x00209128, 0x00209111
    dimension.DimensionDescriptionLabel = "Temporal Position Index"
    segmentation.DimensionIndexSequence = [*segmentation.DimensionIndexSequence, dimension]
    groups = [deepcopy(segmentation.PerFrameFunctionalGroupsSequence[0]) for _ in lesion]
    for number, group in enumerate(groups, start=1):
        content = group.FrameContentSequence[0]
        content.DimensionIndexValues, content.TemporalPositionIndex = [1, number], number
        group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber = number
    segmentation.PerFrameFunctionalGroupsSequence = groups
    segmentation.NumberOfFrames = len(lesion)
    segmentation.PixelData = pack_bits(lesion.astype(np.uint8))
