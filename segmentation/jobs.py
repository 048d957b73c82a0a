"""One training in a process of its own, on this machine or on a Ray cluster."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from segmentation.errors import RunError

HERE = Path(__file__).parent.parent  # train_model.py is here
RESULTS = ("metrics.json", "history.csv", "split.json", "decision.json", "config.json", "best.keras")


def train_here(run: Path, arguments: list[str]) -> str:
    """One training in a process of its own, with its output in a log beside the run; why it failed, or ""."""
    command = [sys.executable, str(HERE / "train_model.py"), *arguments]
    command += ["--models-dir", str(run.parent), "--run", run.name]
    log = run.with_name(f"{run.name}.log")
    with log.open("w") as output:
        process = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False)
    if not process.returncode:
        return ""
    lines = [text for line in log.read_text(errors="replace").splitlines() if (text := line.strip("╭╮╰╯│─ "))]
    # Refused settings (2) are told in a box of several lines, anything else in the last one.
    return ("; ".join(lines)[:300] if process.returncode == 2 else "".join(lines[-1:])[-300:]) or "no output"


def ray_trainer(address: str) -> Callable[[Path, list[str]], str]:
    """As `train_here`, on any machine of a Ray cluster; the run's files come back.

    The scripts travel with the task; --data-dir must be a path that every machine has.
    """
    try:
        import ray
    except ImportError:
        raise RunError("--ray needs Ray: pip install ray") from None
    # Without data, models and git history, which may be large.
    environment = {"working_dir": str(HERE), "excludes": ["data/**/*.png", "models/", ".git/", "docs/", "*.zip"]}
    try:
        ray.init(None if address == "local" else address, runtime_env=environment, log_to_driver=False)
    except (ConnectionError, ValueError) as error:
        raise RunError(f"--ray {address}: no cluster there ({error}).") from None

    @ray.remote(num_cpus=1, max_retries=2)
    def train_there(name: str, arguments: list[str]) -> tuple[str, str, dict[str, bytes]]:
        import tempfile

        from segmentation.jobs import train_here

        with tempfile.TemporaryDirectory() as temporary:
            run = Path(temporary) / name
            problem = train_here(run, arguments)
            files = {file: (run / file).read_bytes() for file in RESULTS if (run / file).exists()}
            return problem, run.with_name(f"{name}.log").read_text(errors="replace"), files

    def train(run: Path, arguments: list[str]) -> str:
        problem, log, files = ray.get(train_there.remote(run.name, arguments))
        run.with_name(f"{run.name}.log").write_text(log)
        run.mkdir(exist_ok=True)
        for file in sorted(files, key=lambda name: name == "metrics.json"):  # last: a run that has it is finished
            (run / file).write_bytes(files[file])
        return problem

    return train
