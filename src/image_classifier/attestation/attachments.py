"""What lies beside a registered model so that others can check it: bill of materials, provenance, signatures."""

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from image_classifier.attestation.dsse import fingerprint_of, read_private_key, seal
from image_classifier.attestation.model_bom import model_bom
from image_classifier.attestation.model_signature import digests_of, sign
from image_classifier.attestation.slsa_provenance import provenance_statement
from image_classifier.evaluation import Evaluation
from image_classifier.package import Package
from image_classifier.registry import artifact_paths as artifacts
from image_classifier.settings import Settings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey


@dataclass(frozen=True)
class Attestations:
    """Who attests, and with which key if any."""

    name: str
    actor: str
    steps_image: str
    key: "EllipticCurvePrivateKey | None"

    @classmethod
    def of(cls, settings: Settings, actor: str) -> "Attestations":
        """With the key that the settings name; raises SettingError where it cannot be used."""
        key = read_private_key(Path(settings.signing_key)) if settings.signing_key else None
        return cls(settings.name, actor, settings.steps_image, key)

    @property
    def tags(self) -> Mapping[str, str]:
        """What a version is tagged with."""
        return {artifacts.SIGNED_BY: fingerprint_of(self.key.public_key())} if self.key else {}

    def write(self, folder: Path, package: Package, evaluation: Evaluation) -> None:
        """Lay the files into the folder of the package's MLflow model; the signature, last, is of all of them."""
        made = digests_of(folder)
        (folder / artifacts.BILL_OF_MATERIALS).write_text(
            model_bom(package, made, evaluation, name=self.name), encoding="utf-8"
        )
        statement = provenance_statement(
            package,
            made,
            actor=self.actor,
            steps_image=self.steps_image,
            version=_program_version(),
        )
        (folder / artifacts.PROVENANCE).write_text(json.dumps(statement, indent=1) + "\n", encoding="utf-8")
        if self.key is not None:
            (folder / artifacts.SIGNED_PROVENANCE).write_bytes(seal(statement, self.key))
            (folder / artifacts.SIGNATURE).write_bytes(sign(digests_of(folder), self.name, self.key))


def _program_version() -> str:
    try:
        return importlib.metadata.version("image-classifier")
    except importlib.metadata.PackageNotFoundError:
        # Run from its source, as in an image that a buildpack made.
        return "unknown"
