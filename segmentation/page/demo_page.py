"""The page of demo.py, made with Gradio: it outlines lesions in uploaded pictures, and saves corrected masks.

The pictures of each visitor are kept in the visitor's own Gradio session, not in global variables. The page loads no
file, font or script from another machine.
"""

import html
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import cv2
import jinja2
import keras
import numpy as np

from dataset import MAX_PIXELS, DataError
from segmentation.common.errors import RunError, hint
from segmentation.common.files import lock_folder
from segmentation.data.appearance import unlike_training
from segmentation.data.splits import LESIONS_NEEDED
from segmentation.inference.own_images import range_of
from segmentation.page import corrections
from segmentation.pictures.picture_files import Picture, forget_frames, list_pages, read_picture
from segmentation.reports.overlays import draw_overlay, jpeg
from segmentation.reports.report import attention, attention_network
from segmentation.scoring.decision import Decision, doubtful_mask, override_decision, to_mask
from segmentation.scoring.doubt import find_doubt
from segmentation.scoring.measure import measure
from segmentation.scoring.prediction import predict_pictures

for name in [name for name in os.environ if name.startswith("GRADIO_")]:
    del os.environ[name]  # such as GRADIO_SHARE: this page is only for this machine
os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}

import gradio as gr  # noqa: E402  after its environment
import uvicorn  # noqa: E402  with Gradio, as Starlette is
from gradio.http_server import Server  # noqa: E402
from starlette.applications import Starlette  # noqa: E402
from starlette.middleware import Middleware  # noqa: E402
from starlette.middleware.cors import CORSMiddleware  # noqa: E402
from starlette.middleware.trustedhost import TrustedHostMiddleware  # noqa: E402

HERE = Path(__file__).parent
MAX_PICTURES, MAX_UPLOAD = 20, "100mb"  # on the page at a time; of a file
MAX_VISITORS, MAX_WAITING = 20, 20  # whose pictures are kept; whose pictures wait for the network
HOSTS = ["127.0.0.1", "localhost", "[::1]"]  # names of this machine, at any port
UPLOADS = "attention-unet-pictures-"  # prefix of the temporary folder of uploads
LOST = "The picture is no longer here. Drop it again."
FONTS = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]


class Upload(NamedTuple):
    """An uploaded file."""

    path: Path  # on the server
    name: str  # on the visitor's machine


class Seen(NamedTuple):
    """A picture and the network's outputs for it."""

    name: str
    image: np.ndarray  # (H, W) uint8
    spacing: tuple[float, float] | None  # mm between rows and between columns
    probability: np.ndarray  # (S, S) float32, calibrated
    score: float | None  # lesion score, calibrated; None if the network has none
    alphas: dict[str, np.ndarray]  # attention coefficients of each gate, (h, w)


Visit = tuple[list[Seen], list[str]]  # the pictures of a visitor, and the problems with the other files


# ---------------------------------------------------------------- predict


class Outliner:
    """Reads pictures, and predicts on them with a run's network.

    Args:
        run: the run's folder.
        model, stored: from `load_run`.
        decision: how a probability becomes a mask.
        spacing: mm between pixels, for files that do not contain it.
    """

    def __init__(self, run: Path, model: keras.Model, stored: dict, decision: Decision, spacing: float | None = None):
        self.run, self.model, self.stored, self.decision = run, model, stored, decision
        self.spacing = (spacing, spacing) if spacing else None
        self.gates = attention_network(model)
        self.see("", np.zeros((8, 8), np.uint8), None)  # TensorFlow traces the network now, not for the first visitor

    def see(self, name: str, image: np.ndarray, spacing: tuple[float, float] | None) -> Seen:
        """Predict on one picture, (H, W) uint8."""
        ((probability, score),) = predict_pictures(self.model, [image], self.decision, batch_size=1).each()
        alphas = {gate: maps[0] for gate, maps in attention(self.gates, [image]).items()}
        return Seen(name, image, spacing or self.spacing, probability, score, alphas)

    def masks(self, seen: Seen, given: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """The predicted mask, and the one with a dashed outline (`doubtful_mask`), if any; each (H, W) bool.

        Args:
            given: whether lesion presence is given.
        """
        parts = seen.probability, seen.image.shape, override_decision(self.decision, lesion_given=given), seen.score
        return to_mask(*parts), doubtful_mask(*parts)

    def look(self, uploads: Sequence[Upload]) -> Visit:
        """Read files and predict. Returns the pictures, and a line for each file that cannot be used."""
        seen, problems, pixels = [], [], 0
        white = range_of([upload.path for upload in uploads])
        for name, picture in _list_pictures(uploads, problems):
            if len(seen) == MAX_PICTURES:
                problems.append(f"The first {MAX_PICTURES} pictures are shown. For more: visualize_results.py --images")
                break
            try:
                image, spacing = read_picture(picture, white)
                if pixels + image.size > MAX_PIXELS:
                    raise DataError(f"{name}: left out, the page holds at most {MAX_PIXELS // 10**6} million pixels.")
                seen.append(self.see(name, image, spacing))
                pixels += image.size
            except (DataError, RunError) as error:
                problems.append(str(error).replace(str(picture.path), name))
        forget_frames()  # a cine loop may have hundreds more than are shown
        return seen, problems


def _list_pictures(uploads: Sequence[Upload], problems: list[str]) -> Iterator[tuple[str, Picture]]:
    """Name and location of each picture in the files; a line for each unusable file is added to `problems`."""
    for path, name in uploads:
        if Path(name.replace("\\", "/")).name != name:
            problems.append(f"{name}: is a path, not the name of a file. Rename the file.")
            continue
        try:
            pages = list_pages(path)
        except DataError as error:
            problems.append(str(error).replace(str(path), name))
            continue
        for picture in pages:
            yield name if len(pages) == 1 else f"{Path(name).stem}_page{picture.page + 1}{Path(name).suffix}", picture


# ---------------------------------------------------------------- HTML


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


_JINJA = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
_RESULTS, _SAVED = (_JINJA.from_string(_read(f"demo_{name}.html.jinja")) for name in ("results", "saved"))


def describe_visit(outliner: Outliner, seen: Sequence[Seen], problems: Sequence[str], chosen: int, given: bool) -> str:
    """Problems, a table of all pictures, the most doubtful first, and the figures of the selected one, as HTML."""
    rows, figures, warning = [], [], ""
    for number, picture in enumerate(seen):
        mask, doubtful = outliner.masks(picture, given)
        score = "" if picture.score is None else f"{picture.score:.2f}"
        full = cv2.resize(picture.probability, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
        found = "none found" if not mask.any() else f"{_count(mask)}" + " (doubtful)" * (doubtful is not None)
        row = {"name": picture.name, "number": number, "score": score, "lesions": found}
        row["doubt"] = find_doubt(full, mask, None if given else picture.score, doubtful is not None)
        rows.append(row | _sizes(mask, picture.spacing))
    rows.sort(key=lambda row: -row["doubt"])
    if seen:
        figures = [(jpeg(rgb), caption) for rgb, caption in _figures(outliner, seen[chosen], given)]
        warning = ", ".join(unlike_training(seen[chosen].image, outliner.stored.get("appearance") or {}))
    pixels = any(picture.spacing is None for picture in seen)
    return _RESULTS.render(
        problems=problems,
        rows=rows,
        chosen=chosen,
        name=seen[chosen].name if seen else "",
        figures=figures,
        warning=warning,
        pixels=pixels,
        given=given,
    )


def _count(mask: np.ndarray) -> int:
    return cv2.connectedComponents(mask.astype(np.uint8))[0] - 1


def _sizes(mask: np.ndarray, spacing: tuple[float, float] | None) -> dict[str, str]:
    """Area of all lesions and axes of the largest, in mm if the spacing is known."""
    if not mask.any():
        return dict.fromkeys(("area", "longest", "across"), "–")
    unit, digits, pixel = ("mm", 1, spacing[0] * spacing[1]) if spacing else ("px", 0, 1)
    sizes = measure(mask, spacing)
    return {
        "area": f"{mask.sum() * pixel:,.{digits}f} {unit}" + "²" * (spacing is not None),
        "longest": f"{sizes[f'longest_{unit}']:.{digits}f} {unit}",
        "across": f"{sizes[f'across_{unit}']:.{digits}f} {unit}",
    }


def _figures(outliner: Outliner, seen: Seen, given: bool) -> Iterator[tuple[np.ndarray, str]]:
    """Figures of a picture, (h, w, 3) uint8 RGB, and their captions."""
    mask, doubtful = outliner.masks(seen, given)
    dashed = f"dashed: {'doubtful' if mask.any() else 'not marked'}, because the lesion score is below the cut-off"
    yield draw_overlay(seen.image, mask, doubtful=doubtful), "outline" if doubtful is None else dashed
    yield _heat_map(seen.image, seen.probability, 0, 1), "probability of a lesion: dark blue 0, yellow 1"
    for gate, alpha in seen.alphas.items():
        low, high = float(alpha.min()), float(alpha.max())
        level = gate.split("_")[1]
        yield _heat_map(seen.image, alpha, low, high), f"attention at level {level}: {low:.2f} to {high:.2f}"


def _heat_map(image: np.ndarray, values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values (h, w) over a picture (H, W) uint8: (h, w, 3) uint8 RGB."""
    picture = draw_overlay(image, np.zeros_like(image))
    scaled = ((values - low) / max(high - low, 1e-6) * 255).clip(0, 255).astype(np.uint8)
    scaled = cv2.resize(scaled, picture.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return cv2.addWeighted(cv2.applyColorMap(scaled, cv2.COLORMAP_VIRIDIS)[..., ::-1], 0.65, picture, 0.35, 0)


# ---------------------------------------------------------------- the page

PAGE_HEADER = """<h1>Lesion outlines in breast ultrasound</h1>
<p class="notice"><b>For research and teaching only.</b> This is not a medical device. Do not use it for decisions about
a patient. The network outlines lesions in many pictures that hold none.</p>
<p class="quiet">Network: {run}. Your pictures stay on the computer that serves this page.</p>"""
CORRECT = """<h2>Correct it</h2>
<p>Paint what belongs to the lesion, erase what does not, and save: picture and mask become training data. If there is
no lesion, erase everything.</p>"""


def read_payload(payload) -> list[Upload]:
    """Replaces `preprocess` of Gradio's `File`, which drops the file's name and leaves an empty file behind."""
    return [Upload(Path(file.path), file.orig_name or Path(file.path).name) for file in payload or []]


class Page:
    """The page and its event handlers.

    Args:
        outliner: the network.
        folder: the folder of corrections.
    """

    def __init__(self, outliner: Outliner, folder: Path):
        self.outliner, self.folder = outliner, folder

    def drop(self, uploads: list[Upload], given: bool) -> tuple:
        """Handle added or removed files."""
        visit = self.outliner.look(uploads)
        names = [(f"{number}. {picture.name}", number - 1) for number, picture in enumerate(visit[0], start=1)]
        first = 0 if names else None
        chooser = gr.Dropdown(names, value=first, visible=len(names) > 1)
        return visit, chooser, gr.Column(visible=bool(names)), *self.show(visit, first, given)

    def show(self, visit: Visit, chosen: int | None, given: bool) -> tuple[str, dict | None, str]:
        """Results as HTML, the value of the editor, and an empty text below it."""
        seen, problems = visit
        if chosen is not None and not seen:
            problems = [LOST]
        chosen = chosen or 0
        editor = None
        if seen:
            editor = corrections.to_editor(seen[chosen].image, self.outliner.masks(seen[chosen], given)[0])
        return describe_visit(self.outliner, seen, problems, chosen, given), editor, ""

    def save(self, visit: Visit, chosen: int | None, given: bool, value: object) -> str:
        """Save the corrected mask. Returns a message as HTML."""
        try:
            if not visit[0]:
                raise DataError(LOST)
            picture = visit[0][chosen or 0]
            predicted, _ = self.outliner.masks(picture, given)
            mask = corrections.from_editor(value, picture.image, predicted)
            name = corrections.save_correction(self.folder, picture.name, picture.image, mask)
        except (DataError, RunError) as error:
            return _SAVED.render(problem=str(error))
        except OSError as error:
            return _SAVED.render(problem=f"{error.filename}: {error.strerror}. {hint(error)}".strip())
        return _SAVED.render(
            problem="",
            name=name,
            folder=self.folder,
            added=int((mask & ~predicted).sum()),
            removed=int((predicted & ~mask).sum()),
            count=corrections.count_corrections(self.folder),
            needed=LESIONS_NEEDED,
            commands=list(corrections.training_commands(self.folder, self.outliner.run, self.outliner.stored)),
        )

    def build(self) -> gr.Blocks:
        """Build the page."""
        with gr.Blocks(title="Lesion outlines", analytics_enabled=False, delete_cache=(600, 3600)) as page:
            gr.HTML(PAGE_HEADER.format(run=html.escape(str(self.outliner.run))))
            files = gr.File(label="Pictures: PNG, JPEG, BMP, TIFF, DICOM", file_count="multiple", elem_id="files")
            files.preprocess = read_payload  # not a subclass, beside whose module Gradio would write a .pyi file
            given = gr.Checkbox(label="A lesion is known to be in each picture", elem_id="given")
            visit = gr.State(([], []))
            chosen = gr.Dropdown(label="Picture that is shown", visible=False, elem_id="chosen")
            chosen.preprocess = lambda value: value  # of a visitor whose choices are forgotten, as their pictures are
            results = gr.HTML(elem_id="results", apply_default_css=False)
            with gr.Column(visible=False) as correct:
                gr.HTML(CORRECT)
                editor = gr.HTML(
                    html_template=_read("mask_editor.html"), js_on_load=_read("mask_editor.js"), elem_id="editor"
                )
                save = gr.Button("Save picture and mask", variant="primary", elem_id="save")
                saved = gr.HTML(elem_id="saved", apply_default_css=False)
            shown = [results, editor, saved]
            private = {"api_visibility": "private"}
            files.change(self.drop, [files, given], [visit, chosen, correct, *shown], **private)
            for switch in (given, chosen):
                switch.input(self.show, [visit, chosen, given], shown, **private)
            save.click(self.save, [visit, chosen, given, editor], saved, **private)
        return page.queue(max_size=MAX_WAITING, default_concurrency_limit=1)


def remove_leftovers() -> None:
    """Remove uploads that a killed server left behind: nobody holds the lock of such a folder."""
    for lock in Path(tempfile.gettempdir()).glob(f"{UPLOADS}*/.lock"):
        with suppress(OSError, RunError):  # another user's, or one of a server that runs
            with lock_folder(lock.parent, "page"):
                pass
            shutil.rmtree(lock.parent)


def mount(page: gr.Blocks, root_path: str = "") -> Starlette:
    """The page as an application that answers requests to this machine only, and none from pages of other origins.

    Args:
        root_path: the page's address behind a proxy; its host is answered too.
    """
    hosts = [*HOSTS, urlsplit(root_path).hostname] if root_path else HOSTS
    only_here = Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    page.state_session_capacity = MAX_VISITORS
    return gr.mount_gradio_app(
        Starlette(middleware=[only_here, Middleware(CORSMiddleware)]),  # the latter allows no other origin
        page,
        path="/",
        root_path=root_path,
        max_file_size=MAX_UPLOAD,
        ssr_mode=False,
        run_history=False,
        enable_monitoring=False,
        footer_links=[],
        theme=gr.themes.Default(font=FONTS[0], font_mono=FONTS[1], primary_hue="amber"),
        css_paths=HERE / "demo_page.css",
    )


def serve(outliner: Outliner, folder: Path, port: int, root_path: str = "") -> None:
    """Serve the page on this machine only, until a signal; then remove the uploaded files."""
    remove_leftovers()
    with tempfile.TemporaryDirectory(prefix=UPLOADS) as uploads, lock_folder(Path(uploads), "page"):
        os.environ["GRADIO_TEMP_DIR"] = uploads
        app = mount(Page(outliner, folder).build(), root_path)
        server = Server(uvicorn.Config(app, port=port, log_level="warning"))  # of 127.0.0.1
        server.run_in_thread()
        print(f"open {root_path or f'http://127.0.0.1:{port}'} in your browser; Ctrl-C ends this page", flush=True)
        try:
            while True:
                time.sleep(3600)
        finally:
            app.routes[0].app.stop_event.set()  # Gradio's: ends the connections that each open page keeps
            server.close()
