"""docs/tour.ipynb runs from its first cell to its last, and is committed with its pictures.

To make them anew: jupyter execute --inplace docs/tour.ipynb
"""

import re

import nbformat
import pytest
from conftest import REPOSITORY
from nbclient import NotebookClient

TOUR = REPOSITORY / "docs" / "tour.ipynb"
SMALL = 'SIZE, EPOCHS, ENCODER = 32, 1, "none"'
FEW = "parts = {part: members[:16] for part, members in parts.items()}"
# A few steps take less time than to trace them.
STEPS = """import tensorflow as tf
warnings.filterwarnings("ignore", "Even though the `tf.config")
tf.config.run_functions_eagerly(True)"""


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs_of(cell):
    """What kinds of output a cell has: "stdout", "stderr", "picture", "error"."""
    kinds = set()
    for output in cell.outputs:
        picture = {"image/png", "image/jpeg"} & set(output.get("data", {}))
        kinds.add("picture" if picture else output.get("name", output.output_type))
    return kinds


@pytest.fixture(scope="module")
def committed():
    return nbformat.read(TOUR, as_version=4)


def test_it_was_committed_as_it_ran(committed):
    assert TOUR.stat().st_size < 1_000_000
    cells = code_cells(committed)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert set().union(*map(outputs_of, cells)) == {"stdout", "picture"}  # no error, no warning
    assert committed.metadata.keys() <= {"kernelspec", "language_info"}
    text = re.sub('"image/(jpeg|png)": "[^"]*"', "", TOUR.read_text(encoding="utf-8"))  # which hold /tmp/ by chance
    assert not re.search(r"/(home|root|tmp|Users|var)/|[A-Z]:\\\\", text)  # of nobody's machine


def test_every_cell_runs(committed, monkeypatch):
    monkeypatch.delenv("MPLBACKEND", raising=False)  # as conftest.py sets it, no figure would be shown
    notebook = nbformat.from_dict(committed)
    for words, added in (("ENCODER = ", SMALL), ("import startup", STEPS), ("split_samples(", FEW)):
        number = next(i for i, cell in enumerate(notebook.cells) if words in cell.source)
        notebook.cells.insert(number + 1, nbformat.v4.new_code_cell(added))
    kernel = {"kernel_name": "python3", "timeout": 300, "resources": {"metadata": {"path": str(TOUR.parent)}}}
    NotebookClient(notebook, **kernel).execute()
    ran = [outputs_of(cell) for cell in code_cells(notebook) if cell.source not in (SMALL, STEPS, FEW)]
    assert ran == [outputs_of(cell) for cell in code_cells(committed)]
