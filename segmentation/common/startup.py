"""Import this first: it imports TensorFlow without its start-up notes, and Keras as this project needs it.

TensorFlow 2.21 writes a dozen lines about oneDNN and missing CUDA drivers to stderr whatever
TF_CPP_MIN_LOG_LEVEL says; among them our own messages would be lost. What went wrong with a GPU is
shown with TF_CPP_MIN_LOG_LEVEL=0.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segmentation.common import environment  # noqa: F401  # isort: skip

# Otherwise TensorFlow takes all of a GPU's memory, also from the others on a shared server.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")


@contextmanager
def without_notes() -> Iterator[None]:
    """Close stderr to what TensorFlow writes there; TF_CPP_MIN_LOG_LEVEL=0 leaves it open."""
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
    """Import TensorFlow, without its notes."""
    with without_notes():
        import tensorflow

        tensorflow.config.list_physical_devices()  # looks for a GPU, and complains where there is none


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

# The user's keras.json may ask for other ones, for other programs.
keras.config.set_floatx("float32")
keras.config.set_dtype_policy("float32")
keras.config.set_epsilon(1e-7)
keras.config.set_image_data_format("channels_last")
