"""How a registered model was made: an in-toto Statement with SLSA's provenance 1 (https://slsa.dev/spec/v1.0/provenance).

It says what the package and the chain's settings say; the training code, which wrote the package, is the source's own.
"""

import re
from collections.abc import Mapping
from typing import Any

from image_classifier.attestation.dsse import STATEMENT_TYPE
from image_classifier.package import Package

PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:image-classifier:training:1"
"""What the fields below mean; docs/threat-model.md says it in words."""
_INTERNAL = ("fingerprint", "source_revision", "data_source", "precision", "validation_accuracy")
IN_CLUSTER, ON_MACHINE = "urn:image-classifier:builder:tekton", "urn:image-classifier:builder:machine"


def provenance_statement(
    package: Package, digests: Mapping[str, str], *, actor: str, steps_image: str, version: str
) -> dict[str, Any]:
    """The statement about the files of `digests` (path to SHA-256), which hold the package.

    `actor` is who registers it, `steps_image` the image that the steps run in ("": none), and `version` that of this
    program.
    """
    known = package.provenance
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": path, "digest": {"sha256": digest}} for path, digest in digests.items()],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": known.get("parameters", {}),
                "internalParameters": {name: known[name] for name in _INTERNAL if name in known},
                "resolvedDependencies": _dependencies(known, steps_image),
            },
            "runDetails": {
                "builder": {
                    "id": IN_CLUSTER if steps_image else ON_MACHINE,
                    "version": {"image-classifier": version, "registered-by": actor},
                },
                "metadata": {
                    "invocationId": f"mlflow-run:{known.get('run_id', '')}",
                    **({"finishedOn": known["created"]} if "created" in known else {}),
                },
            },
        },
    }


def _dependencies(known: Mapping[str, Any], steps_image: str) -> list[dict[str, Any]]:
    """What went into the model, as far as it has a digest."""
    # "main@sha1:COMMIT" as Flux has it, COMMIT of a checkout; a changed checkout is of no commit.
    commit = re.search(r"(?:^|sha1:)([0-9a-f]{40})$", str(known.get("source_revision")))
    image, _, image_digest = steps_image.partition("@sha256:")
    found = [
        ("source", "gitCommit", commit[1] if commit else ""),
        ("training code", "sha256", known.get("code_digest", "")),
        ("data", "sha256", known["data_digest"]),
        (f"image of the steps, {image}", "sha256", image_digest),
    ]
    return [{"name": name, "digest": {method: digest}} for name, method, digest in found if digest]
