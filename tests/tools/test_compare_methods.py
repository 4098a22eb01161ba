"""The grid trains equal runs, goes on where it was, and reports what came of each."""

import dataclasses
import json
import pathlib
import shutil

import compare_methods as tool
import keras
import numpy as np
import pytest
from commands import refuse
from commands import succeed
from pictures import write_people
from refusals import refused
from toys import backbone

from ekd_tf.data import SyntheticFaces
from ekd_tf.data.unreadable import Unreadable
from ekd_tf.evaluation import SourceEmbedder
from ekd_tf.evaluation import verify_embeddings
from ekd_tf.run.config import TrainConfig
from ekd_tf.run.data import open_run_data
from ekd_tf.run.provenance import package_versions
from ekd_tf.run.workdir import Workdir

pytestmark = pytest.mark.usefixtures("no_pictures")

HELDOUT = "synthetic:identities=12,images=4,size=32,first=900"


@pytest.fixture
def common(tmp_path):
    """Settings of the command that all runs have in common."""
    data = "synthetic:identities=9,images=4,size=32"
    more = {"input_size": 32, "steps": 4, "teacher": "teacher.keras"}
    return TrainConfig(workdir=str(tmp_path), data=data, heldout_data=HELDOUT, **more)


def test_alone_comes_first_and_methods_keep_their_order(common):
    flags = "--distill=ekd:8,cosine:100 --head=cosface"
    specs = ["b: --distill=cosine:2", f"a+b: {flags}"]
    found = tool.parse_methods(common, specs, [])
    assert list(found) == ["alone", "b", "a+b"] and found["a+b"] == flags.split()
    assert list(tool.parse_methods(common, specs, ["a+b", "alone"])) == ["alone", "a+b"]
    # On the command line after the flagfile: the later one counts.
    again = tool.parse_methods(common, [*specs, "b: --distill=sp"], [])
    assert again["b"] == ["--distill=sp"] and list(again) == list(found)


def test_says_what_is_wrong_with_methods_and_seeds(common):
    for spec, words in (
        ("alone: --distill=sp", "neither alone nor teacher.*'alone: --distill=sp'"),
        ("teacher: --distill=sp", "neither alone nor teacher"),
        ("--distill=sp", "must be 'NAME: FLAGS'"),
        ("a/b: --distill=sp", "must be 'NAME: FLAGS'"),
        ("x: --lr=5", "flag 'lr'. Here it is --learning_rate"),
        ('x: --distill="sp', '`--method=x`: No closing quotation in --distill="sp'),
        ("x: --distill=sp more", "Not a flag of ekd_tf.train: more"),
        ("x: --steps=5", "`--method=x` must leave alone.*--steps=5, for all 4"),
        ("x: --augment=crop:2 --width=2", "crop:2.*--width=2.0, for all 1.0"),
    ):
        refused(words, tool.parse_methods, common, [spec], [])
    words = r"among alone, b. Received: \['c'\]"
    refused(words, tool.parse_methods, common, ["b: --distill=sp"], ["c"])
    assert tool.parse_seeds(["2", "0", "2"]) == [2, 0]
    for texts in ([], ["-1"], ["x"]):
        refused("`--seeds` must be integers", tool.parse_seeds, texts)


def grid(common, root, seeds=(0, 1), specs=(), **options):
    specs = specs or ["cosine: --distill=cosine:9"]
    methods = tool.parse_methods(common, specs, [])
    return tool.make_runs(common, root, methods, seeds, **options)


def test_runs_differ_in_nothing_but_the_method(common, tmp_path):
    teacher, runs = grid(common, tmp_path)
    # All methods of a seed come before the next.
    order = [(name, seed) for seed in (0, 1) for name in ("alone", "cosine")]
    assert teacher is None and [(run.method, run.seed) for run in runs] == order
    assert runs[3].path == tmp_path / "cosine" / "seed1"
    assert runs[3].values["workdir"] == str(runs[3].path)
    for run in runs:
        read = tool.run_of(TrainConfig(), *run.arguments)
        assert read.completed().to_record() == run.values
    alone, cosine = (run.values for run in runs[:2])
    differing = {name for name in alone if alone[name] != cosine[name]}
    assert differing == {"workdir", "teacher", "distill"}
    assert (alone["teacher"], cosine["teacher"]) == ("none", "teacher.keras")
    assert alone.keys() == TrainConfig().to_record().keys()
    assert tool.teacher_to_evaluate(common, teacher, None) == "teacher.keras"
    # The same batches with and without distillation.
    assert alone["balanced_identities"] == cosine["balanced_identities"] == 16
    words = "`--teacher` or `--train_teacher`, not both"
    refused(words, grid, common, tmp_path, train_teacher="--steps=9")
    changes = {"teacher": "none", "heldout_data": None, "holdout_identities": 3}
    own = dataclasses.replace(common, **changes)
    words = "holds out other identities, on which the teacher .* or --seeds=0"
    refused(words, grid, own, tmp_path, train_teacher="--steps=9")
    assert grid(own, tmp_path, seeds=[0], train_teacher="--steps=9")[0]


def test_a_common_flag_counts_where_it_has_an_effect(common, tmp_path):
    common = dataclasses.replace(common, teacher_centres="c.npy")
    specs = ["kd: --distill=kd", "cosine: --distill=cosine"]
    _, runs = grid(common, tmp_path, seeds=[0], specs=specs)
    assert [run.values["teacher_centres"] for run in runs] == [None, "c.npy", None]
    words, specs = "x: `--margin=0.5` has no effect", ["x: --head=none --margin=0.5"]
    refused(words, grid, common, tmp_path, specs=specs)
    for flags, words in (
        ("--distill=cosin:1", "x: `distill` must be one of .*mean 'cosine'"),
        ("--distill=sp:1:gramm=raw", "x: `--distill=sp:WORD` must be.*gramm"),
        ("--head=arcfaces", "x: `head` must be one of"),
        ("--distill=", "x: .*given but nothing to learn from it"),
        ("--distill=darkrank:length=1", "x: `--distill=darkrank:length` must be"),
        ("--margin=3 --distill=sp", r"x: `margin` must be in \[0, pi/2\)"),
    ):
        refused(words, grid, common, tmp_path, specs=[f"x: {flags}"])


def test_the_teacher_is_trained_on_the_data_of_all(common, tmp_path):
    common = dataclasses.replace(common, teacher="none")
    flags = "--model=iresnet18 --steps=9"
    teacher, runs = grid(common, tmp_path, train_teacher=flags)
    assert teacher.values["model"] == "iresnet18" and teacher.values["steps"] == 9
    assert teacher.values["data"] == common.data
    assert (teacher.values["teacher"], teacher.values["distill"]) == ("none", "")
    path = str(tmp_path / "teacher")
    assert [run.values["teacher"] for run in runs] == ["none", path] * 2
    assert tool.teacher_to_evaluate(common, teacher, None) == path
    # A cache needs the model it is of.
    common = dataclasses.replace(common, teacher="cache:rows")
    refused("--teacher_model=FILE.onnx", tool.teacher_to_evaluate, common, None, None)
    assert tool.teacher_to_evaluate(common, None, "y1.onnx") == "y1.onnx"


def test_a_teacher_that_has_changed_is_refused_unless_forced(common, tmp_path):
    _, runs = grid(common, tmp_path, specs=["a: --distill=sp", "b: --distill=sp"])
    for run, teacher in zip(runs, (None, "1", "1", None, "1", "2")):
        Workdir(run.path).record_run(run.values, teacher=teacher)
    tool.check_same_teachers(runs[:5], False)
    words = r"--teacher=teacher.keras has changed between .*a/seed0 and .*b/seed1"
    refused(words, tool.check_same_teachers, runs, False)
    tool.check_same_teachers(runs, True)


def finish(run, seed, steps=4, data=None):
    """Leaves what the trainer leaves of a finished run, around an untrained model."""
    values = {**run.values, "steps": steps}
    Workdir(run.path).record_run(values, data=data)
    backbone(seed=seed).save(run.path / "model.keras")


def test_figures_are_of_each_run_and_facts_of_all(common, tmp_path, op_by_op):
    teacher = tmp_path / "teacher.keras"
    backbone(seed=9).save(teacher)
    _, runs = grid(common, tmp_path)
    # The second seed of the method has not been trained.
    for number, run in enumerate(runs[:3]):
        finish(run, number)
    sets = ("more:synthetic:identities=3,images=4,size=32", "more:" + HELDOUT)
    common = dataclasses.replace(common, eval_sets=sets)
    comparisons, failures = tool.evaluate(common, tmp_path, runs, str(teacher))
    assert [comparison.name for comparison in comparisons] == ["heldout", "more"]
    heldout, more = comparisons
    assert not failures and list(heldout.methods["cosine"]) == [0]
    source = SyntheticFaces(12, 4, 32, first_identity=900)
    for run, seed in zip(runs[:3], (0, 0, 1)):
        model = keras.models.load_model(run.path / "model.keras")
        expected = verify_embeddings(SourceEmbedder(model, 16)(source), source.labels)
        found = heldout.methods[run.method][seed]
        assert found.accuracy == expected.accuracy_mean
    # The later set of one name counts.
    assert more.methods["alone"][1] == heldout.methods["alone"][1]
    assert heldout.teacher.keys() == {0, 1}
    assert heldout.teacher[0] not in heldout.methods["alone"].values()
    assert (tmp_path / "teacher_figures.json").is_file()
    # A model that gives nothing to verify is told, not dropped.
    broken = keras.models.load_model(runs[0].path / "model.keras")
    broken.set_weights([np.full_like(w, np.nan) for w in broken.get_weights()])
    broken.save(runs[0].path / "model.keras")
    _, failures = tool.evaluate(common, tmp_path, runs, "none")
    assert failures.keys() == {("alone", 0)}
    assert "cannot be evaluated" in failures["alone", 0]
    facts = json.loads(json.dumps(tool.facts_of(common, runs, {"a": []}, [0], "t")))
    assert facts["Trained with"] == [package_versions()]
    shared = facts["Common flags"]
    assert "cores" in facts["Machine"] and "--steps=4" in shared
    # What is filled in, and not the folder, which is that of no run.
    assert "--balanced_identities=16" in shared and "--workdir" not in shared


def test_data_that_has_changed_is_refused_unless_forced(common, tmp_path):
    def note_of(run):
        config = TrainConfig.from_record(run.values)
        return open_run_data(config, None, Unreadable(), False, tmp_path)[2]

    faces = write_people(tmp_path / "faces", people=8, each=4, side=32)
    common = dataclasses.replace(
        common, data=f"folder:{faces}", heldout_data=None, holdout_identities=4
    )
    _, runs = grid(common, tmp_path, seeds=[0])
    finish(runs[0], 0, data=note_of(runs[0]))
    shutil.copytree(faces / "p0", faces / "q")
    # The only run there is was trained on other images than are there now.
    for check in (
        lambda: tool.evaluate(common, tmp_path, runs, "none"),
        lambda: tool.check_data_of_runs(runs, common),
    ):
        refused("changed: 1 identities added, 0 gone", check)
    # One was trained before, the other after the change.
    finish(runs[1], 1, data=note_of(runs[1]))
    for order in (runs, runs[::-1]):
        refused("the data has changed", tool.evaluate, common, tmp_path, order, "none")
    words = "changed between .*alone.* and .*cosine"
    refused(words, tool.check_same_data, *runs, force=False)
    forced = dataclasses.replace(common, force_data=True)
    comparisons, failures = tool.evaluate(forced, tmp_path, runs, "none")
    assert comparisons[0].methods.keys() == {"alone", "cosine"} and not failures


@pytest.mark.slow
def test_a_grid_grows_by_a_seed_and_refuses_other_flags(tmp_path):
    program = pathlib.Path(tool.__file__)
    arguments = [
        f"--workdir={tmp_path}",
        "--data=synthetic:identities=20,images=4,size=32",
        f"--heldout_data={HELDOUT}",
        *"--input_size=32 --width=0.125 --embedding_dim=16 --general_batch=8".split(),
        *"--balanced_identities=2 --steps=3 --learning_rate=0.01".split(),
        "--train_teacher=--embedding_dim=8",
        "--method=cosine: --distill=cosine:9",
    ]

    succeed(program, *arguments)
    model = tmp_path / "cosine" / "seed0" / "model.keras"
    written = model.stat().st_mtime_ns
    succeed(program, *arguments, "--seeds=0,1")
    assert model.stat().st_mtime_ns == written
    report = json.loads((tmp_path / "report.json").read_text())
    runs = [(run["method"], run["seed"]) for run in report["runs"]]
    of_seeds = [(name, seed) for seed in (0, 1) for name in ("alone", "cosine")]
    assert runs == [("teacher", 0), *of_seeds]
    assert {run["state"] for run in report["runs"]} == {"finished"}
    cosine = report["sets"]["heldout"]["cosine"]
    assert cosine["seeds"] == [0, 1] and len(cosine["accuracy"]["values"]) == 2
    assert (tmp_path / "heldout_roc.png").is_file()
    done = refuse(program, *arguments, "--seeds=0,1", "--steps=4")
    assert "`--steps` was 3, now 4" in done.stderr
