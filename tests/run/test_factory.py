import functools
import os
import types

import numpy as np
from pictures import write_people
from refusals import refused

from ekd_tf import heads
from ekd_tf.data import FolderFaces
from ekd_tf.run import factory


def test_opens_the_lists_of_tface(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"image")
    (tmp_path / "lists").mkdir()
    for spec in ("index", f"lists/index,root={tmp_path}"):
        (tmp_path / spec.partition(",")[0]).write_text("a.jpg\t0\n")
        assert factory.make_source(f"tface:{tmp_path}/{spec}").read([0]) == [b"image"]


def test_joins_sources(tmp_path):
    # A plus sign in a path joins nothing.
    root = write_people(tmp_path / "a+b", people=2, each=2, side=16)
    source = factory.make_source(f"folder:{root}+folder:{root}")
    assert (len(source), source.num_identities) == (8, 4)
    assert isinstance(factory.make_source(f"folder:{root}"), FolderFaces)
    drawn = "synthetic:identities=2,images=1,size=32"
    assert factory.make_source(f"{drawn}+{drawn},seed=3").num_identities == 4
    # Words of synthetic faces.
    source = factory.make_source(drawn + ",seed=5,first=9")
    assert source.read(np.array([0])).shape == (1, 32, 32, 3)
    assert source.fingerprint != factory.make_source(drawn).fingerprint


def test_builds_every_loss_between_different_sizes():
    arguments = {"student_dim": 3, "teacher_dim": 5, "num_identities": 4}
    arguments |= {"centres": lambda: np.eye(4, 5), "scale": 64.0, "head": None}
    spec = ",".join(f"{name}:{i + 2}" for i, name in enumerate(factory.LOSSES))
    losses = factory.make_losses(spec, **arguments)
    assert list(losses) == list(factory.LOSSES)
    weights = [weight for _, weight in losses.values()]
    assert weights == [i + 2 for i in range(len(losses))]
    for name in ("cosine", "fitnet", "kd", "proxyless_kd", "ada_distill"):
        assert losses[name][0].projection is not None


def test_words_behind_a_loss_are_its_arguments():
    spec = "sp:gram=row_normalized,darkrank:2:length=4,ekd:100%:temperature=0.05"
    spec += ":threshold_gradient=false:memory=9:num_negatives=7:fprs=1e-1/1e-2"
    losses = factory.make_losses(spec, student_dim=3, teacher_dim=5, scale=9.0)
    assert losses["sp"][0].gram == "row_normalized"
    assert (losses["darkrank"][0].length, losses["darkrank"][1]) == (4, 2.0)
    ekd = losses["ekd"][0]
    assert (ekd.temperature, ekd.memory, ekd.threshold_gradient) == (0.05, 9, False)
    assert (ekd.miner.num_negatives, ekd.miner.fprs) == (7, (0.1, 0.01))
    assert ekd.teacher_dim == 5
    assert losses["sp"][1] == 1.0 and losses["ekd"][1].share == 1.0
    assert factory.make_losses("") == {}


def test_says_what_is_wrong_with_losses():
    sizes = {"student_dim": 3, "teacher_dim": 5}
    words = "needs the teacher's class centres"
    refused(words, factory.make_losses, "kd:4", **sizes)
    sizes |= {"centres": lambda: np.eye(4, 5), "num_identities": 4}
    negative = r"`--distill=ekd:temperature` must be in \(0, inf\). "
    negative += "Received: --distill=ekd:temperature=-1.0"
    for spec, words in (
        ("ekdd:1", "distill` must be one of 'ekd', .*Did you mean 'ekd'"),
        ("ekd:1,ekd:2", "distill` names 'ekd' twice"),
        ("Best", "distill` must be one of .*Did you mean 'best'"),
        (
            "best,rkd:1",
            "distill=best` takes no weight.*: give ekd_centres:300%,cosine:100",
        ),
        ("ekd:-1", r"=ekd` must be in \(0, inf\)"),
        ("ekd:nan", "=ekd` must be a finite number"),
        ("ekd:0%", r"=ekd \(%\)` must be in \(0, 1000.0\]"),
        ("ekd:1200%", r"=ekd \(%\)` must be in \(0, 1000.0\]. Received: .*=1200.0"),
        ("ekd:tempature=1", "=ekd:WORD` must be one of .*mean 'temperature'"),
        ("ekd:1:student_dim=4", "=ekd:WORD` must be one of"),
        ("ekd:temperature", "=ekd` must be a number. Received: 'temperature'"),
        ("ekd:1:temperature", "=ekd:temperature` needs a value"),
        ("ekd:memory=1.5", "=ekd:memory` must be an integer"),
        ("ekd:threshold_gradient=no", "=ekd:threshold_gradient` must be one of 'true'"),
        ("ekd:temperature=-1:memory=0", negative),
        ("ekd:num_negatives=0", "=ekd:num_negatives` must be in"),
        ("cosine:1:scale=3", "=cosine` has no settings: leave out :scale=3"),
        # Refused by the loss itself.
        ("gkd:mass=0", "=gkd:mass` must be .*Received: --distill=gkd:mass=0.0"),
        ("gkd:primary_weight=0:binary_weight=0", "--distill=gkd:bin.* not both be 0"),
        ("ekd:positive_weight=0:negative_weight=0", "must not both be 0"),
        ("shrinkteanet:angular_weight=0:classifier_weight=0", "must not both be 0"),
    ):
        refused(words, factory.make_losses, spec, **sizes)


def test_kd_uses_the_centres_of_the_head():
    head = factory.make_head("arcface", 4, 64.0, None)
    sizes = {"student_dim": 3, "teacher_dim": 5, "num_identities": 4}
    centres = functools.partial(np.eye, 4, 5)
    losses = factory.make_losses("kd", centres, head=head, **sizes)
    batch = np.eye(4, 3, dtype=np.float32), np.eye(4, 5, dtype=np.float32)
    refused(r"must be built: head.build\(\(None, student", losses["kd"][0], *batch)
    head.build((None, 3))
    assert not losses["kd"][0].trainable_variables
    before = float(losses["kd"][0](*batch)["kd"])
    head.centers.assign(-np.array(head.centers))
    assert float(losses["kd"][0](*batch)["kd"]) != before


def test_says_what_is_wrong_with_class_centres(tmp_path):
    np.save(tmp_path / "centres.npy", np.float32([[1, 2, 3], [4, 5, 6]]))
    assert factory.load_centres(str(tmp_path / "centres.npy"), 2, 3)[1, 0] == 4
    np.savez(tmp_path / "several.npz", np.zeros((2, 3)))
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "text.npy").write_text("no array")
    np.save(tmp_path / "words.npy", np.full((4, 3), "x"))
    np.save(tmp_path / "nan.npy", np.diag([1.0, 1, np.nan, 1])[:, :3])
    np.save(tmp_path / "huge.npy", np.diag([1.0, 1e39, 1, 1])[:, :3])
    for name, words in (
        ("gone.npy", "gone.npy` cannot be read: .*No such file"),
        ("centres.npy", "each of the 4 training.*the 3 entr.*(2, 3)"),
        ("several.npz", "Received: shape=several arrays"),
        ("pipe.npy", "pipe.npy` cannot be read: .*no regular file"),
        ("text.npy", "text.npy` cannot be read"),
        ("words.npy", "words.npy` must hold numbers.*dtype=<U1"),
        ("nan.npy", "--teacher_centres=.*nan.npy` must be finite.*the first is 2"),
        ("huge.npy", "huge.npy` must be finite.*the first is 1"),
    ):
        refused(words, factory.load_centres, str(tmp_path / name), 4, 3)


def test_builds_heads():
    head = factory.make_head("arcface", 5, 32.0, None)
    assert isinstance(head, heads.ArcFace)
    assert (head.scale, head.margin, head.num_identities) == (32.0, 0.5, 5)
    assert isinstance(factory.make_head("cosface", 5, 64.0, "0.3"), heads.CosFace)
    assert factory.make_head("none", 5, 64.0, None) is None
    for name in factory.HEADS:
        head = factory.make_head(
            name, 5, 64.0, None, gradient="straight_through", sample_rate=0.5, seed=3
        )
        assert (head.gradient, head.sample_rate) == ("straight_through", 0.5)
        assert head.seed == 3
    head = factory.make_head("combined", 5, 64.0, "1.2,0.1,0.3")
    assert (head.margin1, head.margin2, head.margin3) == (1.2, 0.1, 0.3)
    for name, margin, words in (
        ("combined", "0.5", "must be M1,M2,M3. Received: --margin=0.5"),
        ("arcface", "1,2", "arcface must be one number.*--margin=1,2"),
        ("arcface", "x", "`margin` must be a number. Received: 'x'"),
        ("arc", None, "`head` must be one of"),
    ):
        refused(words, factory.make_head, name, 5, 64.0, margin)


def test_builds_a_constant_schedule():
    # The others are those of runs in test_session.py and test_assembly.py.
    constant = factory.make_schedule("constant", 0.1, 100, 4, [], 0.1)
    found = [float(constant(step)) for step in (0, 50)]
    np.testing.assert_allclose(found, [0.025, 0.1], rtol=1e-5)


def test_augmentation_is_made_of_the_words_of_its_class():
    assert not factory.make_augmentation("", 32)
    on = factory.make_augmentation("crop:8,jpeg:0.5", 32)
    assert (on.crop, on.jpeg, on.occlusion) == (8, 0.5, 0)
    for spec, words in (
        ("crop:9", r"crop` must be in \[0, 8\]"),
        ("jpg:0.1", "WORD` must be one of 'crop', .*Did you mean 'jpeg'"),
    ):
        refused("`--augment:" + words, factory.make_augmentation, spec, 32)


def test_errors_name_the_flag():
    toy = types.SimpleNamespace(labels=np.repeat([0, 1, 2], 4))
    sampler, schedule = factory.make_sampler, factory.make_schedule
    most = "`--balanced_identities` must be at most .* --balanced_identities=99"
    none = "`--general_batch` or `--balanced_identities` must be above 0"
    for words, make, *arguments in (
        (most, sampler, toy, 0, 99, 4, 0),
        (none, sampler, toy, 0, 0, 4, 0),
        ("`--learning_rate` must be in", schedule, "step", 0.0, 9, 0, [], 0.1),
        ("`schedule` must be one of", schedule, "poly", 0.1, 9, 0, [], 0.1),
    ):
        refused(words, make, *arguments)
    words, head = "`--head_sample_rate` must be in", ("arcface", 5, 64.0, None)
    refused(words, factory.make_head, *head, sample_rate=0.0)
    for spec, words in (
        ("foldr:x", "must be one of 'recordio', .*Did you mean 'folder'"),
        ("hf:,split=test", "`--data=hf:` names no images: give hf:NAME"),
        ("folder:", "`--data=folder:` names no images: give folder:PATH"),
        ("synthetic:identitys=3", "must be one of 'identities'.*Did you mean"),
        ("synthetic:identities=x", "must be an integer. Received: 'x'"),
        ("synthetic:size=48,size=64", "synthetic:size` must be given once"),
        ("synthetic:size=33", "`--data=synthetic:size` must be a multiple of 16"),
    ):
        refused(words, factory.make_source, spec)
