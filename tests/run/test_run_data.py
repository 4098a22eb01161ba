"""Tests for `ekd_tf.run.data`."""

import shutil
import types

import numpy as np
import pytest
import records
from PIL import Image

from ekd_tf.data.unreadable import Unreadable
from ekd_tf.run.config import TrainConfig
from ekd_tf.run.data import note_eval_sets
from ekd_tf.run.data import open_run_data
from ekd_tf.run.workdir import Workdir

NAMES = [f"p{k}" for k in range(10)]


def add(root, name, images=3):
    (root / name).mkdir(parents=True)
    for k in range(images):
        pixels = np.full((8, 8, 3), 20 * k, np.uint8)
        Image.fromarray(pixels).save(root / name / f"{k}.png")


def flags_of(root, **changes):
    return TrainConfig(data=f"folder:{root}", **{"holdout_identities": 4, **changes})


@pytest.fixture
def faces(tmp_path):
    for name in NAMES:
        add(tmp_path / "faces", name)
    return tmp_path / "faces"


def start(workdir, flags, **arguments):
    data = open_run_data(flags, workdir, **arguments)
    workdir.record_run(flags.to_record(), {}, [], data=data.note)
    return data


@pytest.fixture
def run(tmp_path, faces):
    """A workdir of a run that was started, and what it held out."""
    workdir = Workdir(tmp_path / "run")
    return workdir, start(workdir, flags_of(faces)).heldout.identity_names()


def test_unchanged_data_is_split_as_before(run, faces):
    workdir, heldout = run
    first = open_run_data(flags_of(faces), None)
    again = open_run_data(flags_of(faces), workdir)
    assert again.heldout.identity_names() == heldout
    assert again.train.fingerprint == first.train.fingerprint
    assert again.heldout.fingerprint == first.heldout.fingerprint
    assert again.note == first.note


def test_the_record_names_the_fingerprint_and_who_was_held_out(run, faces):
    workdir, heldout = run
    data = workdir.read_run()["data"]
    assert data["heldout_identities"] == heldout and len(heldout) == 4
    assert data["sources"]["data"]["images"] == 30
    assert len(data["sources"]["data"]["fingerprint"]) == 64
    assert workdir.read_data()["identities"]["data"] == dict.fromkeys(NAMES, 3)


def change(faces, heldout, kind):
    if kind == "added":
        add(faces, "a-new-one", images=2)
    elif kind == "gone":
        shutil.rmtree(faces / (set(NAMES) - set(heldout)).pop())
    elif kind == "image":
        (faces / "p3" / "0.png").unlink()
    else:
        (faces / "p3" / "0.png").write_bytes(b"other bytes, of another size")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("added", "changed: 1 identities added, 0 gone; 2 images added, 0 gone in"),
        ("gone", "changed: 0 identities added, 1 gone; 0 images added, 3 gone in"),
        ("image", "changed: 0 identities added, 0 gone; 0 images added, 1 gone in"),
        ("bytes", "0 images added, 0 gone, but others behind the same names in"),
    ],
)
def test_changed_data_is_refused_with_what_changed(run, faces, kind, words):
    workdir, heldout = run
    change(faces, heldout, kind)
    with pytest.raises(ValueError, match=f"{words}.*give --force_data"):
        open_run_data(flags_of(faces), workdir)


def test_forced_data_keeps_who_was_held_out_and_leaves_new_ones_out(run, faces):
    workdir, heldout = run
    # Drawn anew, one of three more identities would be held out, or others be.
    for name in ("a", "b", "z"):
        add(faces, name)
    shutil.rmtree(faces / heldout[1])
    data = start(workdir, flags_of(faces), force=True)
    assert data.heldout.identity_names() == [heldout[0], *heldout[2:]]
    assert set(data.train.identity_names()) == set(NAMES) - set(heldout)
    # What is there now is what the run knows from here on.
    again = open_run_data(flags_of(faces), workdir)
    assert again.heldout.identity_names() == data.heldout.identity_names()
    assert again.train.identity_names() == data.train.identity_names()


def test_held_out_data_of_its_own_is_watched_too(tmp_path, faces):
    for name in NAMES[:3]:
        add(tmp_path / "others", name)
    flags = flags_of(
        faces, holdout_identities=0, heldout_data=f"folder:{tmp_path / 'others'}"
    )
    workdir = Workdir(tmp_path / "run")
    assert start(workdir, flags).heldout.num_identities == 3
    add(tmp_path / "others", "new")
    with pytest.raises(ValueError, match="1 identities added, 0 gone; .*others since"):
        open_run_data(flags, workdir)
    assert open_run_data(flags, workdir, force=True).heldout.num_identities == 3


def test_a_run_without_held_out_identities_is_watched_too(tmp_path, faces):
    flags = flags_of(faces, holdout_identities=0)
    workdir = Workdir(tmp_path / "run")
    assert start(workdir, flags).heldout is None
    assert open_run_data(flags, workdir).heldout is None
    add(faces, "new")
    with pytest.raises(ValueError, match="1 identities added"):
        open_run_data(flags, workdir)
    assert open_run_data(flags, workdir, force=True).train.num_identities == 10


def test_two_kinds_of_held_out_data_are_refused(faces):
    flags = flags_of(faces, heldout_data=f"folder:{faces}")
    with pytest.raises(ValueError, match="not both"):
        open_run_data(flags, None)
    with pytest.raises(ValueError, match="`--holdout_identities` must leave at least"):
        open_run_data(flags_of(faces, holdout_identities=9), None)


def test_damage_of_both_sources_is_counted_together_and_indices_are_kept(tmp_path):
    images = [(k // 2, b"abcd") for k in range(4)]
    offsets = records.write(tmp_path / "set", records.insightface(images))
    spec = f"recordio:{tmp_path / 'set'}"
    config = TrainConfig(data=spec, heldout_data=spec)
    (tmp_path / "set").chmod(0o555)
    open_run_data(config, None, cache_dir=tmp_path)
    (tmp_path / "set").chmod(0o755)
    assert len(list(tmp_path.glob("train-*.ekd_index.npz"))) == 1
    content = bytearray((tmp_path / "set" / "train.rec").read_bytes())
    content[offsets[1]] = 0
    (tmp_path / "set" / "train.rec").write_bytes(content)
    unreadable = Unreadable(1)
    data = open_run_data(config, None, unreadable, cache_dir=tmp_path)
    assert len(data.train) == len(data.heldout) == 4 and len(unreadable.lines) == 1
    with pytest.raises(ValueError, match="cannot decode .*offset"):
        open_run_data(config, None)


def test_other_data_by_force_is_data_of_its_own(run, tmp_path):
    for name in NAMES:
        add(tmp_path / "more", f"x{name}")
    data = open_run_data(flags_of(tmp_path / "more"), run[0])
    assert data.heldout.num_identities == 4


def test_images_in_another_place_are_compared_with_those_of_the_run(run, faces, caplog):
    workdir, heldout = run
    moved = shutil.copytree(faces, faces.with_name("moved"))
    assert start(workdir, flags_of(moved)).heldout.identity_names() == heldout
    add(moved, "a")
    with pytest.raises(ValueError, match="changed: 1 identities added, 0 gone"):
        open_run_data(flags_of(moved), workdir)
    forced = open_run_data(flags_of(moved), workdir, force=True)
    assert forced.heldout.identity_names() == heldout
    assert "are numbers" not in caplog.text
    # Another number to hold out is another split.
    assert open_run_data(flags_of(moved, holdout_identities=5), workdir)


def test_names_that_are_numbers_are_warned_of(tmp_path, caplog):
    for name in "0123456789":
        add(tmp_path / "faces", name)
    workdir = Workdir(tmp_path / "run")
    start(workdir, flags_of(tmp_path / "faces"))
    add(tmp_path / "faces", "10")
    open_run_data(flags_of(tmp_path / "faces"), workdir, force=True)
    assert "are numbers: where these have moved, the people held out" in caplog.text


def test_a_set_to_evaluate_on_that_has_changed_is_refused(run):
    workdir, _ = run
    sets = [types.SimpleNamespace(name="lfw", fingerprint="a")]
    noted = note_eval_sets(workdir, sets, force=False)
    data = workdir.read_data()
    workdir.record_run({}, {}, [], data={**data, "eval_sets": noted})
    assert note_eval_sets(workdir, sets, force=False) == noted
    others = [
        types.SimpleNamespace(name="lfw", fingerprint="b"),
        types.SimpleNamespace(name="heldout", fingerprint="c"),
    ]
    with pytest.raises(ValueError, match="the data has changed: `--eval_sets=lfw:"):
        note_eval_sets(workdir, others, force=False)
    assert note_eval_sets(workdir, others, force=True).keys() == {"lfw"}
