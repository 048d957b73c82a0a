"""Import this first: what the shell and the home folder bring along must not change what a script does.

It imports nothing heavy. Most of it acts only where one of our own scripts was started, not in a notebook or a
program that imports them.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

STOP_WITH = "STOP_WITH_PROCESS"  # a training ends when the process of this number, which started it, is gone
# What Keras would take from the environment: this project runs on TensorFlow, for as long as it says itself.
KERAS_VARIABLES = ("KERAS_BACKEND", "KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH", "KERAS_NNX_ENABLED")


def is_our_script() -> bool:
    """Whether Python was started with one of this project's scripts or modules."""
    if sys.argv[:1] == ["-m"]:  # while Python looks for a module that is to be run, it is not known yet which
        return any(argument.startswith(f"{__package__}.") for argument in sys.orig_argv)
    started = getattr(sys.modules["__main__"], "__file__", None)
    package = Path(__file__).resolve().parent
    return started is not None and Path(started).resolve().parent in (package, package.parent)


def open_closed_streams() -> None:
    """Give closed streams (`>&-`) somewhere to write to.

    Otherwise the next file that is opened gets the free number, and all that is printed goes into it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))


def set_environment() -> None:
    """Set what Keras, matplotlib and tqdm read from the environment when they are imported."""
    # Asked for by a user who works with another backend elsewhere; a training of fewer epochs would count as finished.
    for name in KERAS_VARIABLES:
        value = os.environ.pop(name, "")
        if value and (name, value) != ("KERAS_BACKEND", "tensorflow"):
            print(f"note: {name}={value} is set aside: it is for other programs", file=sys.stderr)
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ["MPLBACKEND"] = "agg"  # a notebook's shell names one that may not be installed here
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # a log file keeps every state of a bar


def stop_with(parent: int) -> None:
    """End this process, as SIGTERM does, when the one that started it is gone; it may have been killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


open_closed_streams()
if is_our_script():
    # Until `one_clear_line` takes over: Ctrl-C while TensorFlow is imported would end in a traceback from deep inside.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    set_environment()
    if (process := os.environ.pop(STOP_WITH, "")).isdigit():
        stop_with(int(process))
