"""Two processes on one machine train one student."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from commands import TINY
from replicas import free_ports

from ekd_tf.embedders import load_embedder
from ekd_tf.run.interruption import RESUME_STATUS

ARGUMENTS = [
    "--data=synthetic:identities=8,images=4,size=32",
    "--steps=3",
    "--learning_rate=0.02",
    "--log_every=1",
]


def start(workdir, extra, config=None):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    environment.pop("TF_CONFIG", None)
    if config is not None:
        environment["TF_CONFIG"] = json.dumps(config)
    command = [sys.executable, "-m", "ekd_tf.train", f"--workdir={workdir}"]
    return subprocess.Popen(
        [*command, *TINY, *ARGUMENTS, *extra],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def losses(workdir):
    text = (workdir / "metrics.jsonl").read_text()
    return [json.loads(line)["loss"] for line in text.splitlines()]


def start_workers(workdir, *extra):
    ports = free_ports(2)
    return [
        start(
            workdir,
            ["--strategy=multi_worker", *extra],
            {
                "cluster": {"worker": [f"localhost:{port}" for port in ports]},
                "task": {"type": "worker", "index": index},
            },
        )
        for index in range(2)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_end_of_one_worker_ends_the_other_with_the_status_to_resume(
    tmp_path, number
):
    workers = start_workers(tmp_path / "run", "--steps=1000000")
    try:
        log = tmp_path / "run" / "metrics.jsonl"
        deadline = time.monotonic() + 240
        while not log.exists() or log.read_text().count("\n") < 3:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        workers[1].send_signal(number)
        output, _ = workers[0].communicate(timeout=60)
        # They leave together, but not in one instant.
        workers[1].communicate(timeout=60)
    finally:
        for worker in workers:
            worker.kill()
    assert workers[0].returncode == RESUME_STATUS, output[-3000:]
    if number == signal.SIGKILL:
        assert "worker 1 (localhost:" in output
    else:
        # They left together and the chief has saved.
        assert workers[1].returncode == RESUME_STATUS
        assert "Another worker was stopped: the run is saved at step" in output
        assert list((tmp_path / "run" / "checkpoints").iterdir())


@pytest.mark.slow
def test_two_workers_train_like_two_replicas_of_one(tmp_path):
    workers = start_workers(tmp_path / "workers")
    single = start(
        tmp_path / "single", ["--strategy=mirrored", "--num_virtual_devices=2"]
    )
    for process in (*workers, single):
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output[-3000:]
    np.testing.assert_allclose(
        losses(tmp_path / "workers"), losses(tmp_path / "single"), rtol=1e-4
    )
    pairs = zip(
        load_embedder(tmp_path / "workers").get_weights(),
        load_embedder(tmp_path / "single").get_weights(),
    )
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
    # One process writes: each step is logged once.
    assert len(losses(tmp_path / "workers")) == 3
