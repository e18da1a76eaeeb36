"""Who may import what."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "stts_lightning"
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Dotted names of all imported modules, those inside functions and `from a import b` as a.b included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            names |= {argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)}
    return names


def importers(*modules: str) -> set[str]:
    """Files of the package that import one of the modules or a part of it."""
    return {
        path.relative_to(PACKAGE).as_posix()
        for path in FILES
        if any(name == module or name.startswith(module + ".") for name in imports(path) for module in modules)
    }


def test_the_algorithm_imports_torch_alone():
    files = [path for path in FILES if path.relative_to(PACKAGE).parts[0] == "prune"]
    assert len(files) > 5
    for path in files:
        for name in imports(path):
            top = name.split(".")[0]
            allowed = top == "torch" or top in sys.stdlib_module_names or name.startswith("stts_lightning.prune")
            assert allowed, f"{path.name} imports {name}"


def test_one_folder_knows_the_host():
    found = importers("transformers.models")
    found |= {
        path.relative_to(PACKAGE).as_posix()
        for path in FILES
        if any(name.startswith("transformers.Molmo2") for name in imports(path))  # the same classes, shorter
    }
    assert found and {name.split("/")[0] for name in found} == {"molmo2"}


OTHER_HOSTS = ("Qwen3VL", "PerceptionLM", "InternVL", "AutoModelForImageTextToText", "AutoProcessor")


def test_one_folder_knows_the_other_hosts():
    found = {
        path.relative_to(PACKAGE).parts[0]
        for path in FILES
        if any(name.startswith(f"transformers.{other}") for name in imports(path) for other in OTHER_HOSTS)
    }
    assert found == {"hosts"}


def test_other_hosts_know_nothing_of_pruning():
    """Comparison rows are unpruned: not a line of ours is in their models."""
    for path in FILES:
        if path.relative_to(PACKAGE).parts[0] == "hosts":
            ours = {name.split(".")[1] for name in imports(path) if name.startswith("stts_lightning.")}
            assert ours <= {"config", "hosts", "video"}, path.name


def test_one_folder_decodes():
    found = importers("decord", "av", "torchcodec", "cv2", "torchvision")
    assert {name.split("/")[0] for name in found} <= {"video"}


@pytest.mark.parametrize(
    "source, found",
    [
        ("import transformers.models.molmo2 as m", "transformers.models.molmo2"),
        ("def f():\n    from transformers.models import molmo2", "transformers.models.molmo2"),
        ("from importlib import import_module\nimport_module('decord')", "decord"),
    ],
)
def test_no_way_of_importing_is_overlooked(tmp_path, source, found):
    file = tmp_path / "file.py"
    file.write_text(source)
    assert found in imports(file)
