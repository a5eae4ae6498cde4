"""What is laid beside a registered model, held against the libraries of those who defined its forms."""

import base64
import importlib.metadata
import json
import shutil

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementMessage

from image_classifier.attestation.attachments import Attestations
from image_classifier.attestation.dsse import fingerprint_of, read_public_keys, unseal
from image_classifier.attestation.model_signature import digests_of, verify_folder
from image_classifier.package.package import Package
from image_classifier.settings import Settings
from tests.attestation.test_model_signature import write_keys
from tests.conftest import write_colour_package
from tests.evaluation.test_evaluation import evaluation_of

REVISION = "a1" * 20
TRAINER = "registry.example.org/trainer@sha256:" + "e" * 64
EVALUATION = evaluation_of([0, 1, 2, 2], [0, 1, 2, 1])


def attest(folder, **settings):
    """Lay beside a package what its registration lays there; gives the package and who attests."""
    write_colour_package(
        folder,
        source_revision=f"main@sha1:{REVISION}",
        code_digest="c" * 64,
        fingerprint="f" * 64,
        data_source="s3://team/colours",
        created="2026-11-25T18:00:00+00:00",
        parameters={"budget": 20.0, "recipe": "width=2"},
    )
    package = Package.read(folder)
    attestations = Attestations.of(Settings(name="colours", **settings), "team/train-1")
    attestations.write(folder, package, EVALUATION)
    return package, attestations


def assert_valid(bom: str) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bom) is None


def parse(statement: dict) -> Provenance:
    """The predicate, read by in-toto's own classes, which refuse a field that the form does not have."""
    Statement.copy_from_pb(json_format.ParseDict(statement, StatementMessage())).validate()
    return json_format.ParseDict(statement["predicate"], Provenance())


def test_the_bill_of_materials_is_valid_and_lists_files_data_figures_and_libraries(tmp_path):
    package, _ = attest(tmp_path / "colours")
    text = (package.folder / "bom.cdx.json").read_text()
    assert_valid(text)
    bom = json.loads(text)
    model = bom["metadata"]["component"]
    assert (model["type"], model["name"]) == ("machine-learning-model", "colours")
    listed = {item["name"]: item["hashes"][0]["content"] for item in model["components"]}
    manifest = json.loads((package.folder / "manifest.json").read_text())["files"]
    assert manifest.items() <= listed.items()
    figures = {
        item["type"]: item["value"]
        for item in model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    }
    assert float(figures["test_accuracy"]) == EVALUATION.accuracy
    components = {item["name"]: item for item in bom["components"]}
    data = components["s3://team/colours"]
    assert (data["type"], data["hashes"][0]["content"]) == ("data", "d" * 64)
    assert model["modelCard"]["modelParameters"]["datasets"] == [{"ref": data["bom-ref"]}]
    assert components["onnxruntime"]["version"] == importlib.metadata.version("onnxruntime")
    assert components["torch"]["purl"].startswith("pkg:pypi/torch@")


def test_a_bill_that_is_not_valid_is_found(tmp_path):
    package, _ = attest(tmp_path / "colours")
    bom = json.loads((package.folder / "bom.cdx.json").read_text())
    bom["metadata"]["component"]["modelCard"]["accuracy"] = 1
    with pytest.raises(AssertionError):
        assert_valid(json.dumps(bom))


def test_the_provenance_says_what_went_into_the_model_and_who_made_it(tmp_path):
    package, _ = attest(tmp_path / "colours", steps_image=TRAINER)
    statement = json.loads((package.folder / "provenance.json").read_text())
    provenance = parse(statement)
    subjects = {item["name"]: item["digest"]["sha256"] for item in statement["subject"]}
    assert json.loads((package.folder / "manifest.json").read_text())["files"].items() <= subjects.items()
    build = provenance.build_definition
    digests = {item.name.partition(",")[0]: dict(item.digest) for item in build.resolved_dependencies}
    assert digests == {
        "source": {"gitCommit": REVISION},
        "training code": {"sha256": "c" * 64},
        "data": {"sha256": "d" * 64},
        "image of the steps": {"sha256": "e" * 64},
    }
    assert dict(build.external_parameters)["recipe"] == "width=2"
    assert dict(build.internal_parameters)["fingerprint"] == "f" * 64
    assert provenance.run_details.builder.id == "urn:image-classifier:builder:tekton"
    assert provenance.run_details.builder.version["registered-by"] == "team/train-1"
    assert provenance.run_details.metadata.invocation_id == "mlflow-run:" + "r" * 32
    assert provenance.run_details.metadata.finished_on.ToJsonString() == "2026-11-25T18:00:00Z"


def test_a_field_that_slsa_does_not_have_is_found(tmp_path):
    package, _ = attest(tmp_path / "colours")
    statement = json.loads((package.folder / "provenance.json").read_text())
    statement["predicate"]["accuracy"] = 1
    with pytest.raises(json_format.ParseError):
        parse(statement)


@pytest.mark.parametrize("revision", ["unknown", f"{REVISION}-changed", "latest@sha256:" + "1" * 64])
def test_a_source_that_is_of_no_commit_has_no_digest_of_one(tmp_path, revision):
    write_colour_package(tmp_path / "colours", source_revision=revision)
    package = Package.read(tmp_path / "colours")
    Attestations.of(Settings(), "somebody").write(package.folder, package, EVALUATION)
    statement = json.loads((package.folder / "provenance.json").read_text())
    build = parse(statement).build_definition
    assert [item.name for item in build.resolved_dependencies] == ["data"]
    assert dict(build.internal_parameters)["source_revision"] == revision
    assert statement["predicate"]["runDetails"]["builder"]["id"] == "urn:image-classifier:builder:machine"


def test_without_a_key_nothing_is_signed(tmp_path):
    package, attestations = attest(tmp_path / "colours")
    assert not list(package.folder.glob("*.sig*"))
    assert attestations.tags == {}


def test_with_a_key_the_provenance_is_signed_and_the_signature_is_of_all_that_lies_there(tmp_path):
    private, public = write_keys(tmp_path)
    package, attestations = attest(tmp_path / "colours", signing_key=str(private))
    keys = read_public_keys(str(public))
    sealed = (package.folder / "provenance.sigstore.json").read_bytes()
    assert unseal(sealed, keys) == json.loads((package.folder / "provenance.json").read_text())
    envelope = json.loads((package.folder / "model.sig").read_text())["dsseEnvelope"]
    signed = json.loads(base64.b64decode(envelope["payload"]))["predicate"]["resources"]
    beside = digests_of(package.folder).keys() - {"model.sig"}
    assert {item["name"] for item in signed} == beside
    assert {"bom.cdx.json", "provenance.json", "provenance.sigstore.json"} <= beside
    verify_folder(package.folder, str(public), name="colours")
    assert attestations.tags == {"signed_by": fingerprint_of(keys[0])}


def test_a_copy_elsewhere_is_verified_too(tmp_path):
    private, public = write_keys(tmp_path)
    package, _ = attest(tmp_path / "colours", signing_key=str(private))
    shutil.copytree(package.folder, tmp_path / "elsewhere")
    verify_folder(tmp_path / "elsewhere", str(public))
