"""How a script ends: one line for an error that a user can mend, an exit code for a signal, and never a traceback."""

import errno
import os
import signal
import sys

import pytest
from conftest import REPOSITORY, default_signals, start_python

from dataset import DataError
from segmentation.common.errors import RunError, one_clear_line


def said(error: BaseException, to_go_on: str = "") -> str | int:
    with pytest.raises(SystemExit) as stop, one_clear_line(to_go_on):
        raise error
    return stop.value.code


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "Free some space, or choose a folder on another disk."),
        (errno.EFBIG, "ulimit -f"),
        (errno.EACCES, "no permission"),
        (errno.EROFS, "read-only"),
        (errno.ENOTDIR, "a file where a folder should be"),
        (errno.EISDIR, "a folder where a file should be"),
        (errno.ELOOP, "links lead in a circle"),
        (errno.ENAMETOOLONG, "shorter name"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EIO, ""),
    ],
)
def test_a_hint_names_the_true_cause_and_what_was_saved_if_that_matters(number, words):
    line = said(OSError(number, os.strerror(number), "place"), "All is saved.")
    assert line.startswith(f"error: place: {os.strerror(number)}. ") and words in line
    in_the_middle_of_the_work = number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
    assert line.endswith("All is saved.") == in_the_middle_of_the_work


def test_each_error_is_one_line_or_an_exit_code(tmp_path):
    assert said(RunError("models/x: is damaged.")) == "error: models/x: is damaged."
    assert said(DataError("a.png: is damaged.")) == "error: a.png: is damaged."
    assert said(OSError("not written completely")) == "error: not written completely."
    assert said(MemoryError()).startswith("error: out of memory")
    assert said(KeyboardInterrupt()) == 130 and said(BrokenPipeError(errno.EPIPE, "x")) == 141
    (tmp_path / "models").symlink_to(tmp_path / "nothing")
    with pytest.raises(SystemExit, match="link to nothing"), one_clear_line():
        (tmp_path / "models" / "run").mkdir(parents=True, exist_ok=True)
    with pytest.raises(ZeroDivisionError), one_clear_line():  # the project's own mistakes stay visible
        1 / 0  # noqa: B018


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_is_an_exit_code_and_its_handler_goes_back(name, capsys):
    number = getattr(signal, name)
    with default_signals():
        before = signal.getsignal(number)
        with pytest.raises(SystemExit) as stop, one_clear_line("All is saved."):
            signal.raise_signal(number)
        assert signal.getsignal(number) == before
        signal.signal(number, signal.SIG_IGN)  # as nohup does it
        with one_clear_line():
            signal.raise_signal(number)
    assert stop.value.code == 128 + number and "stopped. All is saved." in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_ends_the_script_quietly(tmp_path):
    """As `| head -1` does."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); from segmentation.common.errors import one_clear_line\n"
    code += "with one_clear_line():\n for line in range(10**5): print(line)"
    process = start_python("-c", code, REPOSITORY, cwd=tmp_path)
    assert process.stdout.readline() == "0\n"
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 141 and not errors


def test_a_name_that_is_no_text_can_be_printed(monkeypatch, tmp_path):
    with (tmp_path / "out").open("w", encoding="utf-8") as out, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        with one_clear_line():
            print("old\udcff.png")
    assert (tmp_path / "out").read_text() == "old\\udcff.png\n"
