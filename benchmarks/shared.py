"""What the benchmarks share: the default network, stopwatches, processes that take turns, and the JSON of a result.

Import it before anything of the project: it lets Python find the project.
"""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from segmentation.runs.finished import SHIPPED
from segmentation.runs.schemas import read_config


def default_settings() -> dict:
    """Settings of the training of the network that comes with the repository, by their names in train_model.py."""
    return read_config(SHIPPED)["config"]


def default_network(**changes) -> dict:
    """Arguments of `segmentation.runs.run_folder.build_network` for that network; `changes` replace some of them."""
    return read_config(SHIPPED)["network"] | changes


def seconds(call: Callable) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def rate(call: Callable, seconds: float) -> float:
    """Calls a second."""
    call()
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds or count < 2:
        call()
        count += 1
    return count / (time.perf_counter() - started)


class Worker:
    """A process that holds one network and works when asked: `python script --worker name`."""

    def __init__(self, script: str, name: str):
        command = [sys.executable, script, "--worker", name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ask("facts", 0)  # has built and compiled

    def ask(self, what: str, seconds: float):
        """What the script's own side of the worker answers."""
        self.process.stdin.write(json.dumps([what, seconds]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def write_result(path: Path, packages: tuple[str, ...], **result) -> None:
    """Write a result as JSON, with the date, the machine and the versions of those packages that are installed."""
    versions = {package: version(package) for package in packages if find_spec(package.replace("-", "_"))}
    machine = {"date": str(date.today()), "machine": platform.platform(), "cores": os.cpu_count()}
    path.write_text(json.dumps({**machine, "versions": versions, **result}, indent=1) + "\n", encoding="utf-8")
