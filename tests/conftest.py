"""Fixtures that several parts share."""

import gc
import http.server
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from image_classifier.environment import disable_telemetry
from image_classifier.package.package import Images, Probabilities, write_package
from image_classifier.process import limit_thread_spinning

# Tests import MLflow and ONNX Runtime before our code does.
disable_telemetry()
# Tests load PyTorch before our code does, too.
limit_thread_spinning()

if TYPE_CHECKING:
    from image_classifier.registry.registry import Registry
    from tests.registry.mlflow_helpers import TrackingServer

LONGEST = {"test_tuning.py", "test_guides.py"}
COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
SIZE = 16


def pytest_configure() -> None:
    gc.disable()


def pytest_collection_finish() -> None:
    """Exempt all modules from garbage collection, which would go through them many times during the tests."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, so that no process waits for another one that runs them at the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def color_model(
    size: int = SIZE, colors_by_class: Mapping[str, tuple[int, ...]] = COLORS, sharpness: float = 20
) -> bytes:
    """A real ONNX model whose answer can be foreseen: the color nearest to the image's mean color."""
    colors = np.array(list(colors_by_class.values()), dtype=np.float32) / 255
    # |x - c|² = |x|² - 2x·c + |c|², and softmax is blind to the |x|² that all classes share.
    weights, bias = sharpness * colors.T, -sharpness / 2 * (colors**2).sum(axis=1)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["mean", "scale"], ["scaled"]),
            helper.make_node("Gemm", ["scaled", "weights", "bias"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"]),
        ],
        "colors",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", size, size, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", len(colors)])],
        [
            numpy_helper.from_array(np.array([1, 2], dtype=np.int64), "axes"),
            numpy_helper.from_array(np.array(1 / 255, dtype=np.float32), "scale"),
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(bias.astype(np.float32), "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def color_images(size: int = SIZE, colors_by_class: Mapping[str, tuple[int, ...]] = COLORS) -> Images:
    """One plain image of each of K colors, uint8 [K, size, size, 3]."""
    images = np.zeros((len(colors_by_class), size, size, 3), dtype=np.uint8)
    images[:] = np.array(list(colors_by_class.values()), dtype=np.uint8)[:, np.newaxis, np.newaxis]
    return images


def color_probabilities(colors_by_class: Mapping[str, tuple[int, ...]] = COLORS) -> Probabilities:
    """What the color model answers to `color_images` of K colors, computed without ONNX; float32 [K, K]."""
    colors = np.array(list(colors_by_class.values()), dtype=np.float64) / 255
    logits = 20 * colors @ colors.T - 10 * (colors**2).sum(axis=1)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)


def write_color_package(
    folder: Path,
    *,
    size: int = SIZE,
    colors_by_class: Mapping[str, tuple[int, ...]] = COLORS,
    reference: Mapping[str, Any] | None = None,
    framing: str = "crop",
    **provenance: str,
) -> None:
    classes = list(colors_by_class)
    images, probabilities = color_images(size, colors_by_class), color_probabilities(colors_by_class)
    write_package(
        folder,
        model=color_model(size, colors_by_class),
        classes=classes,
        image_size=size,
        provenance={"source_revision": "abc123", "data_digest": "d" * 64, "run_id": "r" * 32, **provenance},
        golden=(images, classes, probabilities),
        reference=reference or {"images": len(classes)},
        framing=framing,
    )


@pytest.fixture(autouse=True)
def restored_environment() -> Iterator[None]:
    """Undo what a command that was called in the process of the tests did to the environment variables."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def package_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid package of the color model; read it, do not change it."""
    folder = tmp_path_factory.mktemp("packages") / "colors"
    write_color_package(folder)
    return folder


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sqlite file with MLflow's tables, to be copied: making one takes seconds."""
    from tests.registry.mlflow_helpers import registry_at

    home = tmp_path_factory.mktemp("empty")
    registry_at(home).check()
    return home / "mlflow.db"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """One store for a module, as opening one takes MLflow a while; each test has a registered model of its own."""
    home = tmp_path_factory.mktemp("home")
    shutil.copy(empty_database, home)
    return home


@pytest.fixture
def registry(home: Path, request: pytest.FixtureRequest) -> "Registry":
    from tests.registry.mlflow_helpers import registry_at

    return registry_at(home, name=re.sub(r"\W+", "-", request.node.name).strip("-"))


class _Elsewhere(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        # Unread, the body would make the closed connection a reset one.
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(int(self.path.split("/")[1]))
        self.end_headers()
        self.wfile.write(b"<html>a page</html>")

    do_GET = do_POST  # noqa: N815 (the name is http.server's)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def elsewhere() -> Iterator[str]:
    """Where something else than MLflow answers, with the status that the path begins with."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def tracking_server(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator["TrackingServer"]:
    """A real MLflow server; it is started when first asked for, and waited for when its address is."""
    from tests.registry.mlflow_helpers import TrackingServer

    server = TrackingServer(tmp_path_factory.mktemp("server"), empty_database)
    server.start()
    yield server
    server.kill()
