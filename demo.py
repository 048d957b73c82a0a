"""A page in your browser: upload pictures, see the outlined lesions, correct them, and get commands to train on them.

    python demo.py                                  # newest run, or the network that comes with the repository
    python demo.py --run models/NAME --port 8000    # another run, at another port

The page can be opened on this machine only. It needs Gradio: pip install -r requirements-demo.txt
"""

import socket
from pathlib import Path

from segmentation.common import startup  # noqa: F401  # isort: skip

import tyro

from segmentation.common.checks import AnyPath, Real, Whole, checked
from segmentation.common.errors import RunError, one_clear_line
from segmentation.runs.finished import newest_run, open_decision
from segmentation.runs.run_folder import load_run


@checked
class DemoConfig:
    """What to serve, and where."""

    run: AnyPath | None = None  # the run's folder; by default the newest finished run in --models-dir
    models_dir: AnyPath = Path("models")  # folder of the runs' folders
    corrections: AnyPath = Path("corrections")  # folder for corrected pictures and masks
    spacing: Real[1e-4, 1e3] | None = None  # mm between pixels, for pictures whose file does not contain it
    port: Whole[1, 65535] = 7860  # the page is at http://127.0.0.1:7860


def check_port(port: int) -> None:
    """Check that the port is free, before the network is loaded.

    Raises:
        RunError: another program uses the port, or this one is not allowed to.
    """
    try:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            listener.bind(("127.0.0.1", port))
    except OSError as error:
        raise RunError(f"port {port} cannot be used ({error.strerror}). Choose another one with --port.") from None


def main(config: DemoConfig) -> None:
    """Serve the page until Ctrl-C."""
    check_port(config.port)
    try:
        from segmentation.page.demo_page import Outliner, serve
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise RunError("demo.py needs Gradio: pip install -r requirements-demo.txt") from None
    run, here = config.run or newest_run(config.models_dir), Path.cwd()
    run = run.relative_to(here) if run.is_relative_to(here) else run
    outliner = Outliner(run, *load_run(run), open_decision(run), config.spacing)
    serve(outliner, config.corrections, config.port)


if __name__ == "__main__":
    with one_clear_line():
        main(tyro.cli(DemoConfig, description=__doc__))
