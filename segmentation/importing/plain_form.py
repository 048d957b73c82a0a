"""The plain form of a data set: images/NAME.png, masks/NAME.png of the same size, and meta.csv.

Every case is read once: written, described for the page, and handed on for the near-copy search.
"""

import csv
import io
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from dataset import DataError, hash_pixels, resize_image, resize_mask
from segmentation.common.errors import RunError
from segmentation.common.files import comparable
from segmentation.importing.understanding import Case, Read, Source, read_case

THUMBNAIL = 200  # pixels on the longer side
GRID = 256  # masks of near-copies are compared on so many pixels squared
LARGE, SMALL = 0.5, 20  # a lesion of more of the picture, or of fewer pixels, is worth a look


class Kept(NamedTuple):
    """What is remembered of a case once it is written."""

    case: Case
    name: str  # of the files
    file: str  # where it comes from
    hash: str
    size: tuple[int, int]
    spacing: tuple[float, float] | None
    area: float  # share of the picture that is lesion
    grid: bytes  # the mask on GRID x GRID pixels, one bit each
    thumbnail: bytes  # JPEG with the lesion's outline
    brighter: float  # by how many grey levels the lesion is brighter than what is around it
    doubts: tuple[str, ...]  # why a person should look at it

    def mask(self) -> np.ndarray:
        """The mask on the grid, bool."""
        return np.unpackbits(np.frombuffer(self.grid, np.uint8)).reshape(GRID, GRID).astype(bool)


class Cases:
    """The pictures of all cases, one after the other; writes each where there is a folder to write to."""

    def __init__(self, sources: Sequence[Source], folder: Path | None = None, numbered: bool = False):
        """Nothing is read yet."""
        self.sources, self.folder, self.numbered = sources, folder, numbered
        self.kept: list[Kept] = []
        self.again: list[str] = []  # "B/2.png is A/1.png", of two sources
        self._named = [(case, source, name) for source, name in zip(sources, _names_of(sources), strict=True)
                       for case in source.cases]  # fmt: skip
        self._seen: dict[str, tuple[Kept, Source]] = {}

    def __len__(self) -> int:
        """How many cases there are, equal ones too."""
        return len(self._named)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Grey pictures, (H, W) uint8, in order."""
        for part in ("images", "masks") if self.folder else ():
            (self.folder / part).mkdir()
        counts = Counter(comparable(case.name) for case, _, _ in self._named)
        taken: set[str] = set()
        for (_, source, _), (kept, image, encoded) in self._prepare_all():
            if self._is_new(kept, source):
                name = f"{kept.case.hospital} {kept.name}" if counts[comparable(kept.name)] > 1 else kept.name
                name = f"case_{len(self.kept) + 1:04}" if self.numbered else name.strip()
                if comparable(name) in taken:
                    raise DataError(f"{kept.case.image}: the name {name!r} occurs twice. Rename one.")
                taken.add(comparable(name))
                self.kept.append(kept._replace(name=name))
                self._seen.setdefault(kept.hash, (self.kept[-1], source))
                for part, content in zip(("images", "masks"), encoded, strict=False):
                    (self.folder / part / f"{name}.png").write_bytes(content)
                yield image

    def _prepare_all(self) -> Iterator[tuple]:
        many = 4 * (os.cpu_count() or 1)
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding and encoding release the GIL
            for start in range(0, len(self._named), many):
                block = self._named[start : start + many]
                yield from zip(block, pool.map(self._prepare, *zip(*block, strict=True)), strict=True)

    def _prepare(self, case: Case, source: Source, hospital: str) -> tuple[Kept, np.ndarray, tuple]:
        read = read_case(case, source)
        root = source.root if source.root in case.image.parents else case.image.parent
        file = f"{Path(source.title).stem or root.resolve().name}/{case.image.relative_to(root).as_posix()}"
        several = len(self.sources) > 1
        hospital = case.hospital or (hospital if several else "")
        patient = f"{hospital}: {case.patient}" if several and case.patient else case.patient
        case = case._replace(hospital=hospital, patient=patient)
        inside, brighter, doubts = _look(case, read)
        small = np.packbits(resize_mask(read.mask.astype(np.uint8), (GRID, GRID))).tobytes()
        kept = Kept(case, case.name, file, hash_pixels(read.image), read.image.shape, read.spacing, inside, small,
                    _draw_thumbnail(read), brighter, doubts)  # fmt: skip
        fast = [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]  # and 10 % smaller: speckle does not repeat
        pictures = (read.image, read.mask.astype(np.uint8) * 255) if self.folder else ()
        return kept, read.image, tuple(cv2.imencode(".png", p, fast)[1].tobytes() for p in pictures)

    def _is_new(self, kept: Kept, source: Source) -> bool:
        first, its_source = self._seen.get(kept.hash, (kept, source))
        if (first.case.label == "normal") != (kept.case.label == "normal"):
            raise DataError(f"{kept.case.image}: holds the same pixels as {first.case.image}, but only one of them "
                            "shows a lesion. Remove one.")  # fmt: skip
        if first.case.part != kept.case.part:
            raise DataError(f"{kept.case.image}: holds the same pixels as {first.case.image}, but one is in part "
                            f"{first.case.part or 'none'!r}, the other in {kept.case.part or 'none'!r}. Remove one, or "
                            "import one of the folders.")  # fmt: skip
        if its_source is not source:
            differ = "" if first.grid == kept.grid else ", with another mask; the first is kept"
            self.again.append(f"{kept.file} is {first.file}{differ}")
            return False
        return True


def _names_of(sources: Sequence[Source]) -> list[str]:
    """The sources' paths, without the folders that they share."""
    paths = [Path(source.title.removesuffix(".zip")).resolve() for source in sources]
    shared = len(os.path.commonprefix([path.parent.parts for path in paths]))
    return [" ".join(path.parts[shared:]) for path in paths]


def _look(case: Case, read: Read) -> tuple[float, float, tuple[str, ...]]:
    """The lesion's share of the picture, how much brighter it is than what is around it, and what is doubtful."""
    area, mask = float(read.mask.mean()), read.mask.astype(np.uint8)
    doubts = [case.doubt, "turned by EXIF" if read.turned else "", read.doubt]
    if not area:
        return area, 0.0, tuple(filter(None, doubts))
    wide = max(min(read.image.shape) // 16, 1)
    around = cv2.dilate(mask, np.ones((wide, wide))).astype(bool) & ~read.mask
    brighter = float(read.image[read.mask].mean() - read.image[around].mean()) if around.any() else 0.0
    doubts += ["more than half of the picture" if area > LARGE else ""]
    doubts += [f"{int(mask.sum())} pixels alone" if mask.sum() < SMALL else ""]
    sides = sum(bool(side.any()) for side in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))
    doubts += [f"reaches {sides} borders" if sides > 2 else "", "brighter than around it" if brighter > 20 else ""]
    return area, brighter, tuple(filter(None, doubts))


def _draw_thumbnail(read: Read) -> bytes:
    height, width = read.image.shape
    scale = THUMBNAIL / max(height, width)
    size = max(round(height * scale), 8), max(round(width * scale), 8)
    drawn = cv2.cvtColor(resize_image(read.image, size), cv2.COLOR_GRAY2BGR)
    mask = resize_mask(read.mask.astype(np.uint8), size)
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, outlines, -1, (0, 200, 255), 1)
    return cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, 75])[1].tobytes()


# ---------------------------------------------------------------- write


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """A folder beside `output` that becomes it at the end, or is gone.

    Raises:
        RunError: there is something of this name already.
    """
    if os.path.lexists(output):
        raise RunError(f"{output}: is there already, and is never replaced. Choose another --output.")
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = output.with_name(f".importing-{uuid.uuid4().hex[:8]}-{output.name}")
    folder.mkdir()
    try:
        yield folder
        folder.rename(output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_table(path: Path, kept: Sequence[Kept], numbered: bool) -> None:
    """meta.csv; numbered: without names of files, and with numbers for patients and hospitals."""
    patients, hospitals = ({name: str(k + 1) for k, name in enumerate(dict.fromkeys(names) if numbered else ()) if name}
                           for names in ([k.case.patient for k in kept], [k.case.hospital for k in kept]))  # fmt: skip
    parts = [part for part in ("split", "fold") if any(getattr(k.case, part) for k in kept)] or ["split"]
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(("image", "class", "patient", *parts, "mm_row", "mm_column", "hospital", "source", "sha256"))
    for k in kept:
        spacing = [f"{mm:.6g}" for mm in k.spacing or ()] or ["", ""]
        patient, hospital = (k.case.patient, k.case.hospital)
        row = [f"{k.name}.png", k.case.label, patients.get(patient, patient), *(getattr(k.case, p) for p in parts)]
        table.writerow([*row, *spacing, hospitals.get(hospital, hospital), "" if numbered else k.file, k.hash])
    path.write_bytes(text.getvalue().encode("utf-8", "backslashreplace"))
