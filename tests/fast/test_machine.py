"""What a run says of the code and the machine that made it."""

from conftest import REPOSITORY

from segmentation.common import machine
from segmentation.common.machine import commit, describe_machine


def test_a_commit_is_this_projects_own(tmp_path, monkeypatch):
    """Git itself is not asked: what it answers in other repositories is made up here."""
    answers = {"rev-parse": "", "ls-files": "segmentation/common/machine.py", "describe": "1234567-dirty"}

    def git(command, **settings):
        assert command[:3] == ["git", "-C", str(REPOSITORY)] and not any(
            key.startswith("GIT_") for key in settings["env"]
        )
        return machine.subprocess.CompletedProcess(command, 0, answers[command[3]] + "\n")

    def missing(package):
        raise machine.PackageNotFoundError(package)

    monkeypatch.setenv("GIT_DIR", "elsewhere")
    with monkeypatch.context() as patch:
        patch.setattr(machine.subprocess, "run", git)
        patch.setattr(machine, "version", missing)
        found = describe_machine()
        assert found["commit"] == "1234567-dirty" and found["keras"] == "not installed"
        answers["rev-parse"] = "copies/"  # in a folder of another repository
        assert commit(REPOSITORY) == "unknown"
        answers |= {"rev-parse": "", "ls-files": ""}  # at the top of another repository
        assert commit(REPOSITORY) == "unknown"
    monkeypatch.setenv("PATH", str(tmp_path))  # without git
    assert commit(REPOSITORY) == "unknown"
