"""Signed and verified, each by this program and by Sigstore's own `model-signing`."""

import base64
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from image_classifier.attestation.dsse import (
    STATEMENT_TYPE,
    fingerprint_of,
    read_private_key,
    read_public_keys,
    seal,
)
from image_classifier.attestation.model_signature import digests_of, sign, verify_folder
from image_classifier.errors import SettingError, SignatureError
from image_classifier.files import sha256_of
from image_classifier.package.package import Package


def write_keys(folder: Path, name: str = "key", curve: ec.EllipticCurve | None = None) -> tuple[Path, Path]:
    """A new pair: the files of the private and of the public key."""
    key = ec.generate_private_key(curve or ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def sign_folder(folder: Path, private: Path, name: str = "colours") -> None:
    (folder / "model.sig").write_bytes(sign(digests_of(folder), name, read_private_key(private)))


def model_signing(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "model_signing", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def rewrite(folder: Path, file: str, content: bytes) -> None:
    """Change a file as one would who also changes the manifest, so that the package is in itself whole."""
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
    copy = tmp_path / "colours"
    shutil.copytree(package_folder, copy)
    sign_folder(copy, keys[0])
    return copy


def test_a_signed_package_is_verified_also_after_its_version_was_noted_beside_it(folder, keys):
    verify_folder(folder, str(keys[1]), name="colours")
    (folder / "version.json").write_text('{"version": 7}')
    verify_folder(folder, keys[1].read_text())


@pytest.mark.parametrize(
    "curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name
)
def test_model_signing_verifies_what_is_signed_here_and_refuses_a_changed_byte(
    tmp_path, package_folder, curve
):
    private, public = write_keys(tmp_path, curve=curve)
    folder = tmp_path / "colours"
    shutil.copytree(package_folder, folder)
    sign_folder(folder, private)
    (folder / "version.json").write_text('{"version": 7}')
    asked = ("verify", "key", folder, "--signature", folder / "model.sig", "--public_key", public)
    done = model_signing(*asked)
    assert done.returncode == 0, done.stderr
    assert "succeeded" in done.stdout + done.stderr
    rewrite(folder, "reference.json", b"{}")
    assert model_signing(*asked).returncode != 0
    with pytest.raises(SignatureError, match=r"reference\.json was changed since"):
        verify_folder(folder, str(public))


def test_what_model_signing_signed_is_verified_here(folder, keys):
    private, public = keys
    (folder / "model.sig").unlink()
    done = model_signing("sign", "key", folder, "--signature", folder / "model.sig", "--private_key", private)
    assert done.returncode == 0, done.stderr
    verify_folder(folder, str(public), name="colours")
    rewrite(folder, "reference.json", b"{}")
    with pytest.raises(SignatureError, match=r"reference\.json was changed since"):
        verify_folder(folder, str(public))


def test_the_digest_over_all_files_is_that_of_model_signing(folder, keys):
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
    with pytest.raises(SignatureError, match=r"colours is not signed, but public_key asks for a signature"):
        verify_folder(folder, str(keys[1]))


def test_a_file_that_was_not_signed_is_refused(folder, keys):
    rewrite(folder, "more.json", b"{}")
    with pytest.raises(SignatureError, match=r"more\.json is not among the signed files"):
        verify_folder(folder, str(keys[1]))


def test_another_key_is_refused_and_both_are_named(folder, keys, tmp_path):
    _, other = write_keys(tmp_path, "other")
    mine, others = (fingerprint_of(read_public_keys(str(path))[0])[:16] for path in (keys[1], other))
    with pytest.raises(SignatureError, match=rf"by another key \({mine}\) than public_key names \({others}"):
        verify_folder(folder, str(other))


def test_any_of_several_keys_may_have_signed(folder, keys, tmp_path):
    _, other = write_keys(tmp_path, "other")
    verify_folder(folder, other.read_text() + keys[1].read_text())


def test_a_signature_for_another_model_is_refused(folder, keys):
    with pytest.raises(SignatureError, match="was signed as a version of colours, not of shapes"):
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
    ("change", "said"),
    [
        ("payload", "was altered: it does not fit"),
        ("type", "is of the kind .* with text/plain"),
        ("no envelope", "is no Sigstore bundle"),
    ],
)
def test_an_altered_signature_is_refused(folder, keys, change, said):
    file = folder / "model.sig"
    file.write_bytes(altered(json.loads(file.read_text()), change))
    with pytest.raises(SignatureError, match=said):
        verify_folder(folder, str(keys[1]))


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"dsseEnvelope": {"payload": "?"}}', b"\xff"])
def test_what_is_no_signature_is_refused_in_words(folder, keys, content):
    (folder / "model.sig").write_bytes(content)
    with pytest.raises(SignatureError, match="the signature of the package in .* is no Sigstore bundle"):
        verify_folder(folder, str(keys[1]))


def test_a_signed_statement_of_another_kind_is_refused(folder, keys):
    statement = {"_type": STATEMENT_TYPE, "subject": [], "predicateType": "https://slsa.dev/provenance/v1"}
    (folder / "model.sig").write_bytes(seal(statement, read_private_key(keys[0])))
    with pytest.raises(SignatureError, match="is of https://slsa.dev/provenance/v1, but must be of"):
        verify_folder(folder, str(keys[1]))


def test_a_key_that_cannot_be_used_is_named_with_what_to_do(tmp_path, keys):
    for content, said in (
        (b"no key", "no private key in PEM"),
        (keys[1].read_bytes(), "no private key in PEM"),
    ):
        (tmp_path / "given").write_bytes(content)
        with pytest.raises(SettingError, match=rf"signing_key .*given is {said}.*openssl ecparam"):
            read_private_key(tmp_path / "given")
    with pytest.raises(SettingError, match="signing_key .*absent cannot be read: No such file"):
        read_private_key(tmp_path / "absent")
    other = rsa.generate_private_key(65537, 2048)
    (tmp_path / "rsa").write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(SettingError, match="not of the curve P-256, P-384 or P-521"):
        read_private_key(tmp_path / "rsa")
    with pytest.raises(SettingError, match="public_key .*absent cannot be read"):
        read_public_keys(str(tmp_path / "absent"))
    for given in (str(keys[0]), "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"):
        with pytest.raises(SettingError, match="must hold public keys in PEM of the curve .*openssl ec"):
            read_public_keys(given)


def test_a_server_that_asks_for_a_signature_does_not_start_without(folder, keys):
    (folder / "model.sig").unlink()
    command = [sys.executable, "-m", "image_classifier.cli", "serve", "--port", "0", "--model", str(folder)]
    done = subprocess.run(
        [*command, "--public-key", str(keys[1])], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: the package in {folder} is not signed")
