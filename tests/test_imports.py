"""The house: which file may import which, and how long a module or a function may be."""

import ast
from pathlib import Path

import pytest
from conftest import REPOSITORY

ROOMS = ("attention_unet", "dataset")  # these stand alone
SCRIPTS = ("train_model", "visualize_results", "evaluate_model", "cross_validate", "compare_runs")
SCRIPTS += ("export_model", "demo")
ALLOWED = {
    ".ci",
    ".git",
    ".github",
    ".gitignore",
    ".pytest_cache",
    ".ruff_cache",
    ".venv",
    "__pycache__",
    "CITATION.cff",
}
ALLOWED |= {"LICENSE", "README.md", "pyproject.toml", "benchmarks", "data", "docs", "models", "results", "segmentation"}
ALLOWED |= {"tests", "predictions", "evaluation.csv", "evaluation.json", "audit.json", "audit.png", ".coverage"}
ALLOWED |= {"corrections"}
ALLOWED |= {f"{name}.py" for name in (*ROOMS, *SCRIPTS)}
PACKAGE = sorted(path.stem for path in (REPOSITORY / "segmentation").glob("*.py") if path.stem != "__init__")
FILES = [REPOSITORY / f"{name}.py" for name in (*ROOMS, *SCRIPTS)]
FILES += [REPOSITORY / "segmentation" / f"{name}.py" for name in PACKAGE]
BENCHMARKS = sorted((REPOSITORY / "benchmarks").glob("*.py"))


def imports_of_ours(path: Path) -> set[str]:
    """Names of the project's own modules that a file imports, anywhere in it: "dataset", "segmentation.common.files", ..."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "segmentation"}
            found |= {node.module} - {"segmentation"}
    ours = {*ROOMS, *SCRIPTS, *(f"segmentation.{name}" for name in PACKAGE)}
    return found & ours


def layer(module: str) -> int:
    """0 for the two rooms that stand alone, 1 for the package, 2 for a script."""
    return 0 if module in ROOMS else 2 if module in SCRIPTS else 1


@pytest.mark.parametrize("path", [*FILES, *BENCHMARKS], ids=lambda path: path.stem)
def test_imports_point_one_way(path):
    own = 2 if path in BENCHMARKS else layer(path.stem)
    for module in imports_of_ours(path):
        assert layer(module) < 2, f"{path.name} imports the script {module}"
        assert layer(module) <= own and not (own == 0), f"{path.name} imports {module}"


def test_there_is_no_circle():
    package = [path for path in FILES if path.parent.name == "segmentation"]
    # A module that imports itself is one that Ray ships to another machine.
    graph = {f"segmentation.{p.stem}": imports_of_ours(p) - {f"segmentation.{p.stem}"} for p in package}
    while leaves := [module for module, needs in graph.items() if not needs & set(graph)]:
        for module in leaves:
            del graph[module]
    assert not graph, f"a circle through {sorted(graph)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_module_is_read_in_one_sitting(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 320
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            assert node.end_lineno - first < 60, f"{node.name} has {node.end_lineno - first + 1} lines"


def test_train_model_is_one_page():
    (main,) = [
        node
        for node in ast.parse((REPOSITORY / "train_model.py").read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == "main"
    ]
    assert main.end_lineno - main.lineno < 45
    from dataclasses import fields

    from train_model import TrainingConfig

    assert len(fields(TrainingConfig)) <= 29


def test_nothing_else_lies_at_the_top():
    extra = {path.name for path in REPOSITORY.iterdir()} - ALLOWED
    assert {
        name for name in extra if not name.startswith(("requirements", ".")) and not name.endswith(".egg-info")
    } == set()


def test_the_file_map_names_every_file():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    missing = [path.name for path in FILES if path.name not in text]
    assert not missing, f"README.md does not name {missing}"
