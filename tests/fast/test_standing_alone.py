"""dataset.py and attention_unet.py can be copied into another project: they import nothing else of this one."""

import ast

import pytest
from conftest import REPOSITORY

OURS = {"segmentation", *(path.stem for path in REPOSITORY.glob("*.py"))}


@pytest.mark.parametrize("name", ["dataset.py", "attention_unet.py"])
def test_it_imports_nothing_of_the_project(name):
    imported = set()
    for node in ast.walk(ast.parse((REPOSITORY / name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add("segmentation" if node.level else node.module)
    assert "numpy" in imported or "keras" in imported
    assert not {module.partition(".")[0] for module in imported} & OURS
