"""Files next to a registered model with which others can check it: bill of materials, provenance, signatures."""

import importlib.metadata
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from image_classifier.attestation.dsse import STATEMENT_TYPE, key_fingerprint, read_private_key, sign_statement
from image_classifier.attestation.model_bom import model_bom
from image_classifier.attestation.model_signature import file_digests, sign
from image_classifier.evaluation import Evaluation
from image_classifier.package import Package
from image_classifier.registry import artifact_paths

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

_PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
_BUILD_TYPE = "urn:image-classifier:training:1"
"""Identifies the meaning of the fields below, which docs/threat-model.md describes."""
_TEKTON, _MACHINE = "urn:image-classifier:builder:tekton", "urn:image-classifier:builder:machine"
_INTERNAL = ("fingerprint", "source_revision", "data_source", "precision", "validation_accuracy")


@dataclass(frozen=True)
class Attestations:
    """Writes the attestations of versions of one model."""

    name: str
    """Name of the registered model."""
    actor: str
    """User or TaskRun that registers the version."""
    steps_image: str
    """Image in which the steps run, with its digest; "" for none."""
    key: "EllipticCurvePrivateKey | None"

    @classmethod
    def create(cls, *, name: str, actor: str, steps_image: str, signing_key: str) -> "Attestations":
        """Sign with the key in the file `signing_key`, unless it is "". Raises SettingError if the key is unusable."""
        return cls(name, actor, steps_image, read_private_key(Path(signing_key)) if signing_key else None)

    @property
    def tags(self) -> Mapping[str, str]:
        """Tags of an attested version."""
        return {artifact_paths.SIGNED_BY: key_fingerprint(self.key.public_key())} if self.key else {}

    def write(self, folder: Path, package: Package, evaluation: Evaluation) -> None:
        """Write the attestations into `folder`, which holds the package as an MLflow model.

        The model's signature is written last, because it covers all other files.
        """
        digests = file_digests(folder)
        bill = model_bom(package, digests, evaluation, name=self.name)
        (folder / artifact_paths.BILL_OF_MATERIALS).write_text(bill, encoding="utf-8")
        statement = self._provenance(package, digests)
        (folder / artifact_paths.PROVENANCE).write_text(json.dumps(statement, indent=1) + "\n", encoding="utf-8")
        if self.key is not None:
            (folder / artifact_paths.SIGNED_PROVENANCE).write_bytes(sign_statement(statement, self.key))
            (folder / artifact_paths.SIGNATURE).write_bytes(sign(file_digests(folder), self.name, self.key))

    def _provenance(self, package: Package, digests: Mapping[str, str]) -> dict[str, Any]:
        """An in-toto Statement with SLSA provenance 1 (https://slsa.dev/spec/v1.0/provenance).

        It repeats the claims of the package, which the source's own training code writes, and of the chain's settings.
        """
        provenance = package.provenance
        return {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": path, "digest": {"sha256": digest}} for path, digest in digests.items()],
            "predicateType": _PREDICATE_TYPE,
            "predicate": {
                "buildDefinition": {
                    "buildType": _BUILD_TYPE,
                    "externalParameters": provenance.get("parameters", {}),
                    "internalParameters": {name: provenance[name] for name in _INTERNAL if name in provenance},
                    "resolvedDependencies": _dependencies(provenance, self.steps_image),
                },
                "runDetails": {
                    "builder": {
                        "id": _TEKTON if self.steps_image else _MACHINE,
                        "version": {"image-classifier": _program_version(), "registered-by": self.actor},
                    },
                    "metadata": {
                        "invocationId": f"mlflow-run:{provenance.get('run_id', '')}",
                        **({"finishedOn": provenance["created"]} if "created" in provenance else {}),
                    },
                },
            },
        }


def _program_version() -> str:
    try:
        return importlib.metadata.version("image-classifier")
    except importlib.metadata.PackageNotFoundError:  # not installed, as in an image built by a buildpack
        return "unknown"


def _dependencies(provenance: Mapping[str, Any], steps_image: str) -> list[dict[str, Any]]:
    # Flux writes "main@sha1:COMMIT", a checkout "COMMIT"; a modified checkout has a suffix and matches no commit.
    commit = re.search(r"(?:^|sha1:)([0-9a-f]{40})$", str(provenance.get("source_revision")))
    image, _, image_digest = steps_image.partition("@sha256:")
    dependencies = [
        ("source", "gitCommit", commit[1] if commit else ""),
        ("training code", "sha256", provenance.get("code_digest", "")),
        ("data", "sha256", provenance["data_digest"]),
        (f"image of the steps, {image}", "sha256", image_digest),
    ]
    return [{"name": name, "digest": {method: digest}} for name, method, digest in dependencies if digest]
