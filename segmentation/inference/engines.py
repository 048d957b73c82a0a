"""Runtimes for a network: Keras, or another program with a file of `export_model.py`, which needs no TensorFlow.

Each is a `Network` of scoring/prediction.py. The files are in `export/` in a run's folder, described by export.json.
"""

import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, with_config
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from segmentation.common.checks import STRICT, FolderName, Plain, Sha256, Text, check
from segmentation.common.errors import RunError
from segmentation.common.files import check_file, read_json
from segmentation.runs.schemas import read_config
from segmentation.scoring.prediction import Network

Format = Literal["onnx", "litert", "litert-int8", "openvino", "openvino-bfloat16"]
Engine = Literal["keras", "onnx", "openvino", "openvino-bfloat16"]
# The files of each format, the one to open first; then the package that runs each format.
EXPORT_FILES = {
    "onnx": ("network.onnx",),
    "litert": ("network.tflite",),
    "litert-int8": ("network_int8.tflite",),
    "openvino": ("network.xml", "network.bin"),
    "openvino-bfloat16": ("network_bfloat16.xml", "network_bfloat16.bin"),  # the same weights, computed in bfloat16
}
RUNNERS = {"onnx": "onnxruntime", "litert": "ai_edge_litert", "litert-int8": "ai_edge_litert"}
RUNNERS |= {"openvino": "openvino", "openvino-bfloat16": "openvino"}
MAX_EXPORT_BYTES = 600_000_000
RAW = "_raw"  # ending of the name of an output without calibration
Compute = Callable[[np.ndarray], dict[str, np.ndarray]]  # a batch -> all outputs by their names

# ---------------------------------------------------------------- export.json


@with_config(STRICT)
class ExportedFile(TypedDict):
    """One file in export.json."""

    format: Format
    sha256: Sha256


@with_config(STRICT)
class ExportRecord(TypedDict):
    """The keys of export.json that this project reads; the others are for people and other programs."""

    network_sha256: Sha256  # of best.keras
    decision_sha256: Sha256  # of decision.json, whose calibration is part of the files
    outputs: Annotated[dict[Text, Text], Field(max_length=10)]  # names and descriptions
    agreement: Annotated[dict[Text, dict[Text, Plain]], Field(max_length=10)]  # with Keras
    files: Annotated[dict[FolderName, ExportedFile], Field(max_length=10)]


def sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits.

    Raises:
        RunError: it is missing, not a regular file, or larger than any exported network.
    """
    check_file(path, MAX_EXPORT_BYTES)
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def made_from(run: Path) -> dict[str, str]:
    """Hashes in export.json of the network and the decision that are exported."""
    decision = run / "decision.json"  # missing while the run is not finished
    decision_sha256 = sha256(decision) if decision.exists() else hashlib.sha256(b"").hexdigest()
    return {"network_sha256": sha256(run / "best.keras"), "decision_sha256": decision_sha256}


def read_export(folder: Path) -> ExportRecord:
    """Read export.json.

    Raises:
        RunError: it is missing or damaged.
    """
    return check(ExportRecord, read_json(folder / "export.json"), folder / "export.json")


def find_export(run: Path, kind: Format) -> tuple[Path, ExportRecord]:
    """Find the file to open for one format of a run's export, and read export.json.

    Raises:
        RunError: there is none, or the run's network or decision has changed since the export.
    """
    folder, command = run / "export", f"python export_model.py --run {run} --to {kind}"
    if not (folder / "export.json").exists():
        raise RunError(f"{folder}: this run is not exported yet. First: {command}")
    record = read_export(folder)
    for key, value in made_from(run).items():
        if record[key] != value:
            raise RunError(f"{folder}: made from another {key.split('_')[0]} than the run has. Export again: {command}")
    for name in EXPORT_FILES[kind]:
        if record["files"].get(name, {}).get("format") != kind:
            raise RunError(f"{folder}: holds no {kind} file. First: {command}")
        if sha256(folder / name) != record["files"][name]["sha256"]:
            raise RunError(f"{folder / name}: is not the file that export.json describes. Export again: {command}")
    return folder / EXPORT_FILES[kind][0], record


# ---------------------------------------------------------------- open


def open_network(run: Path, engine: Engine) -> tuple[Network, dict]:
    """Open a run's network in a runtime. Returns the network and config.json.

    Raises:
        RunError: a file is missing, damaged or of another network, or the runtime is not installed.
    """
    if engine == "keras":
        # Imported here, because TensorFlow takes seconds to import and the other runtimes do not need it.
        from segmentation.common import startup  # noqa: F401  # isort: skip
        from segmentation.runs.run_folder import load_run

        return load_run(run)
    check_packages(engine, RUNNERS[engine])
    config = read_config(run)
    path, record = find_export(run, engine)
    return ExportedNetwork(path, engine, config["network"]["input_shape"], list(record["outputs"])), config


def check_packages(kind: Format, *packages: str) -> None:
    """Check that the packages of a format are installed.

    Raises:
        RunError: one is missing; the message says how to install it.
    """
    if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
        package = missing[0].replace("_", "-")
        raise RunError(f"{kind} needs the package {package}: pip install -r requirements-export.txt")


class ExportedNetwork:
    """An exported file, opened in its runtime.

    Args:
        path: the file.
        kind: its format; with "openvino-bfloat16", OpenVINO computes in bfloat16 on CPUs that support it, twice as fast
            and less exactly.
        shape: (height, width, 1) of an image.
        outputs: names of the outputs; those that end in "_raw" are not calibrated.
        threads: number of CPU threads; None: as many as there are CPUs.

    Raises:
        RunError: the runtime cannot open the file, or the file is of another network.
    """

    def __init__(
        self, path: Path, kind: str, shape: tuple[int, int, int], outputs: Sequence[str], threads: int | None = None
    ):
        openers = {"onnx": open_onnx, "openvino": open_openvino, "openvino-bfloat16": open_bfloat16}
        self.input_shape, self.raw = (None, *shape), [name for name in outputs if name.endswith(RAW)]
        try:
            self.run = openers.get(kind, open_litert)(path, threads or os.cpu_count() or 1)
            found = self.run(np.zeros((1, *shape), np.float32))
            shapes = {name: values.shape for name, values in found.items()}
        except Exception as error:  # each runtime raises its own
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise RunError(f"{path}: cannot be opened as {kind} ({reason}).") from error
        if set(shapes) != set(outputs) or shapes.get(f"lesion{RAW}") != (1, *shape):
            raise RunError(f"{path}: is of another network than its export.json and the run's config.json.")

    def predict_on_batch(self, batch: np.ndarray) -> np.ndarray | dict[str, np.ndarray]:
        """Outputs without calibration, like those of Keras: calibration follows the averaging with the mirror image."""
        found = self.run(np.ascontiguousarray(batch, np.float32))
        raw = {name.removesuffix(RAW): found[name] for name in self.raw}
        return raw if len(raw) > 1 else raw["lesion"]


def open_onnx(path: Path, threads: int) -> Compute:
    """Open a file in ONNX Runtime."""
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # only Windows has any
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda batch: dict(zip(names, session.run(names, {"image": batch}), strict=True))


def import_openvino():
    """Import OpenVINO without its telemetry, which reports every import to Google Analytics."""
    sys.modules.setdefault("openvino_telemetry", None)  # as if it were not installed: OpenVINO then uses a stub
    import openvino

    return openvino


def open_openvino(path: Path, threads: int, bfloat16: bool = False) -> Compute:
    """Open a file in OpenVINO, on the CPU."""
    core = import_openvino().Core()
    able = bfloat16 and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    hints = {"INFERENCE_PRECISION_HINT": "bf16" if able else "f32", "INFERENCE_NUM_THREADS": threads}
    model = core.compile_model(path, "CPU", hints)
    names = [output.get_any_name() for output in model.outputs]
    return lambda batch: dict(zip(names, map(np.array, model(batch).values()), strict=True))


def open_bfloat16(path: Path, threads: int) -> Compute:
    """Open a file in OpenVINO, in bfloat16 on CPUs that support it."""
    return open_openvino(path, threads, bfloat16=True)


def open_litert(path: Path, threads: int) -> Compute:
    """Open a file in LiteRT."""
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(str(path), num_threads=threads).get_signature_runner()
    return lambda batch: run(image=batch)
