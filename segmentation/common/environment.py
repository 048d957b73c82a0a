"""Import this first: it sets the environment before Keras, matplotlib and tqdm read it, and is quick to import.

It acts only in this project's own scripts, not in a notebook or a program that imports the package.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
STOP_WITH = "STOP_WITH_PROCESS"  # variable with the id of the parent process; a training ends when its parent has ended


def is_our_script() -> bool:
    """Whether Python was started with one of this project's scripts."""
    started = getattr(sys.modules["__main__"], "__file__", None)
    return started is not None and Path(started).resolve().parent == REPOSITORY


def set_environment() -> None:
    """Set the environment variables that Keras, matplotlib and tqdm read when they are imported."""
    if (backend := os.environ.get("KERAS_BACKEND", "tensorflow")) != "tensorflow":
        print(f"note: KERAS_BACKEND={backend} is ignored: this project runs on TensorFlow", file=sys.stderr)
    os.environ["KERAS_BACKEND"] = "tensorflow"
    # TensorFlow leaves oneDNN off on x86 CPUs without AVX-512 VNNI, where a training step takes 1.7 times as long.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ["MPLBACKEND"] = "agg"  # a notebook sets a backend that may not be installed here
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # in a log file, every update of a progress bar would be a line


def stop_with(parent: int) -> None:
    """Send SIGTERM to this process as soon as its parent process has ended, also if that was killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


if is_our_script():
    # Until `one_clear_line` takes over: without this, Ctrl-C while TensorFlow is imported prints a long traceback.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    set_environment()
    if (process := os.environ.pop(STOP_WITH, "")).isdigit():
        stop_with(int(process))
