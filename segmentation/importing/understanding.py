"""What one source means: its images, the lesions of each, classes, patients and parts. Certain, or refused in one line
that names a file, what was found, and the flag that decides."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataset import CLASSES, DataError
from segmentation.importing.annotations import Outline, draw_outlines, exif_hint, read_outlines
from segmentation.importing.data_table import (
    TABLES,
    Row,
    Table,
    beside,
    image_key,
    index_files,
    match_rows,
    one_patient,
    parse_table,
    stem_of,
)
from segmentation.importing.mask_values import MaskReading, find_lesion, find_reading
from segmentation.importing.pairing import (
    Layout,
    bare_name,
    class_of,
    folders_of,
    lost_firsts,
    part_of,
    place_of,
    said_by,
    understand_layout,
    with_masks,
    words_of,
)
from segmentation.pictures.listing import PREDICTIONS, RESULT_ENDINGS, list_pictures, shown
from segmentation.pictures.picture_files import How, ending_of, read_raw, to_grey
from segmentation.pictures.pixel_depth import find_range

ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar", ".rar", ".7z")


class Wishes(NamedTuple):
    """What the person decided."""

    unmasked: str = ""  # "normal" or "leave-out": images of which no mask shows a lesion
    mask_folders: tuple[Path, ...] = ()  # that hold the lesions' masks
    mask_values: tuple = ()  # numbers or colours that are lesion; ("all",): whatever differs from the background
    patient_column: str = ""  # of tables; "name": what stands before the last number of a file's name
    how: How = How()  # EXIF and segments
    table: Path | None = None  # of pairs


class Case(NamedTuple):
    """One image with everything that belongs to it."""

    name: str
    label: str  # one of dataset.LABELS
    image: Path
    masks: tuple[Path, ...] = ()
    outlines: tuple[Outline, ...] = ()
    patient: str = ""
    split: str = ""
    fold: str = ""
    hospital: str = ""
    doubt: str = ""  # why a person should look at it

    @property
    def part(self) -> str:
        """The part or fold that the source gives it."""
        return self.split or self.fold


class Source(NamedTuple):
    """One folder, understood."""

    root: Path
    cases: list[Case]
    reading: MaskReading
    white: float | None  # in pictures of more than 8 bits
    how: How
    lines: list[str]  # what a person should know
    passed: list[Path]  # files that are not read
    title: str = ""  # what the person named


class Found(NamedTuple):
    """Images and masks of a folder, before anything is read."""

    layout: Layout
    outlines: dict[Path, list[Outline]]
    tables: list[Table]
    passed: list[Path]
    lines: list[str]


# ---------------------------------------------------------------- list


def understand_source(root: Path, wishes: Wishes) -> Source:
    """Everything about a folder.

    Raises:
        DataError: it is not certain what the folder means; one line.
    """
    found = _find_pairs(wishes.table, wishes) if wishes.table else _find_files(root, wishes)
    layout, lines = found.layout, found.lines
    paired = [mask for masks in layout.masks.values() for mask in masks]
    read = partial(read_raw, as_mask=True, how=wishes.how)
    reading, lesion, said = find_reading(paired, wishes.mask_values, lambda path: read(path).values)
    white, depth = find_range(layout.images)
    lines += [*said, *depth]
    rows = _match_tables(found.tables, layout.images, wishes, lines)
    cases = _make_cases(root, found, lesion, rows, wishes)
    return Source(root, cases, reading, white, wishes.how, lines, found.passed)


def _find_files(root: Path, wishes: Wishes) -> Found:
    pictures, others = list_pictures(root)
    lines: list[str] = []
    if own := {p for p in pictures if p.name.endswith(RESULT_ENDINGS) and p.with_name(PREDICTIONS).is_file()}:
        pictures = [path for path in pictures if path not in own]
        others = [path for path in others if path.name != PREDICTIONS]
        lines.append(f"{len(own)} files are predictions of this project and left out ({shown(sorted(own))})")
    tables = _find_tables(others, pictures, wishes, lines)
    if wishes.mask_folders:
        folders = [next((f for f in (root / w, w) if f.is_dir()), None) for w in wishes.mask_folders]
        if None in folders:
            raise DataError(f"{root}: holds no folder {wishes.mask_folders[folders.index(None)]} (--mask-folder).")
        inside = {path for path in pictures if any(folder in path.parents for folder in folders)}
        aside = {path for path in pictures if path not in inside and said_by(folders_of(path, root)) == "mask"}
        layout = with_masks([p for p in pictures if p not in aside], [p for p in pictures if p in inside], root)
        outlines, others = {}, [*others, *sorted(aside)]
    else:
        files = [path for path in others if path.suffix.lower() == ".json"]
        outlines, said, no_outlines = read_outlines(files, pictures, wishes.how.segments)
        lines += said
        taken = {*files, *(table.path for table in tables)} - set(no_outlines)
        others = [path for path in others if path not in taken]
        layout = Layout(pictures, {}, [], []) if outlines else understand_layout(pictures, root)
        if outlines and any(p not in outlines and said_by(folders_of(p, root)) == "mask" for p in pictures):
            raise DataError(f"{files[0]}: holds outlines, and {root} holds masks too. Name the masks' folder with "
                            "--mask-folder, or remove one of the two.")  # fmt: skip
    if not layout:
        raise DataError(f"{root}: {_why_no_pairs(root, pictures, others)}")
    if sheets := [path for path in others if ending_of(path) in (".xlsx", ".xls", ".ods")]:
        lines.append(f"note: {shown(sheets)} is not read. If it names patients, classes or parts, save it as CSV")
    if not wishes.mask_folders:
        _check_folders(layout, root)
    _check_numbers(layout)
    _check_others(layout, others, wishes)
    lines += [f"note: {len(layout.masks)} masks are told by what they hold, as no name says so"] * layout.guessed
    return Found(layout, outlines, tables, [*others, *layout.strays], lines)


def _why_no_pairs(root: Path, pictures: Sequence[Path], others: Sequence[Path]) -> str:
    if packed := [path for path in others if ending_of(path) in ARCHIVES]:
        return f"holds {packed[0].name}, which is not read here. Unpack it, and give the folder."
    if not pictures:
        return f"holds no pictures{f' ({shown(others)})' if others else ''}."
    endings = Counter(path.suffix for path in others if path.suffix and not path.name.startswith("."))
    passed = "".join(f", and {n} {ending} files, which are not read" for ending, n in endings.most_common(1))
    return (f"holds {len(pictures)} pictures, {shown(pictures[:1])} first{passed}, but none is the mask of another. "
            "Give the folder that holds images and masks, the masks in masks/ or called x_mask. Or pair them in a "
            "table: --table pairs.csv.")  # fmt: skip


def _check_folders(layout: Layout, root: Path) -> None:
    """Refuse masks of several sorts, and masks in folders of another name than their images'."""
    sorts: dict[frozenset, Path] = {}
    for image, masks in layout.masks.items():
        there = place_of(folders_of(image, root))
        for mask in masks:
            place = place_of(folders_of(mask, root))
            more = words_of([part for part in place if part not in there])
            if words_of(set(there) - set(place)) and more:
                raise DataError(f"{mask}: is called as {image}, but lies in a folder of another name. If these "
                                f"are its masks: --mask-folder {mask.parent.relative_to(root)}, or pair them in a "
                                "table: --table pairs.csv.")  # fmt: skip
            sorts.setdefault(frozenset() if mask.parent.name.casefold() == image_key(image.name) else more, mask)
    for masks in (*layout.masks.values(), list(sorts.values())):
        folders = list(dict.fromkeys(str(mask.parent.relative_to(root)) for mask in masks))
        if len(folders) > 1:
            raise DataError(f"{masks[0]}: masks lie in {' and in '.join(folders[:3])}. Say which are the lesions': "
                            f"--mask-folder {' or '.join(folders[:3])}.")  # fmt: skip


def _check_numbers(layout: Layout) -> None:
    """Refuse x_mask_1 as a further mask of x where there is an image x_1 without a mask."""
    bare = {image_key(path.name): path for path in layout.images if path not in layout.masks}
    for image, masks in layout.masks.items():
        for mask in masks:
            number = bare_name(image_key(mask.name))[2]
            other = next((bare[n] for s in "_- ." if (n := f"{image_key(image.name)}{s}{number}") in bare), None)
            if number and other:
                raise DataError(f"{mask}: may be a further mask of {image.name}, or the mask of {other.name}. Pair "
                                "them in a table: --table pairs.csv.")  # fmt: skip


def _check_others(layout: Layout, others: Sequence[Path], wishes: Wishes) -> None:
    """Refuse an image without a mask where a file of its name is there that is not read."""
    if wishes.unmasked != "leave-out":
        unread = {image_key(path.name): path for path in others if path.suffix and path.is_file()}
        for path in layout.images:
            other = unread.get(image_key(path.name))
            if path not in layout.masks and other and (other.parent != path.parent or other.suffix == ".xml"):
                raise DataError(f"{other}: has the name of an image without a mask, and is of a kind that is not read. "
                                "Export it as PNG.")  # fmt: skip


# ---------------------------------------------------------------- tables


def _find_tables(others: Sequence[Path], images: Sequence[Path], wishes: Wishes, lines: list[str]) -> list[Table]:
    """The tables that name images: those of the usual names, and others of which half the lines do."""
    found, index = [], index_files(images)
    for path in others:
        usual = path.name.casefold() in TABLES
        if path.suffix.lower() in (".csv", ".tsv") and path.is_file():
            try:
                table = parse_table(path, wishes.patient_column if wishes.patient_column != "name" else "", index)
            except DataError as error:
                if usual or "--patient-column" in str(error):
                    raise
                continue
            known = sum(image_key(Path(cells["image"].replace("\\", "/")).name) in index for cells in table.rows)
            names_images = known > len(table.rows) / 2
            if usual or (names_images and (len(table.columns) > 1 or part_of((path.stem,)))):
                found.append(table)
            elif names_images:
                columns = ", ".join(table.others[:6])
                lines.append(f"note: {path.name} names the images, and has the columns {columns}. If one names the "
                             "patients: --patient-column")  # fmt: skip
    if wishes.patient_column not in ("", "name") and not found:
        raise DataError(f"{shown(others) or 'no file'}: no table of these images has a column "
                        f"{wishes.patient_column!r} (--patient-column).")  # fmt: skip
    return found


def _match_tables(tables: Sequence[Table], images: Sequence[Path], wishes: Wishes, lines: list[str]) -> dict[Path, Row]:
    rows, owners = {}, {}
    for table in sorted(tables, key=lambda table: len(table.path.parts)):  # the nearest counts
        part = part_of((table.path.stem,))  # train.csv, val.csv and test.csv
        found = match_rows(table, images)
        for image, row in found.items():
            if (other := owners.get(image)) and other.parent == table.path.parent:
                raise DataError(f"{other} and {table.path.name}: two tables name {image.name}. Keep one.")
            rows[image], owners[image] = row._replace(split=row.split or part), table.path
        columns = ", ".join(f"{ours} from {theirs!r}" for ours, theirs in table.columns.items() if ours != "mask")
        if found:
            lines.append(f"table {table.path.name}: {columns}" + (f"; its images are {part}" if part else ""))
    if tables and (missing := [image for image in images if image not in rows]):
        lines.append(f"note: {len(missing)} images are in no table ({shown(missing)})")
    if not any(row.patient for row in rows.values()) and wishes.patient_column != "name":
        starts = {_start_of_name(image): None for image in images}
        if 1 < len(starts) <= len(images) / 2 and not {s.casefold() for s in starts} & {"", *CLASSES}:
            lines.append(f"note: names begin in {len(starts)} ways ({', '.join(list(starts)[:3])}, ...). If these are "
                         "the patients: --patient-column name")  # fmt: skip
    return rows


def _start_of_name(image: Path) -> str:
    return re.sub(r"[\W_]*\d+\D{0,3}$", "", stem_of(image.name)).strip()


def _find_pairs(path: Path, wishes: Wishes) -> Found:
    """The pairs that a table names; its paths are relative to it."""
    table = parse_table(path, wishes.patient_column if wishes.patient_column != "name" else "")
    if "mask" not in table.columns:
        raise DataError(f"{path}: has no column mask (--table); an empty cell is an image without one.")
    masks: dict[Path, list[Path]] = defaultdict(list)
    for cells in table.rows:
        for name in ("image", "mask"):
            if cells[name] and not beside(path, cells[name]).is_file():
                raise DataError(f"{path}, line {cells['line']}: there is no {name} {cells[name]}.")
        masks[beside(path, cells["image"])] += [beside(path, cells["mask"])] if cells["mask"] else []
    layout = Layout(list(masks), {image: found for image, found in masks.items() if found}, [], [])
    return Found(layout, {}, [table], [], [])


# ---------------------------------------------------------------- cases


def _make_cases(root: Path, found: Found, lesion: dict, rows: dict[Path, Row], wishes: Wishes) -> list[Case]:
    """The cases, without images that are left out as they show no lesion.

    Raises:
        DataError: one line about the first kind of files that cannot be used.
    """
    layout, problems, cases = found.layout, defaultdict(list), []
    names, lost = Counter(image_key(path.name) for path in layout.images), lost_firsts(layout)
    owned = {image_key(path.name) for path in (*layout.masks, *(p for p, drawn in found.outlines.items() if drawn))}
    lone = "is a mask without exactly one image of its name. Add the image, remove it, or give --table pairs.csv"
    problems |= {lone: layout.lone} if layout.lone else {}
    for path in layout.images:
        case = _make_case(path, root, found, rows.get(path, Row()), wishes)
        if unreadable := [lesion[mask] for mask in case.masks if isinstance(lesion[mask], str)]:
            raise DataError(unreadable[0])
        has = bool(case.outlines) or any(lesion[mask] for mask in case.masks)
        if names[image_key(path.name)] > 1:
            place = place_of(folders_of(path, root)) if root in path.parents else [path.parent.name]
            case = case._replace(name=" ".join([*place, case.name]))
        no_first = "has a further mask and no first one. Add it, or remove the image" if path in lost else ""
        if problem := no_first or _judge(case, has, owned, wishes):
            problems[problem].append(path)
        elif has or case.label == "normal" or wishes.unmasked != "leave-out":
            cases.append(case if has else case._replace(label="normal"))
    for problem, paths in problems.items():
        many = f" (so are {len(paths)} of {len(layout.images)})" if len(paths) > 1 else ""
        raise DataError(f"{paths[0]}{many}: {problem}.")
    if left_out := len(layout.images) - len(cases):
        found.lines.append(f"{left_out} images without a lesion are left out, as you said")
    return _check_cases(root, cases)


def _check_cases(root: Path, cases: list[Case]) -> list[Case]:
    again = Counter(case.name for case in cases)
    if one := next((case for case in cases if again[case.name] > 1), None):
        raise DataError(f"{one.image}: the name {one.name!r} occurs twice. Rename one.")
    if not any(case.label != "normal" for case in cases):
        raise DataError(f"{root}: holds no image of a lesion.")
    one_part, written = len({case.split for case in cases}) == 1, {}  # patients as they are written first
    for case in cases:
        written.setdefault(one_patient(case.patient), case.patient)
    return [case._replace(split="" if one_part else case.split, patient=written[one_patient(case.patient)])
            for case in cases]  # fmt: skip


def _judge(case: Case, has: bool, owned: set[str], wishes: Wishes) -> str:
    """Why an image cannot be used; "" if it can, or is left out."""
    if case.name.encode(errors="replace").decode() != case.name:  # no figure could show it
        return "its name holds bytes that are no text. Rename it"
    if case.label == "normal":
        return "is normal by its folder or table, but its mask holds a lesion" if has else ""
    if has or wishes.unmasked == "leave-out":
        return ""
    if not case.masks and (image_key(case.image.name) in owned or _named_after(image_key(case.image.name), owned)):
        return "has no mask, and is named after an image that has one. Move it away, or --unmasked leave-out"
    if wishes.unmasked == "normal" and case.label == "lesion":
        return ""
    what = "an empty mask" if case.masks else "no mask"
    if case.label != "lesion":
        return f"has {what}, but is {case.label}. Add one, or --unmasked leave-out"
    return f"has {what}. Say what such images are: --unmasked normal, or --unmasked leave-out"


def _find_class(path: Path, folders: set[str], drawn: Sequence[Outline], row: Row) -> str:
    """The class by the nearest folders, the first word of the name, the label of outlines or masks and the table."""
    first = re.match(r"[^\W\d_]*", image_key(path.name))[0]
    called = {outline.label for outline in drawn}
    said = {*folders, first, row.label, *(called if len(called) == 1 else ())} & set(CLASSES)
    if len(said) > 1:
        both = " and ".join(sorted(said))
        raise DataError(f"{path}: is {both} by its folder, name, masks, outlines and table. Mend one.")
    return said.pop() if said else "lesion"


def _named_after(name: str, owned: set[str]) -> bool:
    """Whether an image is called as another, and a word more: x_overlay, overlay_x, Copy of x."""
    words = [m.start() for m in re.finditer(r"[ _.-]+(?=[^\W\d])", name)]
    ends = [m.end() for m in re.finditer(r"[ _.-]+", name) if re.match(r"[^\W\d]", name)]
    first = re.match(r"[^\W\d_]*", name)[0]
    return any(name[:at] in owned for at in words) or (first not in CLASSES and any(name[at:] in owned for at in ends))


def _make_case(path: Path, root: Path, found: Found, row: Row, wishes: Wishes) -> Case:
    folders = folders_of(path, root) if root in path.parents else ()
    masks, drawn = found.layout.masks.get(path, []), found.outlines.get(path, [])
    name = stem_of(path.name)
    of_masks = {class_of(place_of(folders_of(mask, root))) for mask in masks if root in mask.parents}
    of_masks = of_masks if len(of_masks) == 1 else set()  # a picture may have a mask of each class
    label = _find_class(path, {class_of(place_of(folders)), *of_masks}, drawn, row)
    patient = next((f for f in reversed(folders) if re.fullmatch(r"(?i)(patient|subject|case|pat)[ _-]*\d+", f)), "")
    patient = _start_of_name(path) if wishes.patient_column == "name" else row.patient or patient
    part = part_of((row.split or row.fold,))  # folds may be called train, val and test
    split, fold = part or row.split or part_of(folders), "" if part else row.fold
    doubt = "its mask is told by what it holds" if found.layout.guessed else ""
    doubt = f"{len(masks)} masks, merged" if len(masks) > 1 else doubt
    return Case(name, label, path, tuple(masks), tuple(drawn), patient, split, fold, row.hospital, doubt)


# ---------------------------------------------------------------- read


class Read(NamedTuple):
    """A case, decoded."""

    image: np.ndarray  # (H, W) uint8
    mask: np.ndarray  # (H, W) bool
    spacing: tuple[float, float] | None
    doubt: str  # why there is no spacing
    turned: bool


def read_case(case: Case, source: Source) -> Read:
    """Image and lesions of a case, upright, of one size.

    Raises:
        DataError: a file cannot be read, or a mask is of another size.
    """
    raw = read_raw(case.image, how=source.how)
    image = to_grey(case.image, raw, source.white)
    mask = draw_outlines(case.outlines, image.shape)
    for path in case.masks:
        values = read_raw(path, as_mask=True, how=source.how).values
        if values.shape[:2] != image.shape:
            sizes = f"mask is {values.shape[1]}x{values.shape[0]}, its image {image.shape[1]}x{image.shape[0]}"
            hint = exif_hint(values.shape[:2], image.shape) if raw.turned else ""
            raise DataError(f"{path}: {sizes}{hint}. Export the mask again at the image's size.")
        mask |= find_lesion(values, source.reading)
    if case.label != "normal" and mask.mean() > 0.999:
        raise DataError(f"{(*case.masks, case.image)[0]}: is lesion from edge to edge. Say which values are lesion: "
                        "--mask-values, or leave the image out.")  # fmt: skip
    return Read(image, mask, raw.spacing, raw.doubt, raw.turned)
