"""What else a figure depends on: versions, the machine, and the commit."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from segmentation.common.environment import REPOSITORY

PACKAGES = ("tensorflow", "keras", "numpy", "opencv-python-headless", "pillow", "scikit-learn", "scipy")


def describe_machine() -> dict[str, str]:
    """Commit, machine and package versions, on which the results depend; "unknown" or "not installed" if missing."""

    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    return {
        "commit": commit(REPOSITORY),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        **{package: installed(package) for package in PACKAGES},
    }


def commit(folder: Path) -> str:
    """Commit of the git checkout at `folder`; "unknown" without git, or if the checkout is not this project's."""

    def git(*arguments: str) -> str:
        elsewhere = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(
            command, env=elsewhere, capture_output=True, text=True, errors="replace", timeout=20, check=True
        ).stdout.strip()

    try:
        if git("rev-parse", "--show-prefix") or not git("ls-files", "segmentation/common/machine.py"):
            return "unknown"  # this project was copied into another repository
        return git("describe", "--always", "--dirty", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
