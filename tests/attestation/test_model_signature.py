"""Signatures of models, made and verified by this program and by Sigstore's own `model-signing`."""

import base64
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from image_classifier.attestation.dsse import (
    STATEMENT_TYPE,
    key_fingerprint,
    read_private_key,
    read_public_keys,
    sign_statement,
    verify_bundle,
)
from image_classifier.attestation.model_signature import file_digests, package_files, sign, verify, verify_folder
from image_classifier.errors import SettingError, SignatureError
from image_classifier.files import sha256_of
from image_classifier.package.package import Package

SIGNED_BY_0_1 = Path(__file__).parent / "signed_by_0.1"
"""Signature, manifest and signed provenance that version 0.1 of this program wrote, and the public key."""


def write_keys(folder: Path, name: str = "key", curve: ec.EllipticCurve | None = None) -> tuple[Path, Path]:
    """Generate a key pair; returns the files of the private and the public key."""
    key = ec.generate_private_key(curve or ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def sign_folder(folder: Path, private: Path, name: str = "colors") -> None:
    (folder / "model.sig").write_bytes(sign(file_digests(folder), name, read_private_key(private)))


def model_signing(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command `model_signing`, in this process."""
    from model_signing._cli import main

    result = CliRunner().invoke(main, [*map(str, arguments)])
    return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)


def rewrite(folder: Path, file: str, content: bytes) -> None:
    """Change a file and the manifest, so that the package itself is valid."""
    (folder / file).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][file] = sha256_of(folder / file)
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(manifest["files"].items()))
    manifest["digest"] = hashlib.sha256(lines.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    Package.read(folder)


@pytest.fixture
def keys(tmp_path):
    return write_keys(tmp_path)


@pytest.fixture
def folder(tmp_path, package_folder, keys):
    """A package with its signature."""
    copy = tmp_path / "colors"
    shutil.copytree(package_folder, copy)
    sign_folder(copy, keys[0])
    return copy


def test_a_signed_package_is_verified_with_and_without_a_version_file(folder, keys):
    verify_folder(folder, str(keys[1]), name="colors")
    (folder / "version.json").write_text('{"version": 7}')
    verify_folder(folder, keys[1].read_text())


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_model_signing_verifies_our_signature_and_detects_a_changed_file(tmp_path, package_folder, curve):
    private, public = write_keys(tmp_path, curve=curve)
    folder = tmp_path / "colors"
    shutil.copytree(package_folder, folder)
    sign_folder(folder, private)
    (folder / "version.json").write_text('{"version": 7}')
    command = ("verify", "key", folder, "--signature", folder / "model.sig", "--public_key", public)
    done = model_signing(*command)
    assert done.returncode == 0, done.stderr
    assert "succeeded" in done.stdout + done.stderr
    rewrite(folder, "reference.json", b"{}")
    assert model_signing(*command).returncode != 0
    with pytest.raises(SignatureError, match=r"reference\.json was changed"):
        verify_folder(folder, str(public))


def test_a_signature_by_model_signing_is_verified_and_detects_a_changed_file(folder, keys):
    private, public = keys
    (folder / "model.sig").unlink()
    done = model_signing("sign", "key", folder, "--signature", folder / "model.sig", "--private_key", private)
    assert done.returncode == 0, done.stderr
    verify_folder(folder, str(public), name="colors")
    rewrite(folder, "reference.json", b"{}")
    with pytest.raises(SignatureError, match=r"reference\.json was changed"):
        verify_folder(folder, str(public))


def test_the_digest_of_the_model_equals_that_of_model_signing(folder, keys):
    def subject() -> object:
        envelope = json.loads((folder / "model.sig").read_text())["dsseEnvelope"]
        return json.loads(base64.b64decode(envelope["payload"]))["subject"]

    ours = subject()
    (folder / "model.sig").unlink()
    assert not model_signing(
        "sign", "key", folder, "--signature", folder / "model.sig", "--private_key", keys[0]
    ).returncode
    assert subject() == ours


def test_a_package_without_a_signature_is_refused(folder, keys):
    (folder / "model.sig").unlink()
    with pytest.raises(SignatureError, match=r"colors is not signed, but public_key requires a signature"):
        verify_folder(folder, str(keys[1]))


def test_a_file_that_was_not_signed_is_refused(folder, keys):
    rewrite(folder, "more.json", b"{}")
    with pytest.raises(SignatureError, match=r"more\.json is not among the signed files"):
        verify_folder(folder, str(keys[1]))


def test_a_signature_with_another_key_is_refused_and_both_keys_are_named(folder, keys, tmp_path):
    _, other = write_keys(tmp_path, "other")
    mine, others = (key_fingerprint(read_public_keys(str(path))[0])[:16] for path in (keys[1], other))
    with pytest.raises(SignatureError, match=rf"with the key {mine}, but public_key allows only {others}"):
        verify_folder(folder, str(other))


def test_a_signature_with_one_of_several_keys_is_verified(folder, keys, tmp_path):
    _, other = write_keys(tmp_path, "other")
    verify_folder(folder, other.read_text() + keys[1].read_text())


def test_a_signature_for_another_model_is_refused(folder, keys):
    with pytest.raises(SignatureError, match="was signed as a version of colors, not of shapes"):
        verify_folder(folder, str(keys[1]), name="shapes")


def altered(bundle: dict, change: str) -> bytes:
    envelope = bundle["dsseEnvelope"]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    if change == "payload":
        statement["subject"][0]["name"] = "shapes"
        envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    elif change == "type":
        envelope["payloadType"] = "text/plain"
    elif change == "no envelope":
        del bundle["dsseEnvelope"]
    return json.dumps(bundle).encode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("payload", "was altered: it does not match its content"),
        ("type", "has the types .* and text/plain, but must have"),
        ("no envelope", "is not a Sigstore bundle"),
    ],
)
def test_an_altered_signature_is_refused(folder, keys, change, message):
    file = folder / "model.sig"
    file.write_bytes(altered(json.loads(file.read_text()), change))
    with pytest.raises(SignatureError, match=message):
        verify_folder(folder, str(keys[1]))


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"dsseEnvelope": {"payload": "?"}}', b"\xff"])
def test_a_file_that_is_not_a_signature_is_refused(folder, keys, content):
    (folder / "model.sig").write_bytes(content)
    with pytest.raises(SignatureError, match="the signature of the package in .* is not a Sigstore bundle"):
        verify_folder(folder, str(keys[1]))


def test_a_signed_statement_of_another_kind_is_refused(folder, keys):
    statement = {"_type": STATEMENT_TYPE, "subject": [], "predicateType": "https://slsa.dev/provenance/v1"}
    (folder / "model.sig").write_bytes(sign_statement(statement, read_private_key(keys[0])))
    with pytest.raises(SignatureError, match="has the predicate type https://slsa.dev/provenance/v1, but must have"):
        verify_folder(folder, str(keys[1]))


def test_the_message_for_an_unusable_key_says_how_to_create_one(tmp_path, keys):
    for content in (b"not a key", keys[1].read_bytes()):
        (tmp_path / "invalid").write_bytes(content)
        message = r"signing_key .*invalid is not a PEM private key without a password; .*openssl ecparam"
        with pytest.raises(SettingError, match=message):
            read_private_key(tmp_path / "invalid")
    with pytest.raises(SettingError, match="cannot read the signing_key .*absent: No such file"):
        read_private_key(tmp_path / "absent")
    other = rsa.generate_private_key(65537, 2048)
    (tmp_path / "rsa").write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(SettingError, match="is not on one of the curves P-256, P-384 and P-521"):
        read_private_key(tmp_path / "rsa")
    with pytest.raises(SettingError, match="cannot read the public_key .*absent"):
        read_public_keys(str(tmp_path / "absent"))
    for invalid in (str(keys[0]), "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"):
        with pytest.raises(SettingError, match="must contain PEM public keys on the curves .*openssl ec"):
            read_public_keys(invalid)


def test_what_version_0_1_signed_is_verified():
    public_key = str(SIGNED_BY_0_1 / "key.pub")
    signature = (SIGNED_BY_0_1 / "model.sig").read_bytes()
    files = package_files((SIGNED_BY_0_1 / "manifest.json").read_bytes())
    verify(signature, files, public_key, model="the model", name="colours")
    with pytest.raises(SignatureError, match=r"model\.onnx was changed"):
        verify(signature, {**files, "model.onnx": "0" * 64}, public_key, model="the model")
    provenance = verify_bundle((SIGNED_BY_0_1 / "provenance.sigstore.json").read_bytes(), read_public_keys(public_key))
    assert provenance["predicateType"] == "https://slsa.dev/provenance/v1"


@pytest.mark.slow
def test_a_server_that_requires_a_signature_does_not_start_without_one(folder, keys):
    (folder / "model.sig").unlink()
    command = [sys.executable, "-m", "image_classifier.cli", "serve", "--port", "0", "--model", str(folder)]
    done = subprocess.run([*command, "--public-key", str(keys[1])], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: the package in {folder} is not signed")
