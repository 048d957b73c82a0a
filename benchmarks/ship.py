"""Make of a finished run one that comes with the repository: half the size, and without paths of this machine.

    python benchmarks/ship.py RUN models/attention_unet_hospitals --data-dir FOLDER

The weights are saved as half floats, and the minimum score becomes 0: a network for scans from elsewhere empties no
mask. The script then scores the run's own test images with the copy, and prints how many pixels of the masks differ
from the run's. The model card, README.md, is written by hand.
"""

import io
import shutil
import sys
import zipfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from segmentation.common import startup  # noqa: F401  # isort: skip

import h5py
import numpy as np
import tyro

from attention_unet import in_plain_keras
from dataset import read_samples
from segmentation.common.checks import AnyPath, Folders
from segmentation.common.files import read_json, write_json
from segmentation.data.collection import collect
from segmentation.runs.finished import check_finished
from segmentation.runs.run_folder import load_run
from segmentation.runs.schemas import read_split
from segmentation.scoring.decision import load_decision, save_decision, to_mask
from segmentation.scoring.prediction import predict_pictures, score_samples
from segmentation.scoring.scores import summarise

SMALL = 512  # numbers; smaller arrays keep four bytes each


@dataclass
class ShippingConfig:
    """What to ship, and where to."""

    run: tyro.conf.Positional[AnyPath]  # a finished run
    target: tyro.conf.Positional[AnyPath]  # its new folder
    data_dir: Folders  # the data it was trained with


def halve(content: bytes) -> bytes:
    """The HDF5 file of weights inside a .keras file, its larger arrays as half floats."""
    result = io.BytesIO()
    with h5py.File(io.BytesIO(content)) as old, h5py.File(result, "w") as new:

        def copy(name: str, item: h5py.Dataset | h5py.Group) -> None:
            if isinstance(item, h5py.Dataset):
                values = item[()]
                new[name] = values.astype(np.float16) if values.dtype == np.float32 and values.size > SMALL else values
            else:
                new.require_group(name)
            new[name].attrs.update(item.attrs)

        new.attrs.update(old.attrs)
        old.visititems(copy)
    return result.getvalue()


def save_halved(run: Path, path: Path) -> None:
    """The network of a run as a .keras file of half the size, which plain Keras opens."""
    full = path.with_name("full.keras")
    in_plain_keras(load_run(run)[0]).save(full)
    with zipfile.ZipFile(full) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, halve(content) if name.endswith(".h5") else content)
    full.unlink()


def main(config: ShippingConfig) -> None:
    """Write the folder and print the comparison."""
    check_finished(config.run, "decision.json", "history.csv", "metrics.json")
    config.target.mkdir(parents=True, exist_ok=True)
    for name in ("split.json", "history.csv"):
        shutil.copy(config.run / name, config.target / name)
    names = [str(Path("data") / root.name) for root in config.data_dir]
    stored = read_json(config.run / "config.json")
    settings = stored["config"] | {"data_dir": names, "models_dir": "models", "run": "attention_unet"}
    root = names[0] if len(names) == 1 else names
    write_json(config.target / "config.json", stored | {"root": root, "config": settings})
    save_halved(config.run, config.target / "best.keras")

    decision = replace(load_decision(config.run / "decision.json"), min_score=0.0)
    save_decision(config.target / "decision.json", decision)
    rows = read_split(config.target)["images"]
    samples = [s for s in collect(config.data_dir).samples if s.name in rows and rows[s.name]["part"] == "test"]
    pairs, masks = read_samples(samples), []
    pictures = [image for image, _ in pairs]
    for run in (config.run, config.target):
        prediction = predict_pictures(load_run(run)[0], pictures, decision)
        masks.append([to_mask(p, i.shape, decision, s) for (p, s), i in zip(prediction.each(), pictures, strict=True)])
    scores = score_samples(prediction, samples, pairs, [rows[s.name]["group"] for s in samples], decision)
    metrics = read_json(config.run / "metrics.json") | {"decision": asdict(decision), "images": scores}
    write_json(config.target / "metrics.json", metrics | {"summary": summarise(scores)})
    changed = sum(int((a != b).sum()) for a, b in zip(*masks, strict=True))
    size = (config.target / "best.keras").stat().st_size / 2**20
    marked = sum(int(mask.sum()) for mask in masks[0])
    print(
        f"{size:.2f} MiB; of {marked} lesion pixels in {len(masks[0])} masks, {changed} change ({changed / marked:.4%})"
    )


if __name__ == "__main__":
    main(tyro.cli(ShippingConfig, description=__doc__))
