"""The house: what one room may take from another. `make lint` checks which rooms may use which."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

import image_classifier

SOURCE = Path(image_classifier.__file__).parent
ROOMS = sorted(path.parent.name for path in SOURCE.glob("*/__init__.pyi"))


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_a_room_uses_only_what_another_room_exports():
    graph = grimp.build_graph("image_classifier", cache_dir=None)
    past_the_door = {
        (importer, imported)
        for importer in graph.modules
        for imported in graph.find_modules_directly_imported_by(importer)
        if room_of(imported) in ROOMS
        and room_of(imported) != room_of(importer)
        and imported.count(".") > 1
        # Its constants are named by the module, as artifact_paths.REPORT.
        and imported != "image_classifier.registry.artifact_paths"
    }
    assert past_the_door == set()


@pytest.mark.slow
def test_everything_that_a_room_exports_is_there():
    modules = ", ".join(f"image_classifier.{room}" for room in ROOMS)
    subprocess.run([sys.executable, "-c", f"import {modules}"], env={**os.environ, "EAGER_IMPORT": "1"}, check=True)


@pytest.mark.parametrize("room", ROOMS)
def test_everything_that_a_room_exports_is_used_elsewhere(room):
    stub = ast.parse((SOURCE / room / "__init__.pyi").read_text())
    exported = [name.name for node in stub.body if isinstance(node, ast.ImportFrom) for name in node.names]
    texts = [path.read_text() for path in SOURCE.rglob("*.py") if path.relative_to(SOURCE).parts[0] != room]
    unused = [name for name in exported if not any(name in text for text in texts)]
    assert unused == []


def imports(module: str) -> set[str]:
    """Names of the top-level packages in a new interpreter that imported the module and what it exports."""
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("module", ["serving.web.app", "serving.http.server", "serving.protocols.v2"])
def test_the_server_loads_neither_pytorch_nor_mlflow_nor_what_its_image_lacks(module):
    loaded = imports(f"image_classifier.{module}")
    assert "flask" in loaded or "gunicorn" in loaded
    assert not loaded & {"torch", "mlflow", "scipy", "sklearn", "pyarrow", "matplotlib", "tqdm"}


@pytest.mark.slow
@pytest.mark.parametrize("module", ["gate.verdict", "gate.report"])
def test_the_gate_loads_no_pytorch(module):
    assert "torch" not in imports(f"image_classifier.{module}")


def test_no_two_modules_have_one_name():
    names = [path.name for path in SOURCE.rglob("*.py") if path.name not in ("__init__.py", "__main__.py")]
    # A step is a module of its own room, with the name of its command.
    others = [path.name for path in SOURCE.rglob("*.py") if path.parent.name != "steps"]
    assert sorted(name for name in set(others) if others.count(name) > 1 and name[:2] != "__") == []
    assert len(names) > 100
