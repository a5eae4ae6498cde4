"""Upload a package as an MLflow ONNX model: one folder that is both, verified after the upload."""

import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from image_classifier.errors import RegistryError
from image_classifier.files import sha256_of
from image_classifier.images import decode
from image_classifier.package import INPUT, Package, output_shapes
from image_classifier.registry.store import Store

MODEL_NAME = "package"
SIZES = "file_sizes"
"""Tag with the path and size of each file, which reveals missing and truncated files without fetching any."""


def upload_package(
    store: Store, run_id: str, package: Package, accompany: Callable[[Path], None] | None = None
) -> tuple[str, dict[str, int]]:
    """Upload a package as a logged model of a run; returns the model's id and its files with their sizes.

    `accompany` adds files to the model's folder before the upload. If an interrupted registration left a ready model
    of the same package and run, it is reused. Raises RegistryError if the stored files differ from the local ones.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    client, experiment = store.client, store.experiment_id
    with store.failures("cannot upload the package"):
        uploaded = client.search_logged_models(
            [experiment], filter_string=f"source_run_id = '{run_id}' AND tags.package_digest = '{package.digest}'"
        )
        for model in uploaded:
            # Not in the filter: MLflow compares the status with a number, which PostgreSQL refuses.
            if model.status != LoggedModelStatus.READY:
                continue
            sizes = store.model_files(model.model_id)
            if sizes == json.loads(model.tags.get(SIZES, "{}")):
                return model.model_id, sizes
        tags = {"package_digest": package.digest}
        model = client.create_logged_model(experiment, MODEL_NAME, source_run_id=run_id, tags=tags)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "model"
            write_mlflow_model(package, folder, run_id=run_id, model_id=model.model_id)
            if accompany is not None:
                accompany(folder)
            client.log_model_artifacts(model.model_id, str(folder))
            sizes = _verify_upload(store, model.model_id, folder)
        client.set_logged_model_tags(model.model_id, {SIZES: json.dumps(sizes)})
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        client.finalize_logged_model(model.model_id, "READY")
    return model.model_id, sizes


def _verify_upload(store: Store, model_id: str, folder: Path) -> dict[str, int]:
    """Fetch the stored model back and compare it; returns path and size of each file."""
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    sent = {name: (folder / name).stat().st_size for name in files}
    arrived = store.model_files(model_id)
    damaged = sorted(name for name in {*sent, *arrived} if sent.get(name) != arrived.get(name))
    if not damaged:
        with tempfile.TemporaryDirectory() as copy:
            stored = store.fetch_model(model_id, Path(copy))
            damaged = [name for name in files if sha256_of(stored / name) != sha256_of(folder / name)]
    if damaged:
        raise RegistryError(
            f"the model stored at {store.shown} differs from the local one ({', '.join(damaged[:3])}); repeat the step"
        )
    return sent


def write_mlflow_model(package: Package, folder: Path, *, run_id: str, model_id: str) -> None:
    """Write an MLflow ONNX model with signature and input example, and add the package's files unchanged."""
    import mlflow.onnx
    import numpy as np
    import onnx
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    size = package.image_size
    image = decode(package.golden[0].png, size, max_pixels=size * size)
    mlflow.onnx.save_model(
        onnx.load(package.model_file),
        folder,
        mlflow_model=Model(run_id=run_id, model_id=model_id, artifact_path=MODEL_NAME),
        signature=ModelSignature(
            inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, size, size, 3), INPUT)]),
            outputs=Schema(
                [TensorSpec(np.dtype(np.float32), (-1, *shape), name) for name, shape in output_shapes(package).items()]
            ),
        ),
        input_example={INPUT: image[np.newaxis]},
        # Otherwise MLflow infers them by loading the model in another process.
        pip_requirements=[
            f"{library}=={importlib.metadata.version(library)}"
            for library in ("mlflow", "numpy", "onnx", "onnxruntime")
        ],
        onnx_execution_providers=["CPUExecutionProvider"],
        save_as_external_data=False,
    )
    manifest = json.loads((package.folder / "manifest.json").read_bytes())
    for name in (*manifest["files"], "manifest.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        # Replaces MLflow's own copy of model.onnx, whose bytes may differ.
        shutil.copyfile(package.folder / name, folder / name)
