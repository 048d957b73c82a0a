"""Trainings in processes of their own, on this machine or on a Ray cluster."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from segmentation.common.environment import REPOSITORY, STOP_WITH
from segmentation.common.errors import RunError
from segmentation.common.files import write_atomic
from segmentation.runs.finished import RUN_FILES

PATIENCE = 60  # seconds for a training to stop before it is killed; its files are complete in either case
PROGRESS = re.compile(r"\d+%\||\d(\.\d+)?(it|image|run|figure|batch)/s|\d[mu]?s/(it|step|image)|[━█]")


class LocalTrainer:
    """Trains in child processes, which end with `stop`, or when this process ends.

    Args:
        kept_open: descriptors that each training inherits, such as that of a lock file.
    """

    def __init__(self, kept_open: Sequence[int] = ()):
        self.kept_open = kept_open
        self._running: set[subprocess.Popen] = set()
        self._stopping = False
        self._guard = threading.Lock()

    def train(self, run: Path, arguments: list[str]) -> str:
        """Train one run, with its output in a log beside it. Returns why it failed, or ""."""
        command = [sys.executable, str(REPOSITORY / "train_model.py"), *arguments]
        command += ["--models-dir", str(run.parent), "--run", run.name]
        log = run.with_name(f"{run.name}.log")
        with self._guard:
            if self._stopping:
                return "was not started"
            log.unlink(missing_ok=True)  # a new file: not the target of a link, nor one that is still written to
            with log.open("x") as output:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, STOP_WITH: str(os.getpid())},
                    start_new_session=True,  # the terminal's Ctrl-C does not reach it, only `stop` does
                    pass_fds=self.kept_open if os.name == "posix" else (),
                )
            self._running.add(process)
        code = process.wait()
        self._running.discard(process)
        return why_failed(code, log.read_text(errors="replace")) if code else ""

    def stop(self) -> None:
        """Stop each training after its current step, and start no other. A second call kills them."""
        with self._guard:
            again, self._stopping = self._stopping, True
            running = list(self._running)
        for process in running:
            _send(process, signal.SIGKILL if again and os.name == "posix" else signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE
        for process in running:
            try:
                process.wait(max(deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                _send(process, signal.SIGKILL)


def _send(process: subprocess.Popen, number: int) -> None:
    with suppress(ProcessLookupError):
        if os.name == "posix":
            os.killpg(process.pid, number)  # with its child processes
        else:
            process.terminate()


def why_failed(code: int, log: str) -> str:
    """Why a training failed, in one line.

    Args:
        code: the exit code, negative for a signal.
        log: the training's output.
    """
    printed = [text for line in re.split(r"[\r\n]", log) if (text := line.strip("╭╮╰╯│─ \b"))]
    lines = [line for line in printed if not PROGRESS.search(line)]
    if errors := [line for line in lines if line.startswith("error: ")]:
        return errors[-1].removeprefix("error: ")[:300]
    if code == 2:  # tyro refuses settings in a box of several lines
        return "; ".join(lines)[:300]
    if code < 0:
        return f"killed by signal {-code} ({signal.strsignal(-code)})" + (", out of memory?" if code == -9 else "")
    return lines[-1][-300:] if lines else f"exit code {code}, and no output"


class RayTrainer:
    """As `LocalTrainer`, but trains on a Ray cluster and copies the run's files back.

    Ray copies the scripts to each machine; --data-dir must exist on every machine.
    """

    def __init__(self, address: str):
        try:
            import ray
        except ImportError:
            raise RunError("--ray needs Ray: pip install ray") from None
        self._ray = ray
        # Without data, runs and git history, which may be large. Trainings start from the repository's own two runs.
        own = ["models/*", "!models/attention_unet_hospitals", "!models/attention_unet_bus_bra"]
        environment = {"working_dir": str(REPOSITORY), "excludes": ["data/**/*.png", *own, ".git/", "docs/", "*.zip"]}
        try:
            ray.init(None if address == "local" else address, runtime_env=environment, log_to_driver=False)
        except (ConnectionError, ValueError) as error:
            raise RunError(f"--ray {address}: no cluster there ({error}).") from None

        @ray.remote(num_cpus=1, max_retries=2)
        def train_there(name: str, arguments: list[str]) -> tuple[str, str, dict[str, bytes]]:
            import tempfile

            from segmentation.runs.workers import LocalTrainer

            with tempfile.TemporaryDirectory() as temporary:
                run = Path(temporary) / name
                problem = LocalTrainer().train(run, arguments)
                files = {file: (run / file).read_bytes() for file in RUN_FILES if (run / file).exists()}
                return problem, run.with_name(f"{name}.log").read_text(errors="replace"), files

        self._train_there = train_there

    def train(self, run: Path, arguments: list[str]) -> str:
        """Train one run. Returns why it failed, or ""."""
        try:
            problem, log, files = self._ray.get(self._train_there.remote(run.name, arguments))
        except self._ray.exceptions.RayError as error:
            return str(error).splitlines()[0][:300]
        log_file = run.with_name(f"{run.name}.log")
        write_atomic(log_file, lambda temporary: temporary.write_bytes(log.encode()))
        if problem and (run.exists() or not files):
            return problem  # keep the unfinished run that is already here
        run.mkdir(exist_ok=True)
        # Removed in reverse order and written in order: a stop in between never leaves files of two trainings.
        for name in reversed(RUN_FILES):
            (run / name).unlink(missing_ok=True)
        for name in filter(files.__contains__, RUN_FILES):
            write_atomic(run / name, lambda temporary, content=files[name]: temporary.write_bytes(content))
        return problem

    def stop(self) -> None:
        """Disconnect from the cluster, which ends this command's tasks and their trainings."""
        self._ray.shutdown()
