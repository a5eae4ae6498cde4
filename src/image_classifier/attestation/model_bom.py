"""Bill of materials of a model, in CycloneDX format for machine learning (https://cyclonedx.org/capabilities/mlbom)."""

import importlib.metadata
import json
from collections.abc import Mapping
from typing import Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from image_classifier.evaluation import Evaluation, recall_metric
from image_classifier.package import INPUT, OUTPUT, Package, output_shapes

LIBRARIES = ("numpy", "onnx", "onnxruntime", "onnxscript", "pillow", "torch")
"""Libraries that train, export and run the model, and so affect its predictions."""
_DATA = "data"


def model_bom(package: Package, digests: Mapping[str, str], evaluation: Evaluation, *, name: str) -> str:
    """The bill, CycloneDX 1.6 as JSON: the model, its files, data set, metrics and libraries.

    `digests` has the SHA-256 of each file by its path; `name` is that of the registered model.
    """
    provenance = package.provenance
    model = Component(
        name=name,
        version=package.digest[:12],
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="model",
        hashes=[_sha256(digests["model.onnx"])],
        components=[_file(path, digest) for path, digest in digests.items()],
        properties=[
            Property(name=f"image-classifier:{key}", value=str(provenance[key]))
            for key in ("source_revision", "code_digest", "fingerprint", "run_id")
            if key in provenance
        ],
    )
    source, digest = str(provenance.get("data_source", "unknown")), _sha256(provenance["data_digest"])
    data = Component(name=source, type=ComponentType.DATA, bom_ref=_DATA, hashes=[digest])
    libraries = [_library(library) for library in LIBRARIES]
    parts = [data, *_backbone(provenance.get("backbone")), *libraries]
    bom = Bom(components=parts)
    bom.metadata.component = model
    bom.register_dependency(model, parts)
    content = json.loads(JsonV1Dot6(bom).output_as_string())
    # cyclonedx-python-lib does not support model cards yet.
    content["metadata"]["component"]["modelCard"] = _model_card(package, evaluation)
    return json.dumps(content, indent=1) + "\n"


def _sha256(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digest)


def _file(path: str, digest: str) -> Component:
    return Component(name=path, type=ComponentType.FILE, bom_ref=f"file:{path}", hashes=[_sha256(digest)])


def _backbone(record: Mapping[str, str] | None) -> list[Component]:
    """The pretrained network that the model is built on, if there is one."""
    if record is None:
        return []
    trained_on = record.get("trained_on")
    component = Component(
        name=record["name"],
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="backbone",
        hashes=[_sha256(record["digest"])],
        licenses=[LicenseFactory().make_from_string(record["license"])] if "license" in record else [],
        external_references=[ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=XsUri(record["origin"]))],
        properties=[Property(name="image-classifier:trained_on", value=trained_on)] if trained_on else [],
    )
    return [component]


def _library(name: str) -> Component:
    version = importlib.metadata.version(name)
    license_expression = importlib.metadata.metadata(name).json.get("license_expression")
    url = PackageURL("pypi", name=name, version=version)
    return Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        bom_ref=url.to_string(),
        purl=url,
        licenses=[LicenseFactory().make_from_string(str(license_expression))] if license_expression else [],
    )


def _model_card(package: Package, evaluation: Evaluation) -> dict[str, Any]:
    size = package.image_size
    outputs = {
        name: f"{name}: float32 [{', '.join(map(str, ('N', *shape)))}]"
        for name, shape in output_shapes(package).items()
    }
    outputs[OUTPUT] += f": {', '.join(package.classes)}"
    unescaped = {recall_metric(name): f"recall/{name}" for name in evaluation.classes}
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "image-classification",
            "architectureFamily": "convolutional neural network",
            "datasets": [{"ref": _DATA}],
            "inputs": [{"format": f"{INPUT}: uint8 [N, {size}, {size}, 3]"}],
            "outputs": [{"format": output} for output in outputs.values()],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [
                _metric(unescaped.get(name, name), value) for name, value in evaluation.metrics.items()
            ]
        },
    }


def _metric(name: str, value: float) -> dict[str, str]:
    """A metric; the part of its name after a slash is the slice of the images."""
    kind, _, part = name.partition("/")
    return {"type": kind, "value": f"{value:.6g}", **({"slice": part} if part else {})}
