"""Export a trained network to ONNX, LiteRT (float or int8) and OpenVINO, and compare each file with Keras.

    python export_model.py --run models/attention_unet --to onnx openvino
    python export_model.py --run models/attention_unet --to litert litert-int8 --data-dir FOLDER    # the run's own data

The files are written to export/ in the run's folder, with a description, export.json; docs/export.md says how to use
them. It needs more packages: pip install -r requirements-export.txt
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segmentation.common import startup  # isort: skip

import numpy as np
import tyro
from pydantic import model_validator

from dataset import read_samples, resize_image
from segmentation.common.checks import AnyPath, Folders, checked
from segmentation.common.errors import RunError, one_clear_line
from segmentation.common.files import check_output, json_holds, lock_folder, write_json
from segmentation.data.collection import collect, find_folders
from segmentation.data.find_data import SAMPLE
from segmentation.inference.engines import (
    EXPORT_FILES,
    RUNNERS,
    ExportedNetwork,
    Format,
    check_packages,
    made_from,
    read_export,
    sha256,
)
from segmentation.inference.export import (
    CALIBRATION_PICTURES,
    WRITERS,
    Agreement,
    compare,
    describe_export,
    with_calibration,
    write_network,
)
from segmentation.runs.finished import open_decision
from segmentation.runs.run_folder import load_run
from segmentation.runs.split_record import hash_samples, load_split
from segmentation.scoring.prediction import predict_pictures

MOST_PICTURES = 200  # test images on which a file is compared with Keras
PREFIX = ".writing-"  # of a folder whose files are not compared yet
TABLE_HEADER = f"{'format':18}{'MiB':>6}{'largest difference':>20}{'changed mask pixels':>21}{'Dice':>8}{'Keras':>8}"


@checked
class ExportConfig:
    """What to export."""

    run: AnyPath  # folder of a run
    to: tuple[Format, ...] = ("onnx",)  # the formats; litert-int8 needs the run's data
    data_dir: Folders = ()  # the run's data, if it has moved; without data, the files are compared on data/sample

    @model_validator(mode="after")
    def fit_together(self):
        """Refuse an empty list."""
        if not self.to:
            raise ValueError("--to needs at least one format")
        return self


def main(config: ExportConfig) -> None:
    """Write the files, compare them with Keras, and keep those that agree.

    Raises:
        DataError, RunError: the run or its data cannot be used, a package is missing, or a file does not agree.
    """
    decision = open_decision(config.run)
    for kind in config.to:
        check_packages(kind, RUNNERS[kind], *WRITERS.get(kind, ()))
    model, stored = load_run(config.run)
    pictures, training, where = find_pictures(config, stored, model.input_shape[1:3])
    if training is None and "litert-int8" in config.to:
        raise RunError(
            f"{find_folders(stored)[0]}: the run's data is not here. litert-int8 needs images of the training set: "
            "name their folder with --data-dir."
        )
    exported = with_calibration(model, decision)
    described = describe_export(stored, decision, list(exported.output)) | {"compared_on": f"{len(pictures)} {where}"}
    expected = predict_pictures(model, [image for image, _ in pictures], decision)
    print(f"compared with Keras on {len(pictures)} {where}\n{TABLE_HEADER}")
    problems = []
    with (
        open_folder(config.run) as (folder, record),
        tempfile.TemporaryDirectory(dir=folder, prefix=PREFIX) as temporary,
    ):
        for kind in config.to:
            files = [Path(temporary) / name for name in EXPORT_FILES[kind]]
            write_network(exported, kind, files[0], training)
            with startup.without_notes():
                network = ExportedNetwork(files[0], kind, model.input_shape[1:], list(exported.output))
            found = compare(network, model, decision, pictures, expected)
            print(row(kind, files, found))
            if line := found.problem(kind):
                problems.append(f"{kind} {line}")
                continue
            record["files"] |= {path.name: {"format": kind, "sha256": sha256(path)} for path in files}
            record["agreement"] |= {kind: found._asdict()}
            write_json(folder / "export.json", record | described)  # before the files, so that it never misses one
            for path in files:
                os.replace(path, folder / path.name)
    if problems:
        raise RunError(f"{config.run}: {'; '.join(problems)}. These files were not kept.")
    print(f"{', '.join(record['files'])} and export.json in {folder}")


def find_pictures(
    config: ExportConfig, stored: dict, size: tuple[int, int]
) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray | None, str]:
    """Find the pictures for the comparison, and training images for int8.

    Returns:
        Image and mask of each picture for the comparison; training images (N, S, S) uint8, None if the run's data is
        not here; and a description of the former.

    Raises:
        DataError: the data named with --data-dir is missing, or not the run's.
    """
    folders = find_folders(stored, config.data_dir)
    if not config.data_dir and not all(folder.is_dir() for folder in folders):
        samples = collect([SAMPLE]).samples
        pairs = read_samples([samples[i] for i in evenly(len(samples), MOST_PICTURES)])
        return pairs, None, "pictures of data/sample, because the run's data is not here (--data-dir)"
    samples = collect(folders).samples
    parts, _ = load_split(config.run, samples, hash_samples(samples))
    chosen = {
        part: [samples[parts[part][i]] for i in evenly(len(parts[part]), most)]
        for part, most in (("test", MOST_PICTURES), ("train", CALIBRATION_PICTURES))
    }
    training = np.stack([resize_image(image, size) for image, _ in read_samples(chosen["train"])])
    return read_samples(chosen["test"]), training, "pictures of the run's test part"


def evenly(count: int, most: int) -> list[int]:
    """At most `most` evenly spaced indices from 0 to count - 1."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()


@contextmanager
def open_folder(run: Path) -> Iterator[tuple[Path, dict]]:
    """Hold export/ in the run's folder, and remove what a killed export or an earlier network left there.

    Yields:
        The folder, and the entries of export.json about the run and about the files that are kept.

    Raises:
        RunError: export/ is a link, holds files that no export wrote, or another export is writing there.
    """
    folder = run / "export"
    if folder.is_symlink():
        raise RunError(f"{folder}: is a link to another folder. Remove it.")
    folder.mkdir(exist_ok=True)
    with lock_folder(folder, "export"):
        for left_by_a_kill in folder.glob(f"{PREFIX}*"):
            shutil.rmtree(left_by_a_kill)
        listed, record = folder / "export.json", made_from(run) | {"files": {}, "agreement": {}}
        check_output(listed, json_holds("files", *record))
        earlier = read_export(folder) if listed.exists() else record
        for name in (name for names in EXPORT_FILES.values() for name in names):
            own = earlier["files"].get(name, {}).get("sha256")
            check_output(folder / name, lambda path, own=own: sha256(path) == own)
        if made_from(run).items() <= earlier.items():
            record |= {key: earlier[key] for key in ("files", "agreement")}
        else:
            for name in earlier["files"]:
                (folder / name).unlink(missing_ok=True)
        yield folder, record


def row(runner: str, files: list[Path], found: Agreement) -> str:
    """A line of the table under `TABLE_HEADER`."""
    size = sum(path.stat().st_size for path in files) / 2**20
    changed = f"{100 * found.changed_pixels:.4f} %"
    return (
        f"{runner:18}{size:6.1f}{found.largest_difference:20.2g}{changed:>21}{found.dice:8.4f}{found.dice_keras:8.4f}"
    )


if __name__ == "__main__":
    with one_clear_line():
        main(tyro.cli(ExportConfig, description=__doc__))
