"""Two real processes on this machine, started by torchrun."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from image_classifier.errors import TrainingError
from image_classifier.package.package import Package
from image_classifier.steps.local_server import free_port

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
TRAIN = ["--module", "image_classifier.cli", "train", "--name", "together"]


def test_a_process_that_nobody_started_with_others_is_alone():
    from image_classifier.training.distributed import ALONE, joined

    with joined({}) as group:
        assert group is ALONE
    assert ALONE.of_first("mine") == "mine"
    assert (ALONE.threads(2), ALONE.number_of_first(2.5)) == (2, 2.5)


def test_two_processes_share_a_batch_and_average_its_gradient(tmp_path):
    script = tmp_path / "together.py"
    script.write_text("""
import os
import sys
import torch
from image_classifier.training.distributed import joined

images = torch.arange(12.0).view(6, 2)
with joined(os.environ) as group:
    torch.manual_seed(group.rank)
    network = torch.nn.Linear(2, 1, bias=False)
    together = group.averaging(network)
    (together(group.share(images)) ** 2).mean().backward()
    whole = torch.nn.Linear(2, 1, bias=False)
    whole.weight.data.copy_(network.weight.data)
    (whole(images) ** 2).mean().backward()
    torch.testing.assert_close(network.weight.grad, whole.weight.grad)
    word = group.of_first({"rank": group.rank})
    found = [group.rank, group.size, group.threads(4), word["rank"], group.number_of_first(group.rank + 0.5)]
    with open(f"{sys.argv[1]}/{group.rank}", "w") as file:
        print(*found, file=file)
""")
    run = subprocess.run(
        [*TORCHRUN, script, tmp_path], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["0 2 2 0 0.5\n", "1 2 2 0 0.5\n"]


def test_two_processes_train_one_model_and_find_it_again(tmp_path):
    command = [*TORCHRUN, *TRAIN, "--home", str(tmp_path), "--budget", "4s"]
    first = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert first.returncode == 0, first.stderr
    assert len(re.findall("^trained for", first.stdout, re.MULTILINE)) == 1
    package = Package.read(tmp_path / "work/package")
    assert package.provenance["validation_accuracy"] > 0.9
    assert package.provenance["parameters"]["processes"] == 2
    again = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (again.returncode, "trained before" in again.stdout) == (0, True), again.stderr


def test_a_process_whose_fellow_is_killed_ends_with_the_reason(tmp_path):
    environment = {
        **os.environ,
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    command = [sys.executable, "-m", "image_classifier.cli", "train", "--home", tmp_path, "--budget", "60s"]
    processes = [
        subprocess.Popen(
            command, env={**environment, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True, cwd=tmp_path
        )
        for rank in (0, 1)
    ]
    try:
        deadline = time.monotonic() + 60
        while not list(Path(tmp_path).glob("work/checkpoint/*/state.safetensors")):
            assert time.monotonic() < deadline
            assert processes[0].poll() is None
            time.sleep(0.1)
        processes[1].send_signal(signal.SIGKILL)
        _, said = processes[0].communicate(timeout=60)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert processes[0].returncode == 1
    assert "one of the 2 processes of this training at 127.0.0.1 has ended, and its log tells why" in said
    assert "Traceback" not in said


def test_more_processes_than_images_of_a_step_are_refused():
    from image_classifier.training.distributed import Group
    from tests.training.test_fit import stripes, train

    with pytest.raises(TrainingError, match="500 processes are more than the 32 images of a step"):
        train(stripes(8), 1.0, group=Group(rank=0, size=500, local_size=1))
