"""The signature of a model: the SHA-256 of every file of its folder, signed, as Sigstore's `model-signing` has it.

Signed at registration, verified before a model is accepted or served. The library itself brings some thirty packages
for certificates and transparency logs, which a key of one's own needs none of; a test holds both against each other.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from image_classifier.attestation.dsse import STATEMENT_TYPE, read_public_keys, seal, unseal
from image_classifier.errors import SignatureError
from image_classifier.files import sha256_of
from image_classifier.registry import SIGNATURE

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

MANIFEST_FILE = "manifest.json"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_UNSIGNED = (SIGNATURE, "version.json", "registered_model_meta")
"""Files beside a model that are written after it was signed, the last one by MLflow's downloads; `model-signing` passes
over them, too."""


def digests_of(folder: Path) -> dict[str, str]:
    """Path and SHA-256 of every file in a folder, in the order in which they are signed."""
    files = (path for path in folder.rglob("*") if path.is_file())
    found = {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}
    return dict(sorted(found.items(), key=lambda item: PurePosixPath(item[0])))


def sign(digests: Mapping[str, str], name: str, key: "EllipticCurvePrivateKey") -> bytes:
    """The content of `model.sig` for a model that is called `name` and has files of these digests."""
    return seal(_statement(digests, name), key)


def verify(
    signature: bytes | None, files: Mapping[str, str], public_key: str, *, model: str, name: str = ""
) -> None:
    """Raise SignatureError unless each of `files` (path to SHA-256) is signed, by a key of the setting `public_key`.

    `signature` is the content of `model.sig`, None where there is none; `model` is what messages call the model.
    With a `name` it must be that of the registered model: one model's signature is none for another.
    """
    keys = read_public_keys(public_key)
    if signature is None:
        raise SignatureError(
            f"{model} is not signed, but public_key asks for a signature; register it with a signing_key "
            "(a new text for retrain makes a new version)"
        )
    try:
        signed, signed_name = _read(unseal(signature, keys))
    except SignatureError as error:
        raise SignatureError(f"the signature of {model} {error}") from error
    for path, digest in files.items():
        if path not in signed:
            raise SignatureError(f"{model} is not what was signed: {path} is not among the signed files")
        if signed[path] != digest:
            raise SignatureError(f"{model} is not what was signed: {path} was changed since")
    if name and signed_name != name:
        raise SignatureError(f"{model} was signed as a version of {signed_name}, not of {name}")


def verify_folder(folder: Path, public_key: str, *, name: str = "") -> None:
    """Verify the signature beside a package whose files were already compared with its manifest."""
    file = folder / SIGNATURE
    verify(
        file.read_bytes() if file.exists() else None,
        package_files((folder / MANIFEST_FILE).read_bytes()),
        public_key,
        model=f"the package in {folder}",
        name=name,
    )


def package_files(manifest: bytes) -> dict[str, str]:
    """Path and SHA-256 of all the files of a package, by the content of its manifest, which is one of them."""
    files: dict[str, str] = json.loads(manifest)["files"]
    return {**files, MANIFEST_FILE: hashlib.sha256(manifest).hexdigest()}


def _statement(digests: Mapping[str, str], name: str) -> dict[str, Any]:
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": _root(digests)}}],
        "predicateType": _PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": list(_UNSIGNED),
            },
            "resources": [
                {"name": path, "algorithm": "sha256", "digest": digest} for path, digest in digests.items()
            ],
        },
    }


def _read(statement: Mapping[str, Any]) -> tuple[dict[str, str], str]:
    """The signed files and the name of the model; raises SignatureError for a statement of another kind."""
    try:
        if statement["predicateType"] != _PREDICATE_TYPE:
            raise SignatureError(f"is of {statement['predicateType']}, but must be of {_PREDICATE_TYPE}")
        predicate, (subject,) = statement["predicate"], statement["subject"]
        if predicate["serialization"]["method"] != "files":
            raise SignatureError("is of shards of files; sign whole files")
        resources = predicate["resources"]
        if {resource["algorithm"] for resource in resources} != {"sha256"}:
            raise SignatureError("is of other digests than SHA-256")
        digests = {str(resource["name"]): str(resource["digest"]) for resource in resources}
        if subject["digest"]["sha256"] != _root(digests):
            raise SignatureError(
                "contradicts itself: the digest over all files is not that of the files it lists"
            )
        return digests, str(subject["name"])
    except (KeyError, TypeError, ValueError) as error:
        raise SignatureError("lists no files and digests") from error


def _root(digests: Mapping[str, str]) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in digests.values())).hexdigest()
