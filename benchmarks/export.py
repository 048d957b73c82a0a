"""What does a network lose and gain in another program? Size, agreement with Keras, images/s, and a cold start.

    pip install -r requirements-export.txt
    python benchmarks/export.py --run models/attention_unet_hospitals --data-dir FOLDER  # exports it first
    python benchmarks/export.py --run models/attention_unet_hospitals                      # as it is exported already

With torch installed, the same network in PyTorch is beside it. Each program is a process of its own, which waits while
another is measured; they take turns, on two threads and with batches of 16. A cold start is `visualize_results.py` on
one picture, from the shell's command to the files. Run it on an idle machine.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import tyro
from shared import REPOSITORY, Worker, rate, seconds, write_result

from segmentation.inference.engines import EXPORT_FILES, ExportedNetwork, find_export
from segmentation.runs.schemas import read_config
from tests.phantoms import make_phantom

BATCH, THREADS = 16, 2
TORCH = ("PyTorch", "PyTorch bfloat16", "PyTorch bfloat16 compiled")
COLD = ("keras", "onnx", "openvino", "openvino-bfloat16")
PACKAGES = ("tensorflow", "keras", "onnxruntime", "ai-edge-litert", "openvino", "torch")


@dataclass(frozen=True)
class ExportBenchmarkConfig:
    """What to measure."""

    run: Path  # folder of a finished run
    data_dir: tuple[Path, ...] = ()  # the run's data: it is exported anew first; without any, it is not
    repeats: int = 7  # turns of each program; the median is reported
    seconds: float = 3.0  # length of one turn
    cold_starts: int = 5  # of each engine; the median is reported
    output: Path | None = None  # write the figures as JSON too


def main(config: ExportBenchmarkConfig) -> None:
    """Print a table."""
    if config.data_dir:
        command = ["--run", config.run, "--to", *EXPORT_FILES, "--data-dir", *config.data_dir]
        subprocess.run([sys.executable, REPOSITORY / "export_model.py", *command], check=True)
    record = json.loads((config.run / "export" / "export.json").read_text(encoding="utf-8"))
    names = ["keras", *record["agreement"], *(TORCH if find_spec("torch") else ())]
    rates = measure_rates(config, names)
    cold = measure_cold_starts(config, [engine for engine in COLD if engine in names])
    rows = {}
    for name in names:
        files = {"keras": ["best.keras"]}.get(name) or [f"export/{f}" for f in EXPORT_FILES.get(name, ())]
        size = sum((config.run / file).stat().st_size for file in files) / 2**20
        spread = {
            "images_per_second": statistics.median(rates[name]),
            "least": min(rates[name]),
            "most": max(rates[name]),
        }
        agreement = record["agreement"].get(name, {})
        rows[name] = {
            "mib": size,
            **agreement,
            **spread,
            "cold_start": statistics.median(cold[name]) if name in cold else None,
        }
    any_row = next(iter(record["agreement"].values()))
    rows["keras"] |= {"largest_difference": 0.0, "changed_pixels": 0.0, "dice": any_row["dice_keras"]}
    print(f"agreement on {record['compared_on']}\n{table(rows)}")
    if config.output:
        write_result(config.output, PACKAGES, compared_on=record["compared_on"], rows=rows)


def measure_rates(config: ExportBenchmarkConfig, names: list[str]) -> dict[str, list[float]]:
    """Images/s of each program, turn by turn."""
    workers = {name: Worker(__file__, json.dumps([name, str(config.run)])) for name in names}
    rates = {name: [] for name in names}
    for _ in range(config.repeats):
        for name, worker in workers.items():
            rates[name].append(worker.ask("predict", config.seconds))
    for worker in workers.values():
        worker.close()
    return rates


def measure_cold_starts(config: ExportBenchmarkConfig, engines: list[str]) -> dict[str, list[float]]:
    """Seconds from the command to the outline of one picture of 500x600, turn by turn."""
    times = {engine: [] for engine in engines}
    with tempfile.TemporaryDirectory() as temporary:
        picture = Path(temporary) / "scan.png"
        cv2.imwrite(str(picture), cv2.resize(make_phantom("malignant", 0)[0], (600, 500)))
        command = [sys.executable, REPOSITORY / "visualize_results.py", "--run", config.run, "--images", picture]
        for turn in range(config.cold_starts + 1):
            for engine in engines:
                full = [*command, "--engine", engine, "--output", Path(temporary) / engine]
                took = seconds(partial(subprocess.run, full, check=True, stdout=subprocess.DEVNULL))
                if turn:  # the first one reads the packages from the disk
                    times[engine].append(took)
    return times


def table(rows: dict) -> str:
    """Markdown."""
    columns = ("program", "MiB", "largest difference", "changed mask pixels", "Dice", "images/s", "least to most")
    lines = [[*columns, "cold start, s"], ["---"] * (len(columns) + 1)]
    for name, row in rows.items():
        agreement = ["", "", ""]
        if "dice" in row:
            changed = f"{100 * row['changed_pixels']:.3f} %"
            agreement = [f"{row['largest_difference']:.1g}", changed, f"{row['dice']:.4f}"]
        size = f"{row['mib']:.1f}" if row["mib"] else ""
        speed = [f"{row['images_per_second']:.1f}", f"{row['least']:.1f} to {row['most']:.1f}"]
        cold = "" if row["cold_start"] is None else f"{row['cold_start']:.2f}"
        lines.append([name, size, *agreement, *speed, cold])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


# ---------------------------------------------------------------- one process a program


def work(name: str, run: Path) -> None:
    """The worker's side: open the network, then answer on standard output."""
    shape = tuple(read_config(run)["network"]["input_shape"])
    batch = np.random.default_rng(0).uniform(0, 255, (BATCH, *shape)).astype(np.float32)
    if name in EXPORT_FILES:
        path, record = find_export(run, name)
        network = ExportedNetwork(path, name, shape, list(record["outputs"]), THREADS)
        call = lambda: network.predict_on_batch(batch)  # noqa: E731
    else:
        call = open_keras(run, batch) if name == "keras" else open_torch(name, run, batch)
    for _ in range(3):
        call()
    for line in sys.stdin:
        what, seconds = json.loads(line)
        print(json.dumps(BATCH * rate(call, seconds) if what == "predict" else {}), flush=True)
    os._exit(0)  # with TensorFlow and PyTorch in one process, Python's own end may never come


def open_keras(run: Path, batch: np.ndarray):
    """A call of the run's own network."""
    from segmentation.common import startup  # noqa: F401  # isort: skip
    import tensorflow as tf

    from segmentation.runs.run_folder import load_run

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    model, _ = load_run(run)
    return lambda: model.predict_on_batch(batch)


def open_torch(name: str, run: Path, batch: np.ndarray):
    """A call of the same network in PyTorch, layer for layer, with random weights."""
    from segmentation.common import startup  # noqa: F401  # isort: skip  # the module below imports Keras
    import torch
    from torch_attention_unet import AttentionUNet, Trainer

    torch.set_num_threads(THREADS)
    network = read_config(run)["network"]
    model = AttentionUNet(network["base_filters"], network["encoder"], network["depth"])
    trainer = Trainer(model, lambda step: 1e-3, 0.99, "bfloat16" in name, "compiled" in name)
    images = torch.from_numpy(batch).permute(0, 3, 1, 2)
    return lambda: float(trainer.predict(images).sum())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        name, run = json.loads(sys.argv[2])
        work(name, Path(run))
    else:
        main(tyro.cli(ExportBenchmarkConfig, description=__doc__))
