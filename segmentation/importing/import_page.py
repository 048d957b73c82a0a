"""import.html: what was understood of the sources, and a contact sheet, the doubtful first, in one file."""

import base64
from collections.abc import Sequence
from pathlib import Path

import jinja2

from segmentation.common.files import write_text
from segmentation.importing.plain_form import Kept

MOST = 400  # pictures of a sort on the page


def write_page(path: Path, lines: Sequence[tuple[str, str]], kept: Sequence[Kept], pairs: Sequence[dict]) -> None:
    """Write the page.

    Args:
        path: of the file.
        lines: (word, text) of what was understood.
        kept: all cases, with their doubts.
        pairs: near-copies to look at: two indices of `kept`, `a` and `b`, and why, `text`.
    """
    doubtful = sorted((k for k in kept if k.doubts), key=lambda k: -len(k.doubts))[:MOST]
    others = [k for k in kept if not k.doubts]
    # Of the others, those whose lesion is least like one first, then some of all.
    strange = sorted((k for k in others if k.area), key=lambda k: -k.brighter)[:24]
    rest = [k for k in others if k not in strange]
    some = rest[:: max(-(-len(rest) // MOST), 1)]
    parts = [(f"Doubtful: {len(kept) - len(others)}", doubtful),
             ("Lesions that differ least from what is around them", strange),
             (f"{'Some' if len(some) < len(rest) else 'All'} of the other {len(rest)}", some)]  # fmt: skip
    templates = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True)
    templates.filters["jpeg"] = lambda content: "data:image/jpeg;base64," + base64.b64encode(content).decode()
    page = templates.get_template("import.html.jinja")
    write_text(path, page.render(lines=lines, parts=parts, pairs=pairs, kept=kept))
