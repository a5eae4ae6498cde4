"""Two real processes on this machine."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from image_classifier.errors import TrainingError
from image_classifier.settings import Seconds, Settings
from image_classifier.steps.train import train
from image_classifier.training.distributed import SINGLE_PROCESS, join_group, local_processes

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]


def test_without_torchrun_s_variables_a_process_trains_alone():
    with join_group({}) as group:
        assert group is SINGLE_PROCESS
    assert group.broadcast("value") == "value"
    assert (group.threads(2), group.broadcast_numbers(2.5, 1)) == (2, [2.5, 1])


@pytest.mark.slow
def test_two_processes_of_torchrun_average_gradients_and_train_one_model_with_the_same_flips(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text("""
import os
import sys
from dataclasses import replace
import torch
from image_classifier.training.batches import Batches
from image_classifier.training.distributed import join_group
from image_classifier.training.loop import fit_worker
from tests.training.samples import plan, stripes, train

flips = []


class RecordedBatches(Batches):
    def batch(self, step, *, half_size, flip):
        flips.append(flip)
        return super().batch(step, half_size=half_size, flip=flip)


sys.modules["image_classifier.training.loop"].Batches = RecordedBatches
data = replace(stripes(8, classes=2), mirror=True)
images = torch.arange(12.0).view(6, 2)
with join_group(os.environ) as group:
    torch.manual_seed(group.rank)
    network = torch.nn.Linear(2, 1, bias=False)
    parallel = group.data_parallel(network)
    (parallel(group.shard(images)) ** 2).mean().backward()
    whole = torch.nn.Linear(2, 1, bias=False)
    whole.weight.data.copy_(network.weight.data)
    (whole(images) ** 2).mean().backward()
    torch.testing.assert_close(network.weight.grad, whole.weight.grad)
    value = group.broadcast({"rank": group.rank})
    found = [group.rank, group.size, group.threads(4), value["rank"], *group.broadcast_numbers(group.rank + 0.5)]
    shared_plan = replace(plan(group=group), threads=1)
    if group.is_first:
        trained = train(data, shared_plan, steps=20)
        found += [trained.parameters["processes"], trained.validation_accuracy > 0.9]
    else:
        fit_worker(data, shared_plan)
    with open(f"{sys.argv[1]}/{group.rank}", "w") as file:
        print(*found, file=file)
        print(*map(int, flips), sep="", file=file)
""")
    run = subprocess.run(
        [*TORCHRUN, script, tmp_path],
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    (first, flips), (second, others) = ((tmp_path / rank).read_text().splitlines() for rank in "01")
    assert (first, second) == ("0 2 2 0 0.5 2 True", "1 2 2 0 0.5")
    assert flips == others
    assert "01" in flips  # decided during the training


@pytest.mark.slow
def test_the_step_trains_one_model_in_two_processes_and_finds_it_again(empty_database, tmp_path):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    settings = replace(Settings(), home=tmp_path, budget=Seconds(1.0), training_processes=2)
    reports: list[str] = []
    package = train(settings, reports.append)
    assert [" in 2 processes: validation accuracy" in line for line in reports if "trained for" in line] == [True]
    assert package.provenance["parameters"]["processes"] == 2
    reports.clear()
    assert train(settings, reports.append) == package
    assert any("already trained" in line for line in reports)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_training_with_a_reason(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text("""
import os
import signal
from image_classifier.training.distributed import join_group

with join_group(os.environ) as group:
    group.broadcast_numbers(0.0)
    os.kill(os.getpid(), signal.SIGKILL)
""")
    message = "another of the 2 training processes at 127.0.0.1 ended early; see its log for the reason"
    with (
        pytest.raises(TrainingError, match=message),
        local_processes([sys.executable, str(script)], {}, processes=2) as environment,
        join_group(environment) as group,
    ):
        while True:
            group.broadcast_numbers(1.0)


@pytest.mark.slow
def test_local_processes_do_not_outlive_a_failure_of_the_first(tmp_path):
    code = "import os, pathlib, sys, time; pathlib.Path(sys.argv[1], str(os.getpid())).touch(); time.sleep(60)"

    class FirstFailedError(Exception):
        pass

    with (
        pytest.raises(FirstFailedError),
        local_processes([sys.executable, "-c", code, str(tmp_path)], {}, processes=3) as environment,
    ):
        assert environment["RANK"] == "0"
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.01)
        raise FirstFailedError
    for file in tmp_path.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.name), signal.SIG_DFL)
