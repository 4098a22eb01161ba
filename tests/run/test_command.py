import dataclasses
import os
import signal
import sys

import pytest
from absl import app
from refusals import refused

from ekd_tf import evaluate
from ekd_tf.embed_teacher import EmbedSettings
from ekd_tf.evaluate import EvaluateSettings
from ekd_tf.export_model import ExportSettings
from ekd_tf.run import command
from ekd_tf.run.config import TrainConfig


def test_words_of_other_tools_and_old_names_are_answered_with_ours():
    train, export = TrainConfig(), ExportSettings()
    for settings, word, answer in (
        (train, "lr", "'lr'. Here it is --learning_rate"),
        (train, "learning-rate", "Here it is --learning_rate"),
        (train, "batch_size", "--general_batch: .*--balanced_identities"),
        (train, "evaluate", "--eval_sets: NAME:KIND:PATH"),
        (train, "log_evry", "'log_evry'. Did you mean: log_every. --helpfull"),
        (train, "combined_margins", "--margin: for --head=combined three"),
        (export, "images", "Here it is --data"),
        (export, "directory", "Here it is --output"),
        # This command has nothing like it.
        (export, "lr", "Unknown command line flag 'lr'. --helpfull lists"),
    ):
        text = refused(answer, command.parse, [f"--{word}=1"], settings, "x")
        assert "\n" not in text


def test_the_answers_are_flags_of_the_commands():
    known = {
        field.name
        for kind in (TrainConfig, EvaluateSettings, ExportSettings, EmbedSettings)
        for field in dataclasses.fields(kind)
    }
    assert {flag for ours in command._OURS.values() for flag in ours.split()} <= known


@pytest.fixture
def stopped(monkeypatch, capsys):
    """Returns `resumes, signal -> (status, last line)` of a command stopped by it."""

    def stop(resumes, number):
        def run(main, argv, flags_parser):
            # Some settings import TensorFlow to be checked.
            assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == "1"
            os.kill(os.getpid(), number)

        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "of the test")
        monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")
        monkeypatch.setattr(app, "run", run)
        monkeypatch.setattr(os, "_exit", sys.exit)
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with pytest.raises(SystemExit) as end:
                command.run(None, "tool", resumes=resumes)
        finally:
            signal.signal(signal.SIGINT, handler)
        return end.value.code, capsys.readouterr().err.splitlines()[-1]

    return stop


def test_errors_of_the_system_are_words_and_a_path(monkeypatch, tmp_path):
    monkeypatch.setattr(app, "run", lambda main, **_: main(["tool"]))
    with pytest.raises(SystemExit) as end:
        command.run(lambda: open(tmp_path / "gone"), "tool")
    assert end.value.code == f"tool: {tmp_path}/gone: No such file or directory"


def test_ctrl_c_and_sigterm_end_in_a_line_that_says_how_to_go_on(stopped):
    before, on = signal.getsignal(signal.SIGTERM), "With --output it would."
    for number, status, name in (
        (signal.SIGINT, 130, "Ctrl-C"),
        (signal.SIGTERM, 143, "SIGTERM"),
    ):
        said = f"tool: stopped by {name}."
        assert stopped(False, number) == (status, said)
        assert stopped(lambda: on, number) == (status, f"{said} {on}")
        for resumes in (True, lambda: True):
            expected = 75, f"{said} The same command continues it."
            assert stopped(resumes, number) == expected
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_interrupted_evaluation_says_how_it_continues(monkeypatch):
    asked = {}
    monkeypatch.setattr(command, "run", lambda *_, **given: asked.update(given))
    evaluate.run()
    resumes = asked["resumes"]
    assert resumes(EvaluateSettings(output="x")) is True
    assert resumes(EvaluateSettings(cache="x")) is True
    assert "--output or --cache" in resumes(EvaluateSettings())
