"""Import this first: it imports TensorFlow without its start-up notes.

TensorFlow 2.21 writes a dozen lines about oneDNN and missing CUDA drivers to stderr whatever
TF_CPP_MIN_LOG_LEVEL says; among them our own messages would be lost. What went wrong with a GPU is
shown with TF_CPP_MIN_LOG_LEVEL=0.
"""

import os
import sys

# Otherwise TensorFlow takes all of a GPU's memory, also from the others on a shared server.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "0":
    import tensorflow  # noqa: F401
else:
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        import tensorflow

        tensorflow.config.list_physical_devices()  # looks for a GPU, and complains where there is none
    finally:
        os.dup2(kept, 2)
        os.close(kept)
