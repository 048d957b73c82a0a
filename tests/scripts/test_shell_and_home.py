"""What a user's shell and home folder ask of other programs changes nothing here."""

import json
import os
import signal
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import REPOSITORY, assert_one_clear_line, run_here, run_script, start_python
from folders import write_hospital


def test_a_hostile_home_and_shell_change_no_prediction(finished_run, tmp_path):
    """keras.json, another backend, no display, no git: the mask is that of a clean start."""
    (tmp_path / ".keras").mkdir()
    settings = {"floatx": "float16", "image_data_format": "channels_first", "epsilon": 0.1, "backend": "jax"}
    (tmp_path / ".keras" / "keras.json").write_text(json.dumps(settings))
    (tmp_path / "matplotlibrc").write_text("text.usetex: true\n")
    hostile = {"HOME": str(tmp_path), "MPLBACKEND": "module://not.installed", "KERAS_BACKEND": "torch"}
    hostile |= {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "PATH": str(tmp_path)}
    picture = write_hospital(tmp_path / "data", count=1) / "images" / "scan0.png"
    command = ["visualize_results.py", "--run", finished_run, "--lesion-given", "--images", picture, "--output"]
    result = run_script(*command, "hostile", cwd=tmp_path, **hostile)
    assert_one_clear_line(result, "KERAS_BACKEND=torch is ignored", code=0)
    assert_one_clear_line(run_here(*command, "clean", cwd=tmp_path), code=0)
    masks = [(tmp_path / output / "scan0_mask.png").read_bytes() for output in ("hostile", "clean")]
    assert masks[0] == masks[1] and (cv2.imdecode(np.frombuffer(masks[0], np.uint8), 0) > 0).any()


def test_a_keras_json_that_keras_cannot_use_is_named(tmp_path):
    (tmp_path / "keras.json").write_text('{"floatx": 5}')
    result = run_script("train_model.py", "--help", cwd=tmp_path, KERAS_HOME=str(tmp_path))
    assert_one_clear_line(result, f"{tmp_path / 'keras.json'}: Keras cannot use this file")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux says what is being imported")
def test_ctrl_c_while_importing(tmp_path):
    process = start_python(REPOSITORY / "train_model.py", "--help", cwd=tmp_path)
    deadline = time.monotonic() + 60
    while "_pywrap_tensorflow" not in Path(f"/proc/{process.pid}/maps").read_text():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 130) and not output and "Traceback" not in errors, errors
