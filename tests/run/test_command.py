"""Tests for `ekd_tf.run.command`."""

import dataclasses
import os
import re
import signal
import sys

import pytest
from absl import app
from absl import flags

from ekd_tf.embed_teacher import EmbedSettings
from ekd_tf.evaluate import EvaluateSettings
from ekd_tf.export_model import ExportSettings
from ekd_tf.run import command
from ekd_tf.run.config import TrainConfig


def error_of(words, *names):
    found = flags.FlagValues()
    for name in names:
        flags.DEFINE_string(name, None, "", flag_values=found)
    with pytest.raises(flags.Error) as error:
        found(["x", *words])
    return command.explain(error.value, found)


@pytest.mark.parametrize(
    ("word", "names", "answer"),
    [
        ("lr", ["learning_rate", "model"], "'lr'. Here it is --learning_rate"),
        ("learning-rate", ["learning_rate"], "Here it is --learning_rate"),
        ("batch_size", ["general_batch"], "--general_batch: .*--balanced_identities"),
        ("evaluate", ["eval_sets", "data"], "--eval_sets: NAME:KIND:PATH"),
        ("on", ["eval_sets"], "Here it is --eval_sets"),
        ("pairs", ["eval_sets"], "Here it is --eval_sets"),
        ("output_dir", ["workdir"], "Here it is --workdir"),
        ("output_dir", ["output"], "Here it is --output"),
        ("temprature", ["temperature"], "'temprature'. Did you mean: temperature. --"),
        # This command has nothing like it.
        ("lr", ["model"], "Unknown command line flag 'lr'. --helpfull lists"),
    ],
)
def test_words_of_other_tools_are_answered_with_ours(word, names, answer):
    words = error_of([f"--{word}=1"], *names)
    assert re.search(answer, words), words
    assert "\n" not in words


RENAMED = {
    "drop_at": "lr_milestones",
    "drop_factor": "lr_gamma",
    "keep": "max_checkpoints",
    "augment_crop": "augment: as in --augment=crop:4,jpeg:0.3",
    "combined_margins": "margin: for --head=combined three",
    "worker_hosts": "strategy: .*TF_CONFIG",
    "ekd_temperature": "distill: ",
}


def test_old_names_are_refused_with_the_new_one():
    for old, new in RENAMED.items():
        with pytest.raises(ValueError, match=f"'{old}'. Here it is --{new}"):
            command.parse([f"--{old}=1"], TrainConfig(), "ekd_tf.train")
    for old, new in (("directory", "output"), ("images", "data")):
        with pytest.raises(ValueError, match=f"'{old}'. Here it is --{new}"):
            command.parse([f"--{old}=1"], ExportSettings(), "ekd_tf.export_model")
    for old in ("representative", "num_representative"):
        with pytest.raises(ValueError, match="--(num_)?calibration_images"):
            command.parse([f"--{old}=1"], ExportSettings(), "ekd_tf.export_model")


def test_the_answers_are_flags_of_the_commands():
    known = {
        field.name
        for kind in (TrainConfig, EvaluateSettings, ExportSettings, EmbedSettings)
        for field in dataclasses.fields(kind)
    }
    assert {flag for ours in command._OURS.values() for flag in ours.split()} <= known


@pytest.fixture
def stopped(monkeypatch, capsys):
    """Returns `resumes -> (status, last line)` of a command stopped by Ctrl-C."""

    def stop(resumes):
        def run(main, argv, flags_parser):
            os.kill(os.getpid(), signal.SIGINT)

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


def test_ctrl_c_ends_in_a_line_and_says_how_to_go_on(stopped):
    assert stopped(False) == (130, "tool: stopped by Ctrl-C.")
    expected = (75, "tool: stopped by Ctrl-C. The same command continues it.")
    assert stopped(True) == stopped(lambda: True) == expected
