"""Tests for `ekd_tf.run.effects`."""

import copy
import pathlib

import pytest
from absl import flags
from absl.flags import FLAGS

import ekd_tf.train as train_module
from ekd_tf.run import effects

DEFAULTS = {
    flag.name: flag.default for flag in FLAGS.get_flags_for_module(train_module)
}
ROOT = pathlib.Path(__file__).parents[1]


def values(**changes):
    return effects.complete({**DEFAULTS, "data": "folder:x", **changes})


def check(**changes):
    effects.check_effects(values(**changes), DEFAULTS, effects.TRAIN)


IDLE = [
    ({"drop_at": ["3", "5"], "schedule": "cosine"}, "drop_at=3,5` .*--schedule=step"),
    ({"drop_factor": 0.2}, "drop_factor=0.2` .* --drop_at"),
    ({"images_per_identity": 2}, "images_per_identity=2` .*--balanced_identities"),
    ({"model": "iresnet18", "activation": "relu"}, "activation=relu` .*mobilefacenet"),
    ({"dropout": 0.4}, "dropout=0.4` .*iresnet"),
    ({"combined_margins": ["1", "0", "0.1"]}, "combined_margins=1,0,0.1` .*combined"),
    ({"head": "none", "margin": 0.4}, "margin=0.4` .* --head"),
    ({"head": "none", "head_gradient": "straight_through"}, "head_gradient=straight"),
    ({"head": "none", "distill": "ekd:1", "scale": 32.0}, "scale=32.0` .*ada_distill"),
    ({"distill": "ekd:1", "teacher_centres": "c.npy"}, "teacher_centres=c.npy` .*kd"),
    ({"evaluate_every": 5}, "evaluate_every=5` .*--heldout_data"),
    ({"num_virtual_devices": 2}, "num_virtual_devices=2` .*--strategy=mirrored"),
]


@pytest.mark.parametrize(("changes", "message"), IDLE)
def test_a_flag_without_effect_is_refused_with_what_it_needs(changes, message):
    with pytest.raises(ValueError, match=message):
        check(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"head": "none", "distill": "ada_distill:1", "scale": 32.0},
        {"distill": "cosine:9,ekd:30%", "images_per_identity": 2},
        {"drop_at": ["3"], "drop_factor": 0.2},
        {"balanced_identities": 4, "images_per_identity": 2},
        {"eval_sets": ["x:folder:y"], "evaluate_every": 5, "best_metric": "x/auc"},
        {"model": "iresnet50", "dropout": 0.4},
    ],
)
def test_a_flag_with_effect_or_left_alone_is_taken(changes):
    check(**changes)


@pytest.mark.parametrize("name", sorted((ROOT / "flags").glob("*_*.flags")))
def test_the_flagfiles_hold_no_flag_without_effect(name, monkeypatch):
    if name.name.startswith("compare_"):
        # Of the tool: tests/tools/test_compare_methods.py.
        return
    monkeypatch.chdir(ROOT)
    found = parsed(f"--flagfile={name}", "--teacher=none")
    if not found["data"]:
        # To include.
        found["data"] = "folder:x"
    effects.check_effects(effects.complete(found), DEFAULTS, effects.TRAIN)


def parsed(*arguments):
    found = flags.FlagValues()
    for flag in FLAGS.get_flags_for_module(train_module):
        found[flag.name] = copy.deepcopy(flag)
    found(["train", *arguments])
    return {name: found[name].value for name in found}


def test_balanced_rows_come_with_distillation_alone_unless_asked_for():
    assert values()["balanced_identities"] == 0
    assert values(distill="ekd:1")["balanced_identities"] == 8
    assert values(balanced_identities=4)["balanced_identities"] == 4
    given = values(balanced_identities=0, distill="ekd:1")
    assert given["balanced_identities"] == 0


def test_a_run_needs_images():
    with pytest.raises(ValueError, match="`--data` is missing.*--data=synthetic:"):
        values(data=None)


def test_the_folder_of_a_cache_is_one(tmp_path):
    assert values(teacher=str(tmp_path))["teacher"] == str(tmp_path)
    (tmp_path / "cache.json").write_text("{}")
    assert values(teacher=str(tmp_path))["teacher"] == f"cache:{tmp_path}"
    given = values(teacher=f"cache:{tmp_path}")
    assert given["teacher"] == f"cache:{tmp_path}"
