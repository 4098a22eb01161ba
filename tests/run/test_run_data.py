import os
import shutil
import types

import pytest
import records
from refusals import refused

from ekd_tf.data.unreadable import Unreadable
from ekd_tf.run.config import TrainConfig
from ekd_tf.run.data import note_eval_sets
from ekd_tf.run.data import open_run_data
from ekd_tf.run.workdir import Workdir

NAMES = [f"p{k}" for k in range(10)]


def add(root, *names, images=3):
    for name in names:
        for k in range(images):
            records.put(root / name / f"{k}.png", b"image")
    return root


def flags_of(root, **changes):
    return TrainConfig(data=f"folder:{root}", **{"holdout_identities": 4, **changes})


@pytest.fixture
def faces(tmp_path):
    return add(tmp_path / "faces", *NAMES)


def start(workdir, flags, **arguments):
    train, heldout, note = open_run_data(flags, workdir, **arguments)
    workdir.record_run(flags.to_record(), data=note)
    return train, heldout


@pytest.fixture
def run(tmp_path, faces):
    """A workdir of a run that was started, and what it held out."""
    workdir = Workdir(tmp_path / "run")
    return workdir, start(workdir, flags_of(faces))[1].identity_names()


def test_unchanged_data_is_split_as_before_and_the_record_says_how(run, faces):
    workdir, heldout = run
    *first, note = open_run_data(flags_of(faces), None)
    *again, same_note = open_run_data(flags_of(faces), workdir)
    assert again[1].identity_names() == heldout and note == same_note
    assert [s.fingerprint for s in again] == [s.fingerprint for s in first]
    data = workdir.read_run()["data"]
    assert data["heldout_identities"] == heldout and len(heldout) == 4
    assert data["sources"]["data"]["images"] == 30
    assert len(data["sources"]["data"]["fingerprint"]) == 64
    assert workdir.read_data()["identities"]["data"] == dict.fromkeys(NAMES, 3)


def test_changed_data_is_refused_with_what_changed(run, faces):
    workdir, heldout = run

    def check(words):
        words = f"changed: {words} in.*give --force_data"
        refused(words, open_run_data, flags_of(faces), workdir)

    (faces / "p3" / "0.png").write_bytes(b"other bytes")
    unseen = "0 images added, 0 gone, but others behind the same names"
    check(f"0 identities added, 0 gone; {unseen}")
    (faces / "p3" / "0.png").unlink()
    check("0 identities added, 0 gone; 0 images added, 1 gone")
    add(faces, "a-new-one", images=2)
    check("1 identities added, 0 gone; 2 images added, 1 gone")
    shutil.rmtree(faces / (set(NAMES) - {*heldout, "p3"}).pop())
    check("1 identities added, 1 gone; 2 images added, 4 gone")
    for name in os.listdir(faces):
        (faces / name).rename(faces / f"{name}-renamed")
    check("10 identities added, 10 gone; 28 images added, 30 gone")


def test_forced_data_keeps_who_was_held_out_and_leaves_new_ones_out(run, faces):
    workdir, heldout = run
    # Drawn anew, one of three more identities would be held out, or others be.
    add(faces, "a", "b", "z")
    shutil.rmtree(faces / heldout[1])
    start(workdir, flags_of(faces), force=True)
    # What is there now is what the run knows from here on.
    train, left, _ = open_run_data(flags_of(faces), workdir)
    assert left.identity_names() == [heldout[0], *heldout[2:]]
    assert set(train.identity_names()) == set(NAMES) - set(heldout)


@pytest.mark.parametrize(("watched", "people"), [("faces", None), ("others", 3)])
def test_other_ways_to_hold_out_are_watched_too(tmp_path, faces, watched, people):
    others = add(tmp_path / "others", *NAMES[:3])
    heldout_data = f"folder:{others}" if people else None
    flags = flags_of(faces, holdout_identities=0, heldout_data=heldout_data)
    workdir = Workdir(tmp_path / "run")
    _, heldout = start(workdir, flags)
    assert (heldout and heldout.num_identities) == people
    add(tmp_path / watched, "new")
    words = f"1 identities added, 0 gone; .*{watched} since"
    refused(words, open_run_data, flags, workdir)
    train, heldout, _ = open_run_data(flags, workdir, force=True)
    assert train.num_identities == 10
    assert (heldout and heldout.num_identities) == people


def test_two_kinds_of_held_out_data_are_refused(faces):
    flags = flags_of(faces, heldout_data=f"folder:{faces}")
    refused("not both", open_run_data, flags, None)
    words = "`--holdout_identities` must leave at least"
    refused(words, open_run_data, flags_of(faces, holdout_identities=9), None)


def test_damage_of_both_sources_is_counted_together_and_indices_are_kept(tmp_path):
    images = [(k // 2, b"abcd") for k in range(4)]
    offsets = records.write(tmp_path / "set", records.insightface(images))
    spec = f"recordio:{tmp_path / 'set'}"
    config = TrainConfig(data=spec, heldout_data=spec)
    (tmp_path / "set").chmod(0o555)
    open_run_data(config, None, cache_dir=tmp_path)
    (tmp_path / "set").chmod(0o755)
    assert len(list(tmp_path.glob("train-*.ekd_index.npz"))) == 1
    with open(tmp_path / "set" / "train.rec", "r+b") as file:
        file.seek(offsets[1])
        file.write(b"\0")
    unreadable = Unreadable(1)
    train, heldout, _ = open_run_data(config, None, unreadable, cache_dir=tmp_path)
    assert len(train) == len(heldout) == 3 and len(unreadable.lines) == 1
    refused("cannot decode .*offset", open_run_data, config, None)


def test_moved_images_are_compared_with_those_of_the_run(run, faces, tmp_path, caplog):
    workdir, heldout = run
    moved = shutil.copytree(faces, faces.with_name("moved"))
    assert start(workdir, flags_of(moved))[1].identity_names() == heldout
    add(moved, "a")
    words = "changed: 1 identities added, 0 gone"
    refused(words, open_run_data, flags_of(moved), workdir)
    _, forced, _ = open_run_data(flags_of(moved), workdir, force=True)
    assert forced.identity_names() == heldout
    assert "are numbers" not in caplog.text
    # Another number to hold out is another split, and others are data of their own.
    assert open_run_data(flags_of(moved, holdout_identities=5), workdir)
    others = add(tmp_path / "more", *(f"x{name}" for name in NAMES))
    assert open_run_data(flags_of(others), workdir)[1].num_identities == 4


def test_names_that_are_numbers_are_warned_of(tmp_path, caplog):
    faces, workdir = add(tmp_path / "faces", *"0123456789"), Workdir(tmp_path / "run")
    start(workdir, flags_of(faces))
    add(faces, "10")
    open_run_data(flags_of(faces), workdir, force=True)
    assert "are numbers: where these have moved, the people held out" in caplog.text


def test_a_set_to_evaluate_on_that_has_changed_is_refused(run):
    def sets(**fingerprints):
        pairs = fingerprints.items()
        return [types.SimpleNamespace(name=n, fingerprint=f) for n, f in pairs]

    workdir, _ = run
    noted = note_eval_sets(workdir, sets(lfw="a"), force=False)
    data = {**workdir.read_data(), "eval_sets": noted}
    workdir.record_run({}, data=data)
    assert note_eval_sets(workdir, sets(lfw="a"), force=False) == noted
    others = sets(lfw="b", heldout="c")
    words = "the data has changed: `--eval_sets=lfw:"
    refused(words, note_eval_sets, workdir, others, force=False)
    assert note_eval_sets(workdir, others, force=True).keys() == {"lfw"}
