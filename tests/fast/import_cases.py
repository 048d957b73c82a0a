"""Small folders of any kind for the tests of import_data.py, and what it makes of them."""

import csv
import struct
from pathlib import Path

import numpy as np
import pydicom
from conftest import run_here
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset

H, W, N = 48, 64, 8


def scan(k: int) -> np.ndarray:
    """Speckle with a dark area where the lesion is, (H, W) uint8."""
    speckle = np.random.default_rng(k).rayleigh(50, (H, W)) * np.where(lesion(k), 0.35, 1)
    return speckle.clip(0, 255).astype(np.uint8)


def lesion(k: int) -> np.ndarray:
    """An ellipse that lies off the middle, another for every number, (H, W) bool."""
    y, x = np.mgrid[:H, :W]
    return ((x - 20 - k) / (8 + k % 3)) ** 2 + ((y - 15 - k % 4) / 6) ** 2 < 1


def png(path: Path, values: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)
    return path


def white(mask: np.ndarray) -> np.ndarray:
    return mask.astype(np.uint8) * 255


def pairs(root: Path, image="images/{}.png", mask="masks/{}.png", numbers=range(N), draw=white) -> Path:
    """A picture and a mask for each number, under these names."""
    for k in numbers:
        png(root / image.format(k), scan(k))
        if mask:
            png(root / mask.format(k), draw(lesion(k)))
    return root


def dicom(path: Path, pixels: np.ndarray, syntax=uid.ExplicitVRLittleEndian, **elements) -> Path:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = uid.UltrasoundImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "2.25.1"
    data.Modality, data.SamplesPerPixel, data.PhotometricInterpretation = "US", 1, "MONOCHROME2"
    data.PatientName, data.PatientID = "Grimaldi^Ottavia", "PID-774193"
    data.Rows, data.Columns = pixels.shape[-2:]
    data.BitsAllocated = data.BitsStored = 8 * pixels.itemsize
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, 0
    data.PixelData = pixels.tobytes()
    data["PixelData"].VR = "OW" if pixels.itemsize > 1 else "OB"
    for name, value in elements.items():
        setattr(data, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, data, enforce_file_format=True)
    return path


def tiff(path: Path, *pages: np.ndarray, photometric=1, orientation=None) -> Path:
    """Uncompressed, one strip a page, little endian."""
    path.parent.mkdir(parents=True, exist_ok=True)
    starts, body = [], b""
    for page in pages:
        starts.append(8 + len(body))
        body += np.ascontiguousarray(page).tobytes()
    at, listed = 8 + len(body), b""
    for number, page in enumerate(pages):
        rows, columns = page.shape
        tags = {256: columns, 257: rows, 258: 8 * page.itemsize, 259: 1, 262: photometric, 273: starts[number],
                277: 1, 278: rows, 279: page.nbytes}  # fmt: skip
        tags |= {274: orientation} if orientation else {}
        size = 6 + 12 * len(tags)
        following = at + len(listed) + size if number + 1 < len(pages) else 0
        listed += struct.pack("<H", len(tags))
        for tag in sorted(tags):
            listed += struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, tags[tag])
        listed += struct.pack("<I", following)
    path.write_bytes(b"II*\0" + struct.pack("<I", at) + body + listed)
    return path


class Imported:
    """What `python import_data.py SOURCES FLAGS --output plain` wrote and said."""

    def __init__(self, *arguments, cwd: Path, output="plain"):
        where = ("--output", cwd / output) if output else ()
        result = run_here("import_data.py", *arguments, *where, cwd=cwd)
        self.code, self.said, self.error = result.returncode, result.stdout, result.stderr.rpartition("\r")[2]
        assert "Traceback" not in self.error, self.error
        self.folder, self.images, self.lesions, self.rows = cwd / (output or "plain"), {}, {}, {}
        assert not list(cwd.glob(".importing-*")) and not (self.code and output and self.folder.exists())
        if self.code or not output:
            return
        with (self.folder / "meta.csv").open(encoding="utf-8", newline="") as lines:
            self.rows = {Path(row["image"]).stem: row for row in csv.DictReader(lines)}
        for name in self.rows:
            image, mask = (np.asarray(Image.open(self.folder / part / f"{name}.png")) for part in ("images", "masks"))
            assert (
                image.dtype == mask.dtype == np.uint8 and image.shape == mask.shape and set(np.unique(mask)) <= {0, 255}
            )
            self.images[name], self.lesions[name] = image, mask > 0
        assert len(list((self.folder / "images").iterdir())) == len(self.rows)

    def right(self, count: int = N, number=lambda name: int("".join(filter(str.isdigit, name)))) -> bool:
        """Whether each image has its lesion, by the number in its name."""
        good = [np.array_equal(mask, lesion(number(name))) for name, mask in self.lesions.items()]
        same = [np.array_equal(image, scan(number(name))) for name, image in self.images.items()]
        return len(good) == count and all(good) and all(same)

    def refused(self, *words: str) -> bool:
        """Whether one line was said, with these words."""
        lines = self.error.strip().splitlines()
        assert self.code == 1 and len(lines) == 1 and lines[0].startswith("error: "), (self.code, self.said, self.error)
        assert all(word in lines[0] for word in words), lines[0]
        return True
