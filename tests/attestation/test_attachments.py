"""The attestations of a model, checked with the libraries of CycloneDX and in-toto."""

import base64
import importlib.metadata
import json
import shutil

import onnx
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementMessage

from image_classifier.attestation.attachments import Attestations
from image_classifier.attestation.dsse import key_fingerprint, read_public_keys, verify_bundle
from image_classifier.attestation.model_signature import file_digests, verify_folder
from image_classifier.package.package import Package
from tests.attestation.test_model_signature import write_keys
from tests.conftest import write_color_package
from tests.evaluation.test_evaluation import evaluation_of

REVISION = "a1" * 20
TRAINER = "registry.example.org/trainer@sha256:" + "e" * 64
EVALUATION = evaluation_of([0, 1, 2, 2], [0, 1, 2, 1])


def attest(folder, steps_image="", signing_key=""):
    """Write a package and its attestations, as at registration; returns both."""
    write_color_package(
        folder,
        source_revision=f"main@sha1:{REVISION}",
        code_digest="c" * 64,
        fingerprint="f" * 64,
        data_source="s3://team/colors",
        created="2026-11-25T18:00:00+00:00",
        parameters={"budget": 20.0, "recipe": "width=2"},
    )
    package = Package.read(folder)
    attestations = Attestations.create(
        name="colors", actor="team/train-1", steps_image=steps_image, signing_key=signing_key
    )
    attestations.write(folder, package, EVALUATION)
    return package, attestations


def assert_valid(bom: str) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bom) is None


def parse(statement: dict) -> Provenance:
    """The predicate, parsed by in-toto's own classes, which refuse unknown fields."""
    Statement.copy_from_pb(json_format.ParseDict(statement, StatementMessage())).validate()
    return json_format.ParseDict(statement["predicate"], Provenance())


def test_the_bill_of_materials_is_valid_and_lists_files_data_metrics_and_libraries(tmp_path):
    package, _ = attest(tmp_path / "colors")
    text = (package.folder / "bom.cdx.json").read_text()
    assert_valid(text)
    bom = json.loads(text)
    model = bom["metadata"]["component"]
    assert (model["type"], model["name"]) == ("machine-learning-model", "colors")
    listed = {item["name"]: item["hashes"][0]["content"] for item in model["components"]}
    manifest = json.loads((package.folder / "manifest.json").read_text())["files"]
    assert manifest.items() <= listed.items()
    metrics = {item["type"]: item["value"] for item in model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]}
    assert float(metrics["test_accuracy"]) == EVALUATION.accuracy
    components = {item["name"]: item for item in bom["components"]}
    data = components["s3://team/colors"]
    assert (data["type"], data["hashes"][0]["content"]) == ("data", "d" * 64)
    assert model["modelCard"]["modelParameters"]["datasets"] == [{"ref": data["bom-ref"]}]
    assert components["onnxruntime"]["version"] == importlib.metadata.version("onnxruntime")
    assert components["torch"]["purl"].startswith("pkg:pypi/torch@")


@pytest.mark.parametrize("has_map", [False, True])
def test_the_bill_has_the_shape_of_every_output(tmp_path, has_map):
    package, attestations = attest(tmp_path / "colors")
    model = onnx.load(package.model_file)
    others = [("embedding", ["N", 5]), ("activation_map", ["N", 4, 7, 6])][: 1 + has_map]
    for name, shape in others:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    onnx.save(model, package.model_file)
    attestations.write(package.folder, package, EVALUATION)
    text = (package.folder / "bom.cdx.json").read_text()
    assert_valid(text)
    outputs = json.loads(text)["metadata"]["component"]["modelCard"]["modelParameters"]["outputs"]
    expected = [
        f"probabilities: float32 [N, 4]: {', '.join(package.classes)}",
        "embedding: float32 [N, 5]",
        "activation_map: float32 [N, 4, 7, 6]",
    ]
    assert [output["format"] for output in outputs] == expected[: 1 + len(others)]


def test_the_bill_names_the_class_of_a_recall_as_its_folder_is_named(tmp_path):
    package, attestations = attest(tmp_path / "colors")
    evaluation = evaluation_of([0, 1, 2, 2], [0, 1, 2, 1], classes=("Corn_(maize)", "😀", "a/b"))
    attestations.write(package.folder, package, evaluation)
    text = (package.folder / "bom.cdx.json").read_text()
    assert_valid(text)
    card = json.loads(text)["metadata"]["component"]["modelCard"]
    metrics = card["quantitativeAnalysis"]["performanceMetrics"]
    assert [item["slice"] for item in metrics if item["type"] == "recall"] == ["Corn_(maize)", "😀", "a/b"]


def test_the_validation_detects_an_invalid_bill(tmp_path):
    package, _ = attest(tmp_path / "colors")
    bom = json.loads((package.folder / "bom.cdx.json").read_text())
    bom["metadata"]["component"]["modelCard"]["accuracy"] = 1
    with pytest.raises(AssertionError):
        assert_valid(json.dumps(bom))


def test_the_provenance_has_the_inputs_of_the_training_and_who_registered_it(tmp_path):
    package, _ = attest(tmp_path / "colors", steps_image=TRAINER)
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


def test_the_parsing_detects_a_field_that_slsa_does_not_have(tmp_path):
    package, _ = attest(tmp_path / "colors")
    statement = json.loads((package.folder / "provenance.json").read_text())
    statement["predicate"]["accuracy"] = 1
    with pytest.raises(json_format.ParseError):
        parse(statement)


@pytest.mark.parametrize("revision", ["unknown", f"{REVISION}-changed", "latest@sha256:" + "1" * 64])
def test_a_source_without_a_commit_has_no_commit_in_the_provenance(tmp_path, revision):
    write_color_package(tmp_path / "colors", source_revision=revision)
    package = Package.read(tmp_path / "colors")
    attestations = Attestations.create(name="colors", actor="somebody", steps_image="", signing_key="")
    attestations.write(package.folder, package, EVALUATION)
    statement = json.loads((package.folder / "provenance.json").read_text())
    build = parse(statement).build_definition
    assert [item.name for item in build.resolved_dependencies] == ["data"]
    assert dict(build.internal_parameters)["source_revision"] == revision
    assert statement["predicate"]["runDetails"]["builder"]["id"] == "urn:image-classifier:builder:machine"


def test_without_a_key_nothing_is_signed(tmp_path):
    package, attestations = attest(tmp_path / "colors")
    assert not list(package.folder.glob("*.sig*"))
    assert attestations.tags == {}


def test_with_a_key_the_provenance_is_signed_and_the_signature_covers_all_files(tmp_path):
    private, public = write_keys(tmp_path)
    package, attestations = attest(tmp_path / "colors", signing_key=str(private))
    keys = read_public_keys(str(public))
    bundle = (package.folder / "provenance.sigstore.json").read_bytes()
    assert verify_bundle(bundle, keys) == json.loads((package.folder / "provenance.json").read_text())
    envelope = json.loads((package.folder / "model.sig").read_text())["dsseEnvelope"]
    signed = json.loads(base64.b64decode(envelope["payload"]))["predicate"]["resources"]
    files = file_digests(package.folder).keys() - {"model.sig"}
    assert {item["name"] for item in signed} == files
    assert {"bom.cdx.json", "provenance.json", "provenance.sigstore.json"} <= files
    verify_folder(package.folder, str(public), name="colors")
    assert attestations.tags == {"signed_by": key_fingerprint(keys[0])}


def test_a_copied_package_can_be_verified(tmp_path):
    private, public = write_keys(tmp_path)
    package, _ = attest(tmp_path / "colors", signing_key=str(private))
    shutil.copytree(package.folder, tmp_path / "copy")
    verify_folder(tmp_path / "copy", str(public))
