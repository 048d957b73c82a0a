"""Import this first: it imports TensorFlow without its start-up messages, and sets up Keras for this project.

TensorFlow 2.21 writes a dozen lines about oneDNN and missing CUDA drivers to stderr, whatever
TF_CPP_MIN_LOG_LEVEL is; this project's own messages would be lost among them. To find out why a GPU
is not used, set TF_CPP_MIN_LOG_LEVEL=0, which shows them.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segmentation.common import environment  # noqa: F401  # isort: skip

# By default TensorFlow reserves all of a GPU's memory, which others on a shared server may need.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")


@contextmanager
def without_notes() -> Iterator[None]:
    """Discard what is written to stderr, also by TensorFlow's C++ code, unless TF_CPP_MIN_LOG_LEVEL=0."""
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "0":
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def import_tensorflow() -> None:
    """Import TensorFlow without its start-up messages."""
    with without_notes():
        import tensorflow

        tensorflow.config.list_physical_devices()  # this prints the messages about GPUs
        # Fused by TensorFlow for oneDNN, a convolution of a single picture takes 25 times as long on a CPU with AVX2.
        tensorflow.config.optimizer.set_experimental_options({"remapping": False})


try:
    import_tensorflow()
    import keras
except (AssertionError, AttributeError, ValueError) as error:
    settings = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "keras.json"
    if not settings.exists():
        raise
    sys.exit(f"error: {settings}: Keras cannot use this file ({error or 'a value is not allowed'}). Mend or remove it.")
if keras.config.backend() != "tensorflow":
    raise ImportError("this project runs on TensorFlow: set KERAS_BACKEND=tensorflow before Keras is imported")

# The user's keras.json may have other values, for other programs.
keras.config.set_floatx("float32")
keras.config.set_dtype_policy("float32")
keras.config.set_epsilon(1e-7)
keras.config.set_image_data_format("channels_last")
