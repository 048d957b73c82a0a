"""Understand folders of pictures and masks once, and write them in the plain form that a training reads.

python import_data.py scans/                                  # only look: what is there, and what is doubtful
python import_data.py scans/ hospital_b.zip --output data/mine    # write images/, masks/, meta.csv and import.html
python import_data.py --table pairs.csv --output data/mine    # pairs by a table: image, mask, patient, class, split

What cannot be known for certain is refused with one line that names a file and the flag that decides.
"""

import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

from segmentation.common import environment  # noqa: F401  # isort: skip

import numpy as np
import tyro
from pydantic import model_validator

from dataset import LABELS, DataError
from segmentation.common.checks import AnyPath, Folders, Text, checked
from segmentation.common.errors import one_clear_line
from segmentation.data.near_copies import FINE, SLIDING, WHOLE, Pair, group_pairs, near_copies
from segmentation.importing.archives import unpack_source
from segmentation.importing.import_page import write_page
from segmentation.importing.plain_form import Cases, Kept, new_folder, write_table
from segmentation.importing.understanding import Source, Wishes, understand_source
from segmentation.pictures.dicom import is_dicom
from segmentation.pictures.picture_files import How, ending_of

SAME_FRAME = 0.98  # whole-picture correlation from which two masks should agree
PAIRS_SHOWN = 40


@checked
class ImportConfig:
    """What to understand, and what you decide."""

    source: Annotated[Folders, tyro.conf.Positional] = ()  # folders or zip archives of images and masks
    output: AnyPath | None = None  # new folder for the plain form; without it nothing is written
    names: Literal["source", "numbered"] = "source"  # numbered: case_0001, ... and no names of the source, for sharing
    table: AnyPath | None = None  # pairs by a CSV file: image, mask, patient, class, split; paths relative to it
    unmasked: Literal["", "normal", "leave-out"] = ""  # what images are of which no mask shows a lesion
    mask_folder: Folders = ()  # folders of the lesions' masks, where a source has several sorts
    mask_values: tuple[Text, ...] = ()  # grey values or #rrggbb of lesions; all: whatever differs from the background
    patient_column: Text = ""  # column of the patients; name: what stands before the last number of a file's name
    ignore_exif: bool = False  # read pictures as stored, where EXIF turns them and the masks were not
    segment: tuple[Text, ...] = ()  # labels that are lesion, of DICOM segmentations, LabelMe and COCO

    @model_validator(mode="after")
    def fit_together(self):
        """Refuse what cannot go together."""
        if bool(self.source) == bool(self.table):
            raise ValueError("name the folders of images and masks, or a --table of pairs")
        if self.table and self.mask_folder:
            raise ValueError("--mask-folder is for folders: a --table names each mask itself")
        return self


def parse_value(text: str):
    """A grey value as a number, a colour as three, or "all"."""
    try:
        return tuple(map(float, bytes.fromhex(text[1:]))) if len(text) == 7 and text[0] == "#" else float(text)
    except ValueError:
        if text == "all":
            return text
        raise DataError(f"--mask-values {text}: give grey values such as 2, colours such as #ff0000, or all.") from None


def understand(config: ImportConfig, stack: ExitStack) -> list[Source]:
    """Every source; archives are unpacked for as long as the stack is open."""
    values, how = tuple(map(parse_value, config.mask_values)), How(not config.ignore_exif, config.segment)
    wishes = Wishes(config.unmasked, config.mask_folder, values, config.patient_column, how, config.table)
    roots = [unpack_source(path, Path(stack.enter_context(tempfile.TemporaryDirectory()))) for path in config.source]
    places = [root.resolve() for root in roots]
    for k, place in enumerate(places):
        if inside := next((o for i, o in enumerate(places) if i != k and (o == place or o in place.parents)), None):
            raise DataError(f"{place}: lies in {inside}, or is the same. Name each folder once.")
    titles = config.source or [config.table]
    sources = [understand_source(root, wishes)._replace(title=str(title))
               for root, title in zip(roots or [config.table.parent], titles, strict=True)]  # fmt: skip
    cases = [case for source in sources for case in source.cases]
    if values and not any(case.masks for case in cases):
        raise DataError("--mask-values: there are no masks, but outlines, which it says nothing of. Leave it out.")
    if config.segment and not any(case.outlines or any(map(is_dicom, case.masks)) for case in cases):
        raise DataError("--segment: there are no labels of which it could name one. Leave it out.")
    return sources


# ---------------------------------------------------------------- say


def describe(sources: Sequence[Source], cases: Cases, pairs: Sequence[Pair]) -> list[tuple[str, str]]:
    """What was understood, as (word, text)."""
    kept = cases.kept
    labels = Counter(k.case.label for k in kept)
    masks = sum(len(k.case.masks) for k in kept)
    heights, widths = ([k.size[axis] for k in kept] for axis in (0, 1))
    lines = [("source", source.title) for source in sources]
    lines.append(("images", f"{len(kept)}: " + ", ".join(f"{labels[x]} {x}" for x in LABELS if labels[x])
                  + f"; {masks} mask files; {min(widths)}x{min(heights)} to {max(widths)}x{max(heights)}"))  # fmt: skip
    patients, parts = defaultdict(set), Counter(k.case.part for k in kept)
    for k in kept:
        patients[(k.case.hospital, k.case.patient) if k.case.patient else ()].add(k.case.part)
    patients.pop((), None)
    nobody = sum(not k.case.patient for k in kept)
    lines.append(("patients", f"{len(patients)}" + (f", and {nobody} images of nobody known" if nobody else "")
                  if patients else "not known: no column, folder or flag names them"))  # fmt: skip
    if set(parts) - {""}:
        both = sum(len(held) > 1 for held in patients.values())
        lines.append(("given parts", ", ".join(f"{part or 'none'}: {n}" for part, n in sorted(parts.items()))
                      + (f"; {both} PATIENTS LIE IN SEVERAL PARTS" if both else "")))  # fmt: skip
    areas = [100 * k.area for k in kept if k.area]
    lines.append(("lesion area", "{:.1f} %, {:.1f} %, {:.1f} % of the picture (5th, 50th, 95th percentile)".format(
        *np.percentile(areas, [5, 50, 95]))))  # fmt: skip
    lines += [("note" if line.startswith("note: ") else "read", line.removeprefix("note: ")) for s in sources
              for line in s.lines]  # fmt: skip
    if passed := [(path, s.root) for s in sources for path in s.passed]:
        kinds = Counter(f"{ending_of(p) or p.name} in {p.parent.relative_to(root)}/" for p, root in passed)
        kinds = [f"{n} {kind.replace('./', 'the source')}" for kind, n in kinds.most_common(4)]
        lines.append(("passed over", f"{len(passed)} files: {', '.join(kinds)}"))
    if turned := sum("turned by EXIF" in k.doubts for k in kept):
        lines.append(("EXIF", f"turns {turned} images. If their masks were drawn on the stored pixels: --ignore-exif"))
    if unknown := sum("placeholder" in doubt for k in kept for doubt in k.doubts):
        lines.append(("mm", f"{unknown} images name a pixel size that is a placeholder; left empty"))
    if cases.again:
        lines.append(("equal", f"{len(cases.again)} pictures are in two sources, and kept once ({cases.again[0]})"))
    return lines + describe_copies(kept, pairs)


def describe_copies(kept: Sequence[Kept], pairs: Sequence[Pair]) -> list[tuple[str, str]]:
    """Near-copies, and what they show of classes, parts and masks."""
    groups = group_pairs(len(kept), pairs)
    sizes = Counter(groups.tolist())
    tied = [[kept[i] for i in np.flatnonzero(groups == g)] for g, n in sizes.items() if n > 1]
    equal = [p for p in pairs if kept[p.a].hash == kept[p.b].hash]
    count = f"{len(pairs)} pairs tie {sum(map(len, tied))} images into {len(tied)} groups"
    same = f"; {len(equal)} of equal pixels ({kept[equal[0].a].name} = {kept[equal[0].b].name})" if equal else ""
    lines = [("near-copies", count + same)]
    for word, values in (("classes", lambda k: k.case.label), ("given parts", lambda k: k.case.part)):
        if across := [group for group in tied if len({values(k) for k in group}) > 1]:
            named = "; ".join(" = ".join(k.name for k in group[:3]) for group in across[:3])
            lines.append((f"across {word}", f"{len(across)} groups ({named})"))
    if agreement := agreements(kept, pairs):
        values = list(agreement.values())
        lines.append(("masks agree", f"of {len(values)} pairs of one frame: Dice {np.mean(values):.3f} on average, "
                      f"{sum(v < 0.5 for v in values)} below 0.5"))  # fmt: skip
    return lines


def agreements(kept: Sequence[Kept], pairs: Sequence[Pair]) -> dict[Pair, float]:
    """Dice between the masks of pairs of one frame; in another crop the lesion has moved."""
    found = {}
    for pair in pairs:
        a, b = kept[pair.a].mask(), kept[pair.b].mask()
        if pair.whole > SAME_FRAME and a.any() and b.any():
            found[pair] = 2 * float((a & b).sum()) / float(a.sum() + b.sum())
    return found


def choose_pairs(kept: Sequence[Kept], pairs: Sequence[Pair]) -> list[dict]:
    """Near-copies to look at: of two classes, of masks that disagree, and those that are tied least."""
    agree = agreements(kept, pairs)

    def order(pair: Pair) -> tuple:
        margin = max(pair.whole - WHOLE, pair.fine - FINE, pair.sliding - SLIDING)
        return kept[pair.a].case.label == kept[pair.b].case.label, agree.get(pair, 1) >= 0.5, margin

    return [{"a": p.a, "b": p.b, "text": f"whole {p.whole:.2f} fine {p.fine:.2f} sliding {p.sliding:.2f}"
             + (f" · masks agree with Dice {agree[p]:.2f}" if p in agree else "")}
            for p in sorted(pairs, key=order)[:PAIRS_SHOWN]]  # fmt: skip


def main(config: ImportConfig) -> None:
    """Look, and write if there is an output."""
    with ExitStack() as stack:
        folder = stack.enter_context(new_folder(config.output)) if config.output else None
        sources = understand(config, stack)
        cases = Cases(sources, folder, numbered=config.names == "numbered")
        pairs = near_copies(cases)
        lines = describe(sources, cases, pairs)
        doubtful = sum(bool(k.doubts) for k in cases.kept)
        lines.append(("doubtful", f"{doubtful} images; they come first in import.html"))
        if folder:
            write_table(folder / "meta.csv", cases.kept, cases.numbered)
            named = ("source", "read", "note", "passed over", "equal") if cases.numbered else ()  # these name files
            shown = [line for line in lines if line[0] not in named]
            write_page(folder / "import.html", shown, cases.kept, choose_pairs(cases.kept, pairs))
    for word, text in lines:
        print(f"{word:14s}{text}")
    if config.output:
        print(f"{'written':14s}{config.output}: look at {config.output / 'import.html'}")
        print(f"{'train':14s}python train_model.py --data-dir {config.output}")
    else:
        print(f"{'next':14s}nothing is written; to write it, add --output data/NAME")


if __name__ == "__main__":
    with one_clear_line():
        main(tyro.cli(ImportConfig, description=__doc__))
