import subprocess
import sys

from image_classifier.package.package import Package
from image_classifier.training.local_processes import helping_processes


def test_two_processes_train_one_model_and_both_end(tmp_path):
    command = [sys.executable, "-m", "image_classifier.cli", "train", "--training-processes", "2"]
    command += ["--home", str(tmp_path), "--budget", "4s"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    package = Package.read(tmp_path / "work/package")
    assert package.provenance["validation_accuracy"] > 0.9
    assert package.provenance["parameters"]["processes"] == 2


def test_the_others_do_not_outlive_a_failure_of_the_first():
    class FirstFailedError(Exception):
        pass

    before = children()
    try:
        with helping_processes({}, processes=3):
            assert len(children() - before) == 2
            raise FirstFailedError
    except FirstFailedError:
        assert children() == before


def children() -> set[str]:
    found = subprocess.run(
        ["pgrep", "-f", "image_classifier.cli train"], capture_output=True, text=True, check=False
    )
    return set(found.stdout.split())
