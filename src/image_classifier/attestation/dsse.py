"""Signed statements: an in-toto Statement in a DSSE envelope in a Sigstore bundle, signed with a key pair.

Sigstore's tools read this format. There is no certificate, no transparency log and no network access. Sources: DSSE
protocol 1.0, in-toto Attestation Framework 1, Sigstore bundle 0.3.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from image_classifier.errors import SettingError, SignatureError

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_HASHES: Mapping[str, type[hashes.HashAlgorithm]] = {
    "secp256r1": hashes.SHA256,
    "secp384r1": hashes.SHA384,
    "secp521r1": hashes.SHA512,
}
"""Curves that Sigstore bundles support, each with its hash algorithm."""
_CREATE_KEY = "create one with `openssl ecparam -name prime256v1 -genkey -noout -out key.pem`"
_SHOWN_DIGITS = 16  # of a key's fingerprint in messages


def read_private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The private key in a PEM file; raises SettingError if it cannot be read or its curve is not supported."""
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise SettingError(f"cannot read the signing_key {path}: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SettingError(
            f"the signing_key {path} is not a PEM private key without a password; {_CREATE_KEY}"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _HASHES:
        raise SettingError(f"the signing_key {path} is not on one of the curves P-256, P-384 and P-521; {_CREATE_KEY}")
    return key


def read_public_keys(public_key: str) -> tuple[ec.EllipticCurvePublicKey, ...]:
    """The public keys in PEM text, or in the PEM file of that path.

    Raises SettingError if it cannot be read, contains no key, or one whose curve is not supported.
    """
    is_text = "BEGIN" in public_key
    try:
        text = public_key if is_text else Path(public_key).read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise SettingError(f"cannot read the public_key {public_key}: {error}") from error
    blocks = re.findall(r"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", text, flags=re.DOTALL)
    try:
        keys = [load_pem_public_key(block.encode()) for block in blocks]
    except (ValueError, UnsupportedAlgorithm):
        keys = []
    usable = [key for key in keys if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _HASHES]
    if not usable or len(usable) < len(blocks):
        raise SettingError(
            f"the public_key{'' if is_text else f' {public_key}'} must contain PEM public keys on the curves P-256, "
            "P-384 or P-521; `openssl ec -in key.pem -pubout` writes the one of a private key"
        )
    return tuple(usable)


def key_fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 of the key in PEM, hexadecimal, by which a bundle refers to its key."""
    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def sign_statement(statement: Mapping[str, Any], key: ec.EllipticCurvePrivateKey) -> bytes:
    """Sign a statement; returns the bundle as JSON."""
    payload = json.dumps(statement, indent=1, allow_nan=False).encode()
    signature = key.sign(_pre_authentication_encoding(payload), ec.ECDSA(_HASHES[key.curve.name]()))
    bundle = {
        "mediaType": _BUNDLE_TYPE,
        "verificationMaterial": {"publicKey": {"hint": key_fingerprint(key.public_key())}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": _PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
    return (json.dumps(bundle, indent=1) + "\n").encode()


def verify_bundle(bundle: bytes, keys: Sequence[ec.EllipticCurvePublicKey]) -> dict[str, Any]:
    """Verify that one of the keys signed a bundle; returns its statement.

    Raises SignatureError otherwise, with a text that continues a sentence "The signature of the model ...".
    """
    try:
        content = json.loads(bundle)
        envelope = content["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        signature = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
        types = (content["mediaType"], envelope["payloadType"])
        hint = str(content["verificationMaterial"]["publicKey"].get("hint", ""))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise SignatureError("is not a Sigstore bundle with the signature of a key") from error
    if types != (_BUNDLE_TYPE, _PAYLOAD_TYPE):
        raise SignatureError(
            f"has the types {types[0]} and {types[1]}, but must have {_BUNDLE_TYPE} and {_PAYLOAD_TYPE}"
        )
    if not any(_is_signed_by(key, signature, payload) for key in keys):
        allowed = [key_fingerprint(key) for key in keys]
        if hint in allowed:
            raise SignatureError("was altered: it does not match its content")
        raise SignatureError(
            f"was made with the key {hint[:_SHOWN_DIGITS] or '(unnamed)'}, but public_key allows only "
            f"{', '.join(fingerprint[:_SHOWN_DIGITS] for fingerprint in allowed)} (SHA-256 of the PEM)"
        )
    try:
        statement = json.loads(payload)
    except ValueError:
        statement = None
    if not isinstance(statement, dict) or statement.get("_type") != STATEMENT_TYPE:
        raise SignatureError(f"contains no statement of type {STATEMENT_TYPE}")
    return statement


def _is_signed_by(key: ec.EllipticCurvePublicKey, signature: bytes, payload: bytes) -> bool:
    try:
        key.verify(signature, _pre_authentication_encoding(payload), ec.ECDSA(_HASHES[key.curve.name]()))
    except InvalidSignature:
        return False
    return True


def _pre_authentication_encoding(payload: bytes) -> bytes:
    """The bytes that DSSE signs."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE.encode(), len(payload), payload)
