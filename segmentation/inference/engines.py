"""What runs a network: Keras, or a file of `export_model.py` in another program, which starts without TensorFlow.

Each is a `Network` of scoring/prediction.py. The files are a run's, in `export/`; export.json there says of which.
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

from segmentation.common.checks import STRICT, FolderName, Plain, Text, check
from segmentation.common.errors import RunError
from segmentation.common.files import check_file, read_json
from segmentation.runs.schemas import read_config
from segmentation.scoring.prediction import Network

Format = Literal["onnx", "litert", "litert-int8", "openvino"]
Engine = Literal["keras", "onnx", "openvino", "openvino-bfloat16"]
# The files of each format, first the one that is opened, and the package that runs it.
EXPORT_FILES = {
    "onnx": ("network.onnx",),
    "litert": ("network.tflite",),
    "litert-int8": ("network_int8.tflite",),
    "openvino": ("network.xml", "network.bin"),
}
RUNNERS = {"onnx": "onnxruntime", "litert": "ai_edge_litert", "litert-int8": "ai_edge_litert", "openvino": "openvino"}
RUNS_AS = {"openvino": ("openvino", "openvino-bfloat16")}  # where one format runs in two ways
MAX_EXPORT_BYTES = 600_000_000
RAW = "_raw"  # ending of the name of an output without calibration
Run = Callable[[np.ndarray], dict[str, np.ndarray]]  # a batch -> all outputs by their names

# ---------------------------------------------------------------- export.json

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@with_config(STRICT)
class ExportedFile(TypedDict):
    """One file in export.json."""

    format: Format
    sha256: Sha256


@with_config(STRICT)
class ExportRecord(TypedDict):
    """export.json, as far as it is read again; the rest is for people and other programs."""

    network_sha256: Sha256  # of best.keras
    decision_sha256: Sha256  # of decision.json, whose calibration is inside the files
    outputs: Annotated[dict[Text, Text], Field(max_length=10)]  # names, and what each is
    agreement: Annotated[dict[Text, dict[Text, Plain]], Field(max_length=10)]  # with Keras
    files: Annotated[dict[FolderName, ExportedFile], Field(max_length=10)]


def sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits.

    Raises:
        RunError: it is missing, no file, or too large to be one of ours.
    """
    check_file(path, MAX_EXPORT_BYTES)
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def made_from(run: Path) -> dict[str, str]:
    """Hashes in export.json of what the files are made from."""
    decision = run / "decision.json"  # none while the run is not finished
    decision_sha256 = sha256(decision) if decision.exists() else hashlib.sha256(b"").hexdigest()
    return {"network_sha256": sha256(run / "best.keras"), "decision_sha256": decision_sha256}


def read_export(folder: Path) -> ExportRecord:
    """export.json.

    Raises:
        RunError: it is missing or damaged.
    """
    return check(ExportRecord, read_json(folder / "export.json"), folder / "export.json")


def find_export(run: Path, kind: Format) -> tuple[Path, ExportRecord]:
    """A run's exported file of one format, the one to open, and export.json.

    Raises:
        RunError: there is none, or it is not of the network and the decision that the run has now.
    """
    folder, command = run / "export", f"python export_model.py --run {run} --to {kind}"
    if not (folder / "export.json").exists():
        raise RunError(f"{folder}: this run is not exported yet. First: {command}")
    record = read_export(folder)
    for key, value in made_from(run).items():
        if record[key] != value:
            raise RunError(f"{folder}: made from another {key.split('_')[0]} than the run has now. Again: {command}")
    for name in EXPORT_FILES[kind]:
        if record["files"].get(name, {}).get("format") != kind:
            raise RunError(f"{folder}: holds no {kind} file. First: {command}")
        if sha256(folder / name) != record["files"][name]["sha256"]:
            raise RunError(f"{folder / name}: is not the file that export.json describes. Again: {command}")
    return folder / EXPORT_FILES[kind][0], record


# ---------------------------------------------------------------- open


def open_network(run: Path, engine: Engine) -> tuple[Network, dict]:
    """A run's network in the program that is to run it, and config.json.

    Raises:
        RunError: a file is missing, damaged or of another network, or the program is not installed.
    """
    if engine == "keras":
        # Not at the top: TensorFlow takes seconds to import, and the others do without.
        from segmentation.common import startup  # noqa: F401  # isort: skip
        from segmentation.runs.run_folder import load_run

        return load_run(run)
    kind = engine.removesuffix("-bfloat16")
    check_packages(engine, RUNNERS[kind])
    config = read_config(run)
    path, record = find_export(run, kind)
    return ExportedNetwork(path, engine, config["network"]["input_shape"], list(record["outputs"])), config


def check_packages(kind: Format, *packages: str) -> None:
    """Refuse a format if one of the packages is not installed.

    Raises:
        RunError: what to install.
    """
    if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
        package = missing[0].replace("_", "-")
        raise RunError(f"{kind} needs the package {package}: pip install -r requirements-export.txt")


class ExportedNetwork:
    """An exported file in the program that runs it.

    Args:
        path: the file.
        kind: its format; "openvino-bfloat16" lets OpenVINO compute in bfloat16 on CPUs that have it, twice as fast and
            less exact.
        shape: (height, width, 1) of a picture.
        outputs: names of the outputs, those that end in "_raw" without calibration.
        threads: CPU threads that work; without it, as many as there are CPUs.

    Raises:
        RunError: the program cannot open the file, or the file is of another network.
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
        except Exception as error:  # each program raises its own
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise RunError(f"{path}: cannot be opened as {kind} ({reason}).") from error
        if set(shapes) != set(outputs) or shapes.get(f"lesion{RAW}") != (1, *shape):
            raise RunError(f"{path}: is of another network than its export.json and the run's config.json.")

    def predict_on_batch(self, batch: np.ndarray) -> np.ndarray | dict[str, np.ndarray]:
        """As the Keras network: without calibration, which follows the mean with the mirrored picture's prediction."""
        found = self.run(np.ascontiguousarray(batch, np.float32))
        raw = {name.removesuffix(RAW): found[name] for name in self.raw}
        return raw if len(raw) > 1 else raw["lesion"]


def open_onnx(path: Path, threads: int) -> Run:
    """A file in ONNX Runtime."""
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # only Windows has any
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda batch: dict(zip(names, session.run(names, {"image": batch}), strict=True))


def import_openvino():
    """OpenVINO, but for the part of it that tells Google Analytics of every import."""
    sys.modules.setdefault("openvino_telemetry", None)  # as if not installed: OpenVINO then has a stub of its own
    import openvino

    return openvino


def open_openvino(path: Path, threads: int, bfloat16: bool = False) -> Run:
    """A file in OpenVINO, on the CPU."""
    core = import_openvino().Core()
    able = bfloat16 and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    hints = {"INFERENCE_PRECISION_HINT": "bf16" if able else "f32", "INFERENCE_NUM_THREADS": threads}
    model = core.compile_model(path, "CPU", hints)
    names = [output.get_any_name() for output in model.outputs]
    return lambda batch: dict(zip(names, map(np.array, model(batch).values()), strict=True))


def open_bfloat16(path: Path, threads: int) -> Run:
    """A file in OpenVINO, in bfloat16 on CPUs that have it."""
    return open_openvino(path, threads, bfloat16=True)


def open_litert(path: Path, threads: int) -> Run:
    """A file in LiteRT."""
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(str(path), num_threads=threads).get_signature_runner()
    return lambda batch: run(image=batch)
