"""Tests for `ekd_tf.run.config` and `ekd_tf.run.settings`."""

import dataclasses
import inspect
import pathlib

from refusals import refused

from ekd_tf.data import BatchSampler
from ekd_tf.evaluate import EvaluateSettings
from ekd_tf.heads import HEADS
from ekd_tf.losses import LOSSES
from ekd_tf.models import BACKBONES
from ekd_tf.run import settings
from ekd_tf.run.command import parse
from ekd_tf.run.config import BEST
from ekd_tf.run.config import COMMON
from ekd_tf.run.config import FREE
from ekd_tf.run.config import TrainConfig
from ekd_tf.run.factory import SOURCES
from ekd_tf.run.workdir import Workdir

ROOT = pathlib.Path(__file__).parents[2]


def config(**changes):
    return TrainConfig(**{"data": "folder:x", **changes}).completed()


def test_a_folder_of_embeddings_is_a_cache_whether_finished_or_not(tmp_path):
    for place in ("a/cache.json", "b/writing.json", "c/shard-1-of-2/writing.json"):
        file = tmp_path / place
        file.parent.mkdir(parents=True)
        file.touch()
        folder = tmp_path / place[0]
        assert config(teacher=str(folder)).teacher == f"cache:{folder}"
    assert config(teacher=str(tmp_path)).teacher == str(tmp_path)


def test_a_setting_without_effect_is_refused_with_what_it_needs():
    refused("`--data` is missing.*--data=synthetic:", config, data=None)
    cosine = {"lr_milestones": ("3", "5"), "schedule": "cosine"}
    no_head = {"head": "none"}
    for changes, message in (
        (cosine, "lr_milestones=3,5` .*--schedule=step"),
        ({"lr_gamma": 0.2}, "lr_gamma=0.2` .* --lr_milestones"),
        ({"images_per_identity": 4}, "images_per_identity=4` .*--balanced_identities"),
        ({"init_partial": True}, "--init_partial` .*--init"),
        ({**no_head, "margin": "0.4"}, "margin=0.4` .* --head"),
        ({**no_head, "head_gradient": "straight_through"}, "head_gradient=straight"),
        ({**no_head, "distill": "ekd:1", "scale": 32.0}, "scale=32.0` .*such as kd"),
        ({"distill": "ekd:1", "teacher_centres": "c.npy"}, "centres=c.npy` .*best"),
        ({"general_batch": 0, "margin_weight": 2.0}, "weight=2.0` .*--general_batch"),
        ({"evaluate_every": 5}, "evaluate_every=5` .*--heldout_data"),
        ({"num_virtual_devices": 2}, "num_virtual_devices=2` .*--strategy=mirrored"),
    ):
        refused(message, settings.check_effects, config(**changes))
    idle = EvaluateSettings(model="m.keras", slices="a.csv")
    refused("--slices=a.csv` .*without --output", settings.check_effects, idle)
    idle = EvaluateSettings(model="m.keras", calibrate_flip=True)
    refused("--calibrate_flip` .*without --calibrate_fpr", settings.check_effects, idle)
    settings.check_effects(dataclasses.replace(idle, calibrate_fpr=1e-3))


def test_a_number_without_a_size_is_refused_whatever_the_flag():
    for kind in (TrainConfig, EvaluateSettings):
        for field in dataclasses.fields(kind):
            if not str(field.type).startswith("float"):
                continue
            for value in ("nan", "inf", "-inf"):
                words = f"--{field.name}`? ?(must be|=)"
                arguments = [f"--{field.name}={value}"]
                assert "\n" not in refused(words, parse, arguments, kind(), "x")


def test_a_setting_with_effect_or_left_alone_is_taken():
    for changes in (
        {},
        {"head": "none", "distill": "ada_distill:1", "scale": 32.0},
        {"distill": "cosine:9,ekd:30%", "images_per_identity": 4},
        {"lr_milestones": ("3",), "lr_gamma": 0.2},
        {"balanced_identities": 4, "images_per_identity": 4},
        {"eval_sets": ("x:folder:y",), "evaluate_every": 5},
    ):
        settings.check_effects(config(**changes))
    for name, loss in LOSSES.items():
        takes = inspect.signature(loss).parameters
        if "centres" in takes:
            settings.check_effects(config(distill=name, teacher_centres="c.npy"))
        if "scale" in takes:
            settings.check_effects(config(distill=name, head="none", scale=32.0))


def test_losses_are_recorded_with_the_weights_they_have():
    given = "ekd,sp:memory=1,ada_distill:2,cosine,ekd_reference,none:3,none"
    filled = "ekd:100%,sp:30%:memory=1,ada_distill:2,cosine:500%,ekd_reference:100%"
    assert config(distill=given).distill == f"{filled},none:3,none"
    assert config(distill="sp", head="none").distill == "sp:1"
    assert config().distill == "" and config(distill="best") == config(distill=BEST)
    # As given on the command line, which is checked first.
    given = TrainConfig(data="folder:x", distill="best", teacher_centres="c.npy")
    settings.check_effects(given)
    assert {name.partition(":")[0] for name in BEST.split(",")} <= LOSSES.keys()


def test_the_flagfiles_hold_no_flag_without_effect(monkeypatch):
    # They name others from there.
    monkeypatch.chdir(ROOT)
    names = sorted((ROOT / "flags").glob("*.flags"))
    assert names
    for name in names:
        if "tools/compare_methods.py" not in name.read_text(encoding="utf-8"):
            arguments = [f"--flagfile={name}"]
            read = parse(arguments, TrainConfig(data="folder:x"), "ekd_tf.train")
            settings.check_effects(read.completed())


def test_arguments_and_record_give_the_settings_back():
    changed = TrainConfig(
        data="folder:a b",
        flip=False,
        export=True,
        lr_milestones=("3", "5"),
        eval_sets=("a:folder:b", "c:pairs:d"),
        clip_norm=0.5,
        margin="1,0.3,0.2",
    )
    arguments = settings.as_arguments(changed)
    assert len(arguments) == 8
    assert parse(arguments, TrainConfig(), "ekd_tf.train") == changed
    assert TrainConfig.from_record(changed.to_record()) == changed
    # Of a version that had other settings, what both have.
    old = {"seed": 3, "drop_at": ["2"]}
    assert TrainConfig.from_record(old) == TrainConfig(seed=3)


def test_every_setting_says_what_it_is_and_takes():
    helps = {f.name: f.metadata["help"] for f in dataclasses.fields(TrainConfig)}
    assert all(text.endswith(".") for text in helps.values())
    takes = {"distill": LOSSES, "head": HEADS, "data": SOURCES}
    takes["model"] = [name.rstrip("0123456789") for name in BACKBONES]
    for setting, names in takes.items():
        missing = [name for name in names if name not in helps[setting]]
        assert not missing, f"--{setting} does not say that it takes {missing}"
    assert {"steps", "augment", "lr_milestones", "workdir"} <= COMMON
    assert {"workdir", "log_every", "max_checkpoints", "strategy"} <= FREE
    assert not {"steps", "distill", "teacher", "learning_rate"} & FREE
    readme = (ROOT / "flags" / "README.md").read_text(encoding="utf-8")
    assert settings.table(TrainConfig) in readme, "python -m ekd_tf.run.config"


def test_a_run_of_an_earlier_version_resumes(tmp_path):
    workdir, flags = Workdir(tmp_path), config().to_record()
    # One flag is gone since, another came.
    recorded = {**flags, "best_metric": "heldout/auc"}
    del recorded["head_sample_rate"]
    workdir.record_run(recorded)
    assert workdir.check_same_run(flags, FREE) == {}
    words, flags = "`--head_sample_rate` was 1.0, now 0.5", {**flags}
    flags["head_sample_rate"] = 0.5
    refused(words, workdir.check_same_run, flags, FREE)


def test_balanced_rows_come_with_losses_of_pairs_alone_unless_asked_for():
    assert config().balanced_identities == 0
    assert config(distill="ekd:1,cosine:1").balanced_identities == 16
    assert config(distill="best").balanced_identities == 0
    assert config(balanced_identities=4).balanced_identities == 4
    assert config(balanced_identities=0, distill="ekd:1").balanced_identities == 0
    default = inspect.signature(BatchSampler).parameters["images_per_identity"].default
    assert default == config().images_per_identity
