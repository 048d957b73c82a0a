"""Does the memory of demo.py's server stay flat? It uploads phantoms one after another, each as another visitor or as
the same one, and prints the server's memory on the way. Linux only.

python benchmarks/demo_memory.py --run models/attention_unet_hospitals
"""

import json
import socket
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from urllib.request import Request, urlopen

sys.path.insert(0, str(Path(__file__).parent.parent))

import cv2
import tyro

from tests.phantoms import make_phantom

SHOWN = (1, 20, 50, 100, 150, 200)  # after so many uploads


class Visitor:
    """Somebody in front of the page, without a browser."""

    def __init__(self, address: str):
        self.api, self.session = f"{address}/gradio_api", uuid.uuid4().hex
        with urlopen(f"{address}/config") as answer:
            config = json.load(answer)
        self.calls = {tuple(target): call for call in config["dependencies"] for target in call["targets"]}
        self.ids = {c["props"].get("elem_id"): c["id"] for c in config["components"]}

    def drop(self, name: str, content: bytes) -> list:
        """Upload a picture. Returns what comes back for the page."""
        head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        form = {"Content-Type": "multipart/form-data; boundary=x"}
        with urlopen(Request(f"{self.api}/upload", head + content + b"\r\n--x--\r\n", form)) as answer:
            (path,) = json.load(answer)
        file = {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}
        call = self.calls[self.ids["files"], "change"]
        body = {"data": [[file], False], "fn_index": call["id"], "session_hash": self.session}
        urlopen(Request(f"{self.api}/queue/join", json.dumps(body).encode(), {"Content-Type": "application/json"}))
        with urlopen(f"{self.api}/queue/data?session_hash={self.session}") as events:
            for line in events:
                event = json.loads(line.removeprefix(b"data:")) if line.startswith(b"data:") else {}
                if event.get("msg") == "process_completed":
                    assert event["success"], event
                    return event["output"]["data"]


def mebibytes(process: int) -> float:
    """Memory of a process that lies in RAM."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def main(run: Path, uploads: int = 200) -> None:
    """Upload and print."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, Path(__file__).parent.parent / "demo.py", "--run", run.resolve(), "--port", str(port)]
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder)
        try:
            assert "open http" in server.stdout.readline()
            print(f"| uploads | MiB |\n|---|---|\n| 0 | {mebibytes(server.pid):.0f} |")
            visitor = Visitor(f"http://127.0.0.1:{port}")
            for number in range(1, uploads + 1):
                if number % 2:
                    visitor = Visitor(f"http://127.0.0.1:{port}")
                picture, _ = make_phantom("malignant", number)
                results = visitor.drop(f"{number}.png", cv2.imencode(".png", picture)[1].tobytes())
                assert f"{number}.png" in json.dumps(results)
                if number in SHOWN or number == uploads:
                    print(f"| {number} | {mebibytes(server.pid):.0f} |", flush=True)
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
