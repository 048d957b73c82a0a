"""The page of demo.py: in a real browser, with the network that comes with the repository, and without one."""

import base64
import io
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from conftest import REPOSITORY, assert_one_clear_line, run_here, step_by_step
from dicom_files import spaced, stored
from folders import write_hospital
from phantoms import make_phantom
from PIL import Image
from visitor import Visitor

import demo
from attention_unet import build_attention_unet
from dataset import find_samples, read_sample
from segmentation.common.errors import RunError
from segmentation.page.corrections import from_editor, save_correction, training_commands
from segmentation.runs.finished import SHIPPED
from segmentation.runs.schemas import read_config
from segmentation.scoring.decision import Decision


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A folder with pictures of three formats, and what is none."""
    lab = tmp_path_factory.mktemp("lab é")
    grey = [make_phantom("malignant", seed)[0] for seed in (4, 6, 8)]
    Image.fromarray(grey[0]).save(lab / "first.png")
    Image.fromarray(grey[1]).save(lab / "second.jpg", quality=95)
    (height, width), region = grey[2].shape, "SequenceOfUltrasoundRegions"
    tissue = spaced(0.02, 0.02, RegionLocationMaxX1=width - 1, RegionLocationMaxY1=height - 1)
    stored(lab / "third.dcm", grey[2], Rows=height, Columns=width, **{region: [tissue]})
    (lab / "page.png").write_text("<!doctype html><script>alert(1)</script>")
    Image.new("L", (8000, 8000)).save(lab / "huge.png")
    return lab


@pytest.fixture(scope="module")
def proxy():
    """Where every request to another machine would go; the list holds who asked."""
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def listen():
            while True:
                try:
                    connection = listener.accept()[0]
                except OSError:  # closed: the tests are over
                    return
                asked.append(connection.recv(200))
                connection.close()

        threading.Thread(target=listen, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", asked
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def address(lab, proxy):
    """Of the page, served by `python demo.py` as a user would start it; a shell that shares pages changes nothing."""
    pytest.importorskip("gradio")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    proxies = {name: f"http://{proxy[0]}" for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy")}
    shell = proxies | {"GRADIO_SHARE": "True", "GRADIO_SERVER_NAME": "0.0.0.0", "TMPDIR": str(lab)}
    command = [sys.executable, REPOSITORY / "demo.py", "--run", SHIPPED, "--port", str(port)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    server = subprocess.Popen(command, cwd=lab, env=os.environ | shell, **pipes)
    said = server.stdout.readline()
    assert f"http://127.0.0.1:{port}" in said, said + server.communicate(timeout=60)[0]
    yield f"http://127.0.0.1:{port}"
    server.send_signal(signal.SIGTERM)
    said = server.communicate(timeout=60)[0]
    assert server.returncode == 143 and "Traceback" not in said, said
    assert not [*lab.glob("attention-unet-pictures-*")], "uploads are left behind"


@pytest.fixture(scope="module")
def visitor(address, chromium):
    """In Chromium, in front of the page."""
    chromium.get(address)
    return Visitor(chromium)


def saved(lab: Path, part: str, name: str) -> np.ndarray:
    """What was saved as images/ or masks/ of the corrections."""
    return np.asarray(Image.open(lab / "corrections" / part / f"{name}.png"))


# ---------------------------------------------------------------- in a browser


def test_three_formats_are_outlined_and_measured(visitor, lab):
    visitor.drop(lab / "first.png", lab / "second.jpg", lab / "third.dcm")
    visitor.wait_for("#results", "probability", "level 2")
    rows = [row.text for row in visitor.all(".sizes tbody tr")]  # the most doubtful first
    assert (
        all(("px" in row, " mm²" in row) == (("third" not in row), "third" in row) for row in rows) and len(rows) == 3
    )
    figures = [image.get_attribute("src").partition(",")[2] for image in visitor.all(".figures img")]
    outline = np.asarray(Image.open(io.BytesIO(base64.b64decode(figures[0]))), int)
    assert len(figures) == 6 and 0.003 < (outline[..., 0] - outline[..., 2] > 80).mean() < 0.1  # orange
    assert "For research and teaching only" in visitor.text("body")


def test_a_corrected_mask_is_saved(visitor, lab):
    """As predicted; then with a line painted at the top and the lesion's middle erased by a real pointer."""
    visitor.waiting.until(lambda _: visitor.one("#editor canvas").size["height"] > 200)
    row = next(row.text for row in visitor.all(".sizes tbody tr") if "first" in row.text)
    area = int(row.split(" px")[0].split()[-1].replace(",", ""))
    assert "0 pixels added to the outline, 0 removed" in visitor.save("first.png")
    predicted = saved(lab, "masks", "first") > 0
    assert predicted.sum() == area
    height, width = predicted.shape
    y, x = (int(places.mean()) for places in predicted.nonzero())
    visitor.stroke("brush", (0.1, 0.05), (0.3, 0.05))
    visitor.stroke("eraser", (x / width - 0.02, y / height), (x / width + 0.02, y / height))
    said = visitor.save("first-2.png")
    assert set(np.unique(saved(lab, "masks", "first-2"))) == {0, 255}
    corrected = saved(lab, "masks", "first-2") > 0
    top, middle = round(0.05 * height), slice(round(0.12 * width), round(0.28 * width))
    assert corrected[top, middle].all() and not predicted[: top + 30].any()
    assert predicted[y, x] and not corrected[y, x]
    changed = corrected != predicted
    assert changed[: top + 30].sum() + changed[y - 30 : y + 30].sum() == changed.sum()
    added, removed = (corrected & ~predicted).sum(), (predicted & ~corrected).sum()
    assert f"{added:,} pixels added" in said and f"{removed:,} removed" in said
    assert visitor.text(".command") in training_commands(Path("corrections"), SHIPPED, read_config(SHIPPED))
    for name in ("first", "first-2"):
        assert (saved(lab, "images", name) == np.asarray(Image.open(lab / "first.png"))).all()
    visitor.one("#editor [data-undo]").click()
    visitor.one("#editor [data-undo]").click()
    assert "0 pixels added to the outline, 0 removed" in visitor.save("first-3.png")


def test_another_picture_and_a_lesion_that_is_given(visitor):
    visitor.choose(2)
    visitor.wait_for(".chosen", "third.dcm")
    visitor.one("#given input").click()
    visitor.wait_for("#results", "A lesion was assumed in every picture")
    assert visitor.text(".chosen").startswith("third.dcm") and not visitor.text("#saved")
    visitor.one("#editor [data-clear]").click()
    assert "0 pixels added" in visitor.save("third.png")


def test_another_visitor_sees_nothing_of_this_one_and_on_a_phone_nothing_is_cut_off(visitor, address, lab):
    first = visitor.browser.current_window_handle
    visitor.browser.switch_to.new_window("tab")
    device = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    visitor.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)
    visitor.browser.get(address)
    visitor.drop(lab / "second.jpg", lab / "page.png")
    assert not any(name in visitor.text("body") for name in ("first.png", "third.dcm"))
    script = """const parts = "h1, h2, p, td, figcaption, button, label, code, canvas";
        return [...document.querySelectorAll(`.gradio-container :is(${parts})`)].filter((e) =>
            e.getBoundingClientRect().right > 390 || (e.innerText && e.clientWidth && e.scrollWidth > e.clientWidth + 1)
        ).map((e) => e.outerHTML.slice(0, 80))"""
    assert visitor.browser.execute_script(script) == []
    assert visitor.browser.execute_script("return document.documentElement.scrollWidth") <= 390
    fonts = visitor.browser.execute_script("return [...document.fonts].map((f) => f.family)")
    assert fonts == [], "a font that is no system font"
    assert visitor.save("second.png")
    visitor.browser.close()
    visitor.browser.switch_to.window(first)
    visitor.save("third-2.png")  # of what is on this page still


def test_no_error_and_no_request_beyond_this_machine(visitor, address, proxy):
    """Asked last: over all that was done on the page, by the browser and by the server."""
    assert [entry for entry in visitor.browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    messages = [json.loads(entry["message"])["message"] for entry in visitor.browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    ours = [url for url in asked if url.startswith(f"{address}/")]
    beyond = [url for url in asked if url not in ours and not url.startswith(("data:", "blob:", "chrome:"))]
    assert len(ours) > 50 and beyond == [] and proxy[1] == []
    with urlopen(f"{address}/config") as answer:
        config = json.load(answer)
    assert config["max_file_size"] == 100 * 2**20 and not config["analytics_enabled"] and not config["footer_links"]
    assert {function["api_visibility"] for function in config["dependencies"]} == {"private"}


# ---------------------------------------------------------------- without a browser


@pytest.fixture(scope="module")
def outliner():
    pytest.importorskip("gradio")
    from segmentation.page.demo_page import Outliner

    model = build_attention_unet((32, 32, 1), base_filters=2, depth=2)
    return Outliner(SHIPPED, model, {"network": {}}, Decision(threshold=0.0))


def test_a_bad_file_is_one_line(outliner, lab):
    from segmentation.page.demo_page import Page, Upload

    path = "../../etc/<b>passwd.png"
    uploads = [Upload(lab / name, name) for name in ("page.png", "huge.png", "first.png")]
    (seen, problems), _, _, html, *_ = Page(outliner, lab).drop([*uploads, Upload(lab / "first.png", path)], False)
    assert [picture.name for picture in seen] == ["first.png"] and "&lt;b&gt;passwd.png" in html and "<b>" not in html
    assert any(line.startswith("page.png: cannot be read as PNG, JPEG, BMP, TIFF") for line in problems)
    assert "huge.png: 8000x8000 pixels are more than 50 million. Shrink it first." in problems
    assert any(line.startswith(f"{path}: is a path") for line in problems) and len(problems) == 3


def test_a_low_lesion_score_empties_the_mask_and_is_drawn_dashed(outliner, monkeypatch):
    from segmentation.page.demo_page import Page

    image, probability = np.zeros((40, 50), np.uint8), np.zeros((32, 32), np.float32)
    probability[8:20, 8:20] = 0.9
    seen = outliner.see("a.png", image, None)._replace(probability=probability, score=0.125)
    monkeypatch.setattr(outliner, "decision", Decision(min_score=0.3))
    page = Page(outliner, Path("corrections"))
    html, low, _ = page.show(([seen], []), 0, False)
    assert "none found" in html and "dashed" in html and "0.12" in html
    html, given, _ = page.show(([seen], []), 0, True)
    assert "none found" not in html and "dashed" not in html and low != given
    assert not from_editor(low, image, np.zeros_like(image, bool)).any()
    monkeypatch.setattr(outliner, "decision", Decision(doubtful_score=0.3))
    html, doubtful, _ = page.show(([seen], []), 0, False)
    assert "1 (doubtful)" in html and "dashed: doubtful" in html and doubtful == given


def test_a_page_takes_so_many_pictures_and_pixels(outliner, tmp_path, monkeypatch):
    from segmentation.page import demo_page

    frames = [Image.new("L", (50, 40), value) for value in range(30)]
    frames[0].save(tmp_path / "loop.tif", save_all=True, append_images=frames[1:])
    loop = demo_page.Upload(tmp_path / "loop.tif", "loop.tif")
    seen, (line,) = outliner.look([loop])
    assert [seen[0].name, seen[-1].name, len(seen)] == ["loop_page1.tif", "loop_page20.tif", 20]
    assert line.startswith("The first 20 pictures are shown.")
    monkeypatch.setattr(demo_page, "MAX_PIXELS", 5 * 50 * 40)
    seen, lines = outliner.look([loop])
    assert len(seen) == 5 and lines[0].startswith("loop_page6.tif: left out")


def test_what_cannot_be_saved_is_one_line(outliner, tmp_path):
    from segmentation.page.demo_page import Page

    page = Page(outliner, tmp_path / "corrections")
    assert "Drop it again" in page.save(([], []), None, False, None)
    visit = [outliner.see("<b>.png", np.zeros((40, 50), np.uint8), (0.5, 0.2))], []
    assert "did not arrive" in page.save(visit, 0, False, None)
    assert not (tmp_path / "corrections").exists()
    html, editor, _ = page.show(visit, 0, False)
    assert "&lt;b&gt;.png" in html and "200.0 mm²" in html and "25.0 mm" not in html
    (tmp_path / "corrections").write_text("a file")
    assert "There is a file where a folder should be" in page.save(visit, 0, False, editor)


def test_a_training_goes_on_from_the_corrections(finished_run, tmp_path):
    """With the command that the page shows, of a tiny network, which needs the flags of its network."""
    for sample in find_samples(write_hospital(tmp_path / "own", count=42, seed=8, normals=2)):
        save_correction(tmp_path / "corrections", sample.image.name, *read_sample(sample))
    command, *_ = training_commands(Path("corrections"), finished_run, read_config(finished_run))
    words = shlex.split(command)
    assert words[:4] == ["python", "train_model.py", "--data-dir", "corrections"] and str(finished_run) in words
    with step_by_step():
        result = run_here(words[1], *words[2:], "--epochs", "1", "--batch-size", "40", cwd=tmp_path)
    assert_one_clear_line(result, "epoch 1 of 1 was kept", code=0)
    assert "passed over" not in result.stdout  # the folder's lock is no stray file
    assert (tmp_path / "models" / "attention_unet" / "metrics.json").exists()


def test_what_keeps_the_page_from_starting_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "segmentation.page.demo_page", raising=False)
    with pytest.raises(RunError, match="pip install -r requirements-demo.txt"):
        demo.main(demo.DemoConfig())
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(RunError, match="cannot be used .*--port"):
        demo.check_port(taken.getsockname()[1])
