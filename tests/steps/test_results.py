from image_classifier.steps.results import MAX_REASON_CHARACTERS, write_failure, write_results


def test_each_result_is_a_file_without_a_newline(tmp_path):
    write_results(str(tmp_path), {"verdict": "accepted", "model-version": "7"})
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"verdict": "accepted", "model-version": "7"}


def test_only_a_long_reason_is_cut(tmp_path):
    write_results(str(tmp_path), {"reason": "x" * 1000, "model-uri": "y" * 1000})
    assert len((tmp_path / "reason").read_text()) == MAX_REASON_CHARACTERS
    assert len((tmp_path / "model-uri").read_text()) == 1000


def test_a_failure_is_a_result(tmp_path):
    write_failure({"IMAGE_CLASSIFIER_RESULTS": str(tmp_path)}, "no such data")
    assert (tmp_path / "verdict").read_text() == "failed"
    assert (tmp_path / "reason").read_text() == "no such data"


def test_without_a_folder_nothing_is_written():
    write_results("", {"verdict": "accepted"})
    write_failure({}, "no such data")
