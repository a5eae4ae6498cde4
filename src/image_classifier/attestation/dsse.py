"""Signed statements: an in-toto Statement in a DSSE envelope in a Sigstore bundle, by a key of one's own.

Sigstore's tools read that form; there is no certificate, no transparency log and no network. Sources: the DSSE protocol
1.0, the in-toto Attestation Framework 1, Sigstore's bundle 0.3.
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
# The curves of Sigstore's bundles, each with the hash that its signatures are of.
_HASHES: Mapping[str, type[hashes.HashAlgorithm]] = {
    "secp256r1": hashes.SHA256,
    "secp384r1": hashes.SHA384,
    "secp521r1": hashes.SHA512,
}
_HOW = "make one with `openssl ecparam -name prime256v1 -genkey -noout -out key.pem`"


def read_private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The key in a PEM file; raises SettingError where it cannot be read or is not of a curve that is known."""
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise SettingError(f"the signing_key {path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SettingError(
            f"the signing_key {path} is no private key in PEM without a password; {_HOW}"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _HASHES:
        raise SettingError(f"the signing_key {path} is not of the curve P-256, P-384 or P-521; {_HOW}")
    return key


def read_public_keys(given: str) -> tuple[ec.EllipticCurvePublicKey, ...]:
    """The keys in PEM text, or in a file of that name; raises SettingError where there is none that can be used."""
    shown = "the text given" if "BEGIN" in given else given
    try:
        text = given if "BEGIN" in given else Path(given).read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise SettingError(f"the public_key {given} cannot be read: {error}") from error
    blocks = re.findall(r"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", text, flags=re.DOTALL)
    try:
        keys = [load_pem_public_key(block.encode()) for block in blocks]
    except (ValueError, UnsupportedAlgorithm):
        keys = []
    usable = [key for key in keys if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _HASHES]
    if not usable or len(usable) < len(blocks):
        raise SettingError(
            f"the public_key is {shown}, but must hold public keys in PEM of the curve P-256, P-384 or P-521; "
            "`openssl ec -in key.pem -pubout` writes that of a private key"
        )
    return tuple(usable)


def fingerprint_of(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 of the key in PEM, in hexadecimal: what a bundle calls its key by."""
    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def seal(statement: Mapping[str, Any], key: ec.EllipticCurvePrivateKey) -> bytes:
    """The bundle, as JSON, of a statement that is signed with the key."""
    payload = json.dumps(statement, indent=1, allow_nan=False).encode()
    signature = key.sign(_encoded(payload), ec.ECDSA(_HASHES[key.curve.name]()))
    bundle = {
        "mediaType": _BUNDLE_TYPE,
        "verificationMaterial": {
            "publicKey": {"hint": fingerprint_of(key.public_key())},
            "tlogEntries": [],
        },
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": _PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
    return (json.dumps(bundle, indent=1) + "\n").encode()


def unseal(bundle: bytes, keys: Sequence[ec.EllipticCurvePublicKey]) -> dict[str, Any]:
    """The statement of a bundle that one of the keys has signed.

    Raises SignatureError where none has; its text is what follows the name of the signature in a sentence.
    """
    try:
        content = json.loads(bundle)
        envelope = content["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        signature = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
        kind = (content["mediaType"], envelope["payloadType"])
        hint = str(content["verificationMaterial"]["publicKey"].get("hint", ""))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise SignatureError("is no Sigstore bundle with a signature by a key") from error
    if kind != (_BUNDLE_TYPE, _PAYLOAD_TYPE):
        raise SignatureError(
            f"is of the kind {kind[0]} with {kind[1]}, but must be {_BUNDLE_TYPE} with {_PAYLOAD_TYPE}"
        )
    if not any(_has_signed(key, signature, payload) for key in keys):
        known = [fingerprint_of(key) for key in keys]
        if hint in known:
            raise SignatureError("was altered: it does not fit what it says was signed")
        raise SignatureError(
            f"is by another key ({hint[:16] or 'unnamed'}) than public_key names "
            f"({', '.join(name[:16] for name in known)}; SHA-256 of the PEM)"
        )
    try:
        statement = json.loads(payload)
    except ValueError:
        statement = None
    if not isinstance(statement, dict) or statement.get("_type") != STATEMENT_TYPE:
        raise SignatureError(f"holds no statement of the type {STATEMENT_TYPE}")
    return statement


def _has_signed(key: ec.EllipticCurvePublicKey, signature: bytes, payload: bytes) -> bool:
    try:
        key.verify(signature, _encoded(payload), ec.ECDSA(_HASHES[key.curve.name]()))
    except InvalidSignature:
        return False
    return True


def _encoded(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what the signature is of."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE.encode(), len(payload), payload)
