"""The page of demo.py behind a proxy, in a real browser: who is answered, what is kept, and what is left behind.

One server is started, as Jupyter would reach it: under a prefix, and with the host that the browser asked for.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager

import numpy as np
import pytest
from conftest import REPOSITORY
from dicom_files import speckle, stored
from phantoms import make_phantom
from PIL import Image
from visitor import Visitor

import demo
from attention_unet import build_attention_unet
from dataset import DataError, find_samples
from segmentation.common.files import lock_folder
from segmentation.page import corrections
from segmentation.runs.finished import SHIPPED
from segmentation.scoring.decision import Decision, save_decision

pytest.importorskip("gradio")
import httpx  # with Gradio, as those below are
import uvicorn
from gradio.http_server import Server
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from segmentation.page import demo_page

PREFIX, HOST = "/user/me/proxy/7860", "hub.localhost"  # which is this machine to a browser


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def forward(port: int) -> Starlette:
    """A proxy that takes the prefix off and passes everything else on, as jupyter-server-proxy does."""
    client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=None)

    @asynccontextmanager
    async def closing(_):
        async with client:
            yield

    async def pass_on(request: Request):
        url = httpx.URL(path="/" + request.path_params["rest"], query=request.url.query.encode())
        asked = client.build_request(request.method, url, headers=request.headers.raw, content=request.stream())
        answer = await client.send(asked, stream=True)
        return StreamingResponse(answer.aiter_raw(), answer.status_code, dict(answer.headers))

    route = Route(PREFIX + "/{rest:path}", pass_on, methods=["GET", "POST", "HEAD", "OPTIONS"])
    return Starlette(routes=[route], lifespan=closing)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A folder with two pictures, and what other programs left in its folder for temporary files."""
    lab = tmp_path_factory.mktemp("lab")
    for name, seed in (("first", 4), ("second", 6)):
        Image.fromarray(make_phantom("malignant", seed)[0]).save(lab / f"{name}.png")
    for name in ("attention-unet-pictures-killed", "attention-unet-pictures-runs", "attention-unet-pictures-", "other"):
        (lab / "tmp" / name).mkdir(parents=True)
    for name in ("attention-unet-pictures-killed", "attention-unet-pictures-runs", "other"):
        (lab / "tmp" / name / ".lock").touch()
    return lab


@pytest.fixture(scope="module")
def server(lab, finished_run):
    """The process, its own address and its address behind the proxy. The network is a tiny one and outlines nothing."""
    run = shutil.copytree(finished_run, lab / "run")
    save_decision(run / "decision.json", Decision(threshold=1.0))
    port, outside = free_port(), free_port()
    root_path = f"http://{HOST}:{outside}{PREFIX}"
    command = [sys.executable, REPOSITORY / "demo.py", "--run", run, "--port", str(port), "--root-path", root_path]
    with lock_folder(lab / "tmp" / "attention-unet-pictures-runs", "test"):
        process = subprocess.Popen(command, cwd=lab, env=os.environ | {"TMPDIR": str(lab / "tmp")},
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
        said = process.stdout.readline()
        assert said.startswith(f"open {root_path} in"), said + process.communicate(timeout=60)[0]
        proxy = Server(uvicorn.Config(forward(port), port=outside, log_level="warning", timeout_graceful_shutdown=1))
        proxy.run_in_thread()
        yield process, f"http://127.0.0.1:{port}", root_path
    process.kill()
    process.communicate()
    proxy.close()


@pytest.fixture(scope="module")
def visitor(server, lab, chromium):
    """In Chromium, in front of the page, with both pictures dropped."""
    chromium.get(server[2])
    visitor = Visitor(chromium)
    visitor.drop(lab / "first.png", lab / "second.png")
    visitor.waiting.until(lambda _: visitor.one("#editor canvas").size["height"] > 200)
    return visitor


# ---------------------------------------------------------------- who is answered


@pytest.mark.parametrize(
    ("host", "code"),
    [("127.0.0.1:7860", 200), ("localhost:7860", 200), ("[::1]:7860", 200), (f"{HOST}:80", 200)]
    + [("evil.example", 400), ("127.0.0.1.evil.example:7860", 400), ("", 400)],
)
def test_only_names_of_this_machine_and_of_the_proxy_are_answered(server, host, code):
    answer = httpx.get(f"{server[1]}/config", headers={"Host": host})
    assert answer.status_code == code and ("components" in answer.text) == (code == 200)


@pytest.mark.parametrize("host", ["127.0.0.1", HOST])
def test_a_page_of_another_address_may_read_nothing(server, host):
    headers = {"Host": host, "Origin": "http://evil.example"}
    asked = headers | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    for answer in (
        httpx.get(f"{server[1]}/config", headers=headers),
        httpx.options(f"{server[1]}/gradio_api/queue/join", headers=asked),
    ):
        assert not {"access-control-allow-origin", "access-control-allow-credentials"} & set(answer.headers)
    assert answer.status_code == 400


def test_the_address_behind_a_proxy_is_a_whole_one():
    for wrong in ("/user/me", "hub.example/x", "http://", "https://a b", "javascript://x"):
        with pytest.raises(ValueError, match="--root-path"):
            demo.DemoConfig(root_path=wrong)
    assert demo.DemoConfig(root_path="https://hub.example:8000/user/me@x/proxy/7860/").root_path


# ---------------------------------------------------------------- in a browser, through the proxy


def test_what_was_painted_is_there_when_a_picture_is_chosen_again(visitor):
    visitor.stroke("brush", (0.2, 0.05), (0.3, 0.05))
    visitor.choose(1)
    visitor.wait_for(".chosen", "second.png")
    visitor.save("second.png", "0 pixels added to the outline, 0 removed")
    visitor.choose(0)
    visitor.wait_for(".chosen", "first.png")
    visitor.waiting.until(lambda _: visitor.one("#editor [data-undo]").is_enabled())
    said = visitor.save("first.png", "pixels added to the outline, 0 removed")
    assert " 0 pixels added" not in said.replace("\n", " ")
    visitor.one("#editor [data-undo]").click()
    visitor.save("first-2.png", "0 pixels added to the outline, 0 removed")


def test_everything_comes_through_the_proxy(visitor, server):
    browser, top = visitor.browser, server[2].removesuffix(PREFIX)
    by_browser = {f"{top}/manifest.json", f"{top}/favicon.ico"}  # Gradio's page names the first there; both do nothing
    wrong = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert [line for line in wrong if not any(url in line for url in by_browser)] == []
    script = "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    asked = [url for url in browser.execute_script(script) if not url.startswith(("data:", "blob:"))]
    assert len(asked) > 30 and {url for url in asked if not url.startswith(server[2])} <= by_browser


def test_the_pictures_of_the_20_latest_visitors_are_kept(visitor, server):
    config = httpx.get(f"{server[1]}/config").json()
    show = next(function for function in config["dependencies"] if function["api_name"] == "show")
    for number in range(demo_page.MAX_VISITORS):
        call = {"data": [None, None, False], "fn_index": show["id"], "session_hash": f"visitor{number}"}
        while httpx.post(f"{server[1]}/gradio_api/queue/join", json=call).status_code == 503:  # too many wait
            time.sleep(0.2)
        with httpx.stream("GET", f"{server[1]}/gradio_api/queue/data?session_hash=visitor{number}") as answer:
            assert any("process_completed" in line for line in answer.iter_lines())
    visitor.save(demo_page.LOST)
    visitor.choose(1)
    visitor.wait_for("#results", demo_page.LOST)


# ---------------------------------------------------------------- what is left behind


def test_what_a_killed_server_left_is_removed_by_the_next(visitor, server, lab, monkeypatch):
    """The last test of the server: it is killed."""
    names = {path.name for path in (lab / "tmp").glob("[ao][!.]*")}
    kept = {"attention-unet-pictures-", "attention-unet-pictures-runs", "other"}
    assert names > kept and "attention-unet-pictures-killed" not in names
    (mine,) = names - kept
    assert len(list((lab / "tmp" / mine).rglob("*.png"))) == 2
    monkeypatch.setattr("tempfile.tempdir", str(lab / "tmp"))
    demo_page.remove_leftovers()
    assert (lab / "tmp" / mine).exists()
    server[0].send_signal(signal.SIGKILL)
    server[0].wait()
    demo_page.remove_leftovers()
    assert {path.name for path in (lab / "tmp").glob("[ao][!.]*")} == kept


def test_no_frame_of_a_loop_is_held_that_is_not_shown(tmp_path):
    from segmentation.pictures import picture_files

    model = build_attention_unet((32, 32, 1), base_filters=2, depth=2)
    outliner = demo_page.Outliner(SHIPPED, model, {"network": {}}, Decision(threshold=0.0))
    stored(tmp_path / "loop.dcm", speckle(30), frames=30)
    seen, _ = outliner.look([demo_page.Upload(tmp_path / "loop.dcm", "loop.dcm")])
    assert len(seen) == demo_page.MAX_PICTURES and picture_files._all_frames.cache_info().currsize == 0
    assert all(picture.image.base is None for picture in seen), "a view holds the whole loop"
    page = demo_page.Page(outliner, tmp_path)
    assert demo_page.LOST in page.show(([], []), 0, False)[0]
    for uploads in ([], [demo_page.Upload(tmp_path / "none.png", "none.png")]):  # never had one
        assert demo_page.LOST not in page.drop(uploads, False)[3]


def test_an_image_that_a_kill_left_behind_is_named_by_a_training(tmp_path):
    mask = np.zeros((30, 40), bool)
    mask[5:12, 7:20] = True
    for name in ("a.png", "b.png"):
        corrections.save_correction(tmp_path, name, mask.astype(np.uint8) * 90, mask)
    assert [sample.label for sample in find_samples(tmp_path)] == ["lesion", "lesion"]
    shutil.copy(tmp_path / "images" / "b.png", tmp_path / "images" / "c.png")  # its mask and its row come later
    with pytest.raises(DataError, match="images/c.png: is not in meta.csv"):
        find_samples(tmp_path)
