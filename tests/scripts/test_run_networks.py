"""The network of a run is rebuilt from config.json and best.keras, whoever made them, and runs no code of theirs."""

import io
import os
import pickle
import shutil
import zipfile

import keras
import numpy as np
import pytest

from segmentation.common import files
from segmentation.common.errors import RunError
from segmentation.runs import run_folder
from segmentation.runs.recorder import read_backup
from segmentation.runs.run_folder import build_network, load_run, take_weights

NETWORK = {"input_shape": (32, 32, 1), "base_filters": 2, "depth": 1, "gates": "full", "encoder": "none"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run é")
    files.write_json(folder / "config.json", {"network": NETWORK, "config": {}})
    build_network(**NETWORK).save(folder / "best.keras")
    return folder


@pytest.fixture
def run(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


def test_a_run_is_rebuilt_wherever_it_is_copied_to(run):
    model, config = load_run(run)
    x = np.random.default_rng(0).uniform(0, 255, (1, 32, 32, 1)).astype(np.float32)
    assert np.array_equal(model(x), keras.saving.load_model(run / "best.keras")(x))
    assert config["network"] == NETWORK


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gates": "fine"}, "gates must be one of"),
        ({"encoder": "resnet; rm -rf"}, "encoder must be none or one of"),
        ({"base_filters": 256, "depth": 8}, "65536 channels"),
        ({"base_filters": 3}, r"best\.keras: cannot be loaded"),
        ({"lesion_score": True}, r"best\.keras: cannot be loaded"),
    ],
)
def test_a_network_that_cannot_be_or_is_another_is_refused(run, change, words):
    files.write_json(run / "config.json", {"network": NETWORK | change})
    with pytest.raises(RunError, match=words):
        load_run(run)


def poison(path):
    """A network with Python code in it, which makes the file `owned` when it runs."""
    owned = str(path.parent / "owned")
    function = keras.layers.Lambda(lambda x: (__import__("pathlib").Path(owned).touch(), x)[1])
    keras.Sequential([keras.Input((32, 32, 1)), function]).save(path)
    (path.parent / "owned").unlink(missing_ok=True)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("damage", ["lambda", "lambda in HDF5", "half", "garbage", "missing", "pipe", "nan"])
def test_foreign_weights_are_refused_and_run_nothing(run, damage):
    path = run / "best.keras"
    if damage == "nan":
        model, _ = load_run(run)
        model.set_weights([weights * np.nan for weights in model.get_weights()])
        model.save(path)
    elif damage.startswith("lambda"):
        poison(run / ("evil.h5" if "HDF5" in damage else "evil.keras"))
        next(run.glob("evil*")).replace(path)
    else:
        content = {"half": path.read_bytes()[:5000], "garbage": b"\x80\x04cos\nsystem\n"}.get(damage)
        path.unlink()
        if content:
            path.write_bytes(content)
        elif damage == "pipe":
            os.mkfifo(path)
    with pytest.raises(RunError, match=r"best\.keras: "):
        load_run(run)
    assert not (run / "owned").exists()


def test_weights_are_taken_where_the_layers_are_alike(run):
    other = build_network(**NETWORK | {"input_shape": (64, 64, 1), "lesion_score": True})
    score = [w.copy() for w in other.get_layer("lesion_score").get_weights()]
    take_weights(other, run)
    trained, _ = load_run(run)
    for layer in trained.layers:
        assert all(
            np.array_equal(a, b)
            for a, b in zip(layer.get_weights(), other.get_layer(layer.name).get_weights(), strict=True)
        )
    assert all(np.array_equal(a, b) for a, b in zip(score, other.get_layer("lesion_score").get_weights(), strict=True))
    files.write_json(run / "config.json", {"network": NETWORK | {"lesion_score": True}})  # and the other way round
    other.save(run / "best.keras")
    trained.set_weights([weights * 0 for weights in trained.get_weights()])
    take_weights(trained, run)
    assert np.array_equal(trained.get_layer("lesion").kernel, other.get_layer("lesion").kernel)
    for change in ({"base_filters": 3}, {"gates": "none"}):  # other shapes, other layers
        with pytest.raises(RunError, match="is another network than this one.*--start-from imagenet"):
            take_weights(build_network(**NETWORK | change), run)


def test_a_network_too_large_to_be_loaded_is_not_built(monkeypatch):
    assert run_folder.MAX_WEIGHTS_BYTES > 4 * run_folder.MAX_PARAMETERS  # what is trained is loaded again
    monkeypatch.setattr(run_folder, "MAX_PARAMETERS", 100)
    with pytest.raises(RunError, match="million parameters .* --base-filters"):
        build_network(**NETWORK)


# ---------------------------------------------------------------- a backup from a stranger


def npy(shape, content=b""):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"shape": shape, "fortran_order": False, "descr": "<f4"})
    return header.getvalue() + content


def as_zip(content: bytes, compression=zipfile.ZIP_STORED) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", compression) as opened:
        opened.writestr("v0.npy", content)
    return archive.getvalue()


class Evil:
    def __reduce__(self):
        return os.mkdir, ("owned",)


NUMBERS = as_zip(npy((2, 3), bytes(24)))
BACKUPS = {
    "0 bytes": b"",
    "a pickle": as_zip(pickle.dumps(Evil())),
    "a 40 TB header": as_zip(npy((10**13,))),
    "a header of 10^400": as_zip(npy((3,)).replace(b"(3,)", b"(" + b"9" * 400 + b",)")),
    "a bomb": as_zip(npy((2, 3), bytes(50_000_000)), zipfile.ZIP_DEFLATED),
    "half": NUMBERS[:60],
    "a flipped bit": NUMBERS.replace(bytes(24), bytes(23) + b"\1"),
    "another shape": as_zip(npy((3, 2), bytes(24))),
    "larger than it can be": bytes(5_000_000),
}


@pytest.mark.parametrize("damage", BACKUPS)
def test_a_strange_backup_is_refused(tmp_path, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "backup.npz").write_bytes(BACKUPS[damage])
    with pytest.raises(RunError, match=r"backup\.npz: (does not fit this run|larger)") as refused:
        read_backup(tmp_path / "backup.npz", [np.zeros((2, 3), np.float32)])
    assert "\n" not in str(refused.value) and not (tmp_path / "owned").exists()
