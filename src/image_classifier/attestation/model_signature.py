"""Signature of a model: the signed SHA-256 of every file in its folder, in the format of Sigstore's `model-signing`.

Signed at registration, verified before a model is accepted or served. `model-signing` itself requires about thirty
packages for certificates and transparency logs; tests check that both verify each other's signatures.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from image_classifier.attestation.dsse import STATEMENT_TYPE, read_public_keys, sign_statement, verify_bundle
from image_classifier.errors import SignatureError
from image_classifier.files import sha256_of
from image_classifier.registry import SIGNATURE

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

_MANIFEST = "manifest.json"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_IGNORED = (SIGNATURE, "version.json", "registered_model_meta")
"""Files that are written next to a model after it was signed, the last one by MLflow's downloads."""


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder by its path, in the order in which they are signed."""
    files = (path for path in folder.rglob("*") if path.is_file())
    digests = {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}
    return dict(sorted(digests.items(), key=lambda item: PurePosixPath(item[0])))


def sign(digests: Mapping[str, str], name: str, key: "EllipticCurvePrivateKey") -> bytes:
    """The content of `model.sig` for the registered model `name`, whose files have these digests."""
    serialization = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": list(_IGNORED)}
    resources = [{"name": path, "algorithm": "sha256", "digest": digest} for path, digest in digests.items()]
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": _root_digest(digests)}}],
        "predicateType": _PREDICATE_TYPE,
        "predicate": {"serialization": serialization, "resources": resources},
    }
    return sign_statement(statement, key)


def verify(signature: bytes | None, files: Mapping[str, str], public_key: str, *, model: str, name: str = "") -> None:
    """Verify that a key of the setting `public_key` signed all of `files`, which has their SHA-256 by path.

    `signature` is the content of `model.sig`, or None if there is none; `model` names the model in messages. If `name`
    is given, the signature must be for that registered model. Raises SignatureError.
    """
    keys = read_public_keys(public_key)
    if signature is None:
        raise SignatureError(
            f"{model} is not signed, but public_key requires a signature; register it with a signing_key (a new text "
            "for retrain makes a new version)"
        )
    try:
        digests, signed_name = _signed_content(verify_bundle(signature, keys))
    except SignatureError as error:
        raise SignatureError(f"the signature of {model} {error}") from error
    for path, digest in files.items():
        if path not in digests:
            raise SignatureError(f"{model} differs from what was signed: {path} is not among the signed files")
        if digests[path] != digest:
            raise SignatureError(f"{model} differs from what was signed: {path} was changed")
    if name and signed_name != name:
        raise SignatureError(f"{model} was signed as a version of {signed_name}, not of {name}")


def verify_folder(folder: Path, public_key: str, *, name: str = "") -> None:
    """Verify the signature of a package whose files are known to match its manifest. Raises SignatureError."""
    path = folder / SIGNATURE
    signature, files = path.read_bytes() if path.exists() else None, package_files((folder / _MANIFEST).read_bytes())
    verify(signature, files, public_key, model=f"the package in {folder}", name=name)


def package_files(manifest: bytes) -> dict[str, str]:
    """SHA-256 of every file of a package by its path, including the manifest, of which this is the content."""
    files: dict[str, str] = json.loads(manifest)["files"]
    return {**files, _MANIFEST: hashlib.sha256(manifest).hexdigest()}


def _signed_content(statement: Mapping[str, Any]) -> tuple[dict[str, str], str]:
    """The digests by path and the name of the model in a statement; raises SignatureError for any other statement."""
    try:
        if statement["predicateType"] != _PREDICATE_TYPE:
            found = statement["predicateType"]
            raise SignatureError(f"has the predicate type {found}, but must have {_PREDICATE_TYPE}")
        predicate, (subject,) = statement["predicate"], statement["subject"]
        if predicate["serialization"]["method"] != "files":
            raise SignatureError("covers shards of files, but must cover whole files")
        resources = predicate["resources"]
        if {resource["algorithm"] for resource in resources} != {"sha256"}:
            raise SignatureError("uses digests other than SHA-256")
        digests = {str(resource["name"]): str(resource["digest"]) for resource in resources}
        if subject["digest"]["sha256"] != _root_digest(digests):
            raise SignatureError("is inconsistent: the digest of the model does not match those of its files")
        return digests, str(subject["name"])
    except (KeyError, TypeError, ValueError) as error:
        raise SignatureError("contains no list of files and digests") from error


def _root_digest(digests: Mapping[str, str]) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in digests.values())).hexdigest()
