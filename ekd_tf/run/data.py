"""The images of a run: opened, compared with those it was started with, and split.

A folder changes while a run lasts. What `run.json` records tells whether it has, and
names the identities that were held out, so that nobody is evaluated on whom the run
was trained on.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from ekd_tf import checks
from ekd_tf import data
from ekd_tf.data.unreadable import Unreadable
from ekd_tf.run import factory
from ekd_tf.run.config import TrainConfig
from ekd_tf.run.workdir import Workdir


def open_run_data(
    config: TrainConfig,
    workdir: Workdir | None,
    unreadable: Unreadable | None = None,
    force: bool = False,
    cache_dir: str | os.PathLike | None = None,
) -> tuple[data.Source, data.Source | None, dict[str, Any]]:
    """Opens the images of a run that is new or, with a workdir, may have been started.

    Returns those to train on, those held out, and what the run's record keeps of both.
    `unreadable` and `cache_dir` are as for `factory.make_source`. With `force` images
    that have changed are taken: identities the run has not known are left out, and held
    out are those it has, if they are there.
    """
    if config.heldout_data and config.holdout_identities:
        raise ValueError(
            "Give `--heldout_data` or `--holdout_identities`, not both. Received: "
            f"{config.heldout_data!r} and {config.holdout_identities}"
        )
    sources = {
        name: factory.make_source(spec, cache_dir, unreadable)
        for name in ("data", "heldout_data")
        if (spec := getattr(config, name))
    }
    train, heldout = sources["data"], sources.get("heldout_data")
    recorded = _recorded(config, workdir, sources)
    if recorded is not None:
        _check_same(recorded, sources, workdir, force)
        train, heldout = _split_as_recorded(recorded, sources)
    elif config.holdout_identities:
        with checks.flag_words(holdout="holdout_identities"):
            train, heldout = data.split_identities(
                train, config.holdout_identities, config.seed
            )
    return train, heldout, _note(sources, train, heldout)


def note_eval_sets(
    workdir: Workdir | None, evaluations: Sequence[Any], force: bool
) -> dict[str, str]:
    """Returns fingerprints of `--eval_sets` by name; refuses one that has changed."""
    now = {
        evaluation.name: hashlib.sha256(evaluation.fingerprint.encode()).hexdigest()
        for evaluation in evaluations
        if evaluation.name != "heldout"
    }
    was: dict[str, str] = {}
    if workdir is not None and workdir.run_file.exists():
        was = (workdir.read_data() or {}).get("eval_sets", {})
    changed = [name for name in now if was.get(name, now[name]) != now[name]]
    if changed and not force:
        raise ValueError(
            f"the data has changed: `--eval_sets={changed[0]}:...` holds other images "
            "than when the run was started, and figures before and after could not be "
            "compared. Put it back as it was, or give --force_data"
        )
    return now


def sources_of_run(
    path: str | os.PathLike, unreadable: Unreadable | None = None, force: bool = False
) -> tuple[data.Source, data.Source | None]:
    """Opens the images a run was trained on and those it held out, or None.

    `force` takes images that have changed since.
    """
    workdir = Workdir(path, create=False)
    config = TrainConfig.from_record(workdir.read_run()["flags"])
    unreadable = unreadable or Unreadable(config.skip_corrupt)
    return open_run_data(config, workdir, unreadable, force, cache_dir=path)[:2]


def flags_of_run(path: str | os.PathLike) -> dict[str, Any] | None:
    """Returns the flags of the run in a workdir, or None where there is none."""
    if not (pathlib.Path(path) / "run.json").is_file():
        return None
    return Workdir(path, create=False).read_run()["flags"]


def unreadable_of(model: str | os.PathLike, allowed: int | None) -> Unreadable:
    """Returns a count of unreadable images; by default the run's own limit, or none."""
    if allowed is None:
        allowed = (flags_of_run(model) or {}).get("skip_corrupt", 0)
    return Unreadable(allowed)


def _recorded(config, workdir, sources):
    """Returns the note of an earlier start with the same images, or None."""
    if workdir is None or not workdir.run_file.exists():
        return None
    flags = workdir.read_run()["flags"]
    # Images moved to another place are still those of the run; another number to hold
    # out, or a set of its own to do so, is not.
    if flags.get("holdout_identities") != config.holdout_identities:
        return None
    if bool(flags.get("heldout_data")) != bool(config.heldout_data):
        return None
    note = workdir.read_data()
    if note is None:
        return None
    for name, source in sources.items():
        known = note["identities"][name].keys()
        # Another flag was forced, and what it names is the run's from now on.
        is_other = flags.get(name) != getattr(config, name)
        if is_other and known.isdisjoint(source.identity_names()):
            return None
    return note


def _note(sources, train, heldout):
    known = {"data": _counts(train)}
    if heldout is not None:
        name = "heldout_data" if "heldout_data" in sources else "data"
        known[name] = {**known.get(name, {}), **_counts(heldout)}
    return {
        "sources": {
            name: {
                "name": source.name,
                "fingerprint": source.fingerprint,
                "images": len(source),
                "identities": source.num_identities,
            }
            for name, source in sources.items()
        },
        "heldout_identities": [] if heldout is None else heldout.identity_names(),
        "identities": known,
    }


def _counts(source):
    """Returns name of the identity -> number of images."""
    counts = np.bincount(source.labels, minlength=source.num_identities).tolist()
    return dict(zip(source.identity_names(), counts))


def _check_same(recorded, sources, workdir, force):
    changed = []
    for name, source in sources.items():
        if source.fingerprint == recorded["sources"][name]["fingerprint"]:
            continue
        was, now = recorded["identities"][name], _counts(source)
        more = sum(max(0, count - was.get(key, 0)) for key, count in now.items())
        less = sum(max(0, count - now.get(key, 0)) for key, count in was.items())
        others = "" if more + less else ", but others behind the same names"
        changed.append(
            f"the data has changed: {len(now.keys() - was.keys())} identities added, "
            f"{len(was.keys() - now.keys())} gone; {more} images added, {less} gone"
            f"{others} in {source.name} since the run in {workdir.path} was started"
        )
    if changed and not force:
        raise ValueError(
            f"{'; '.join(changed)}. Put it back as it was, or give --force_data to "
            "take it as it is"
        )
    moved = ""
    if any(name.isdecimal() for name in recorded["heldout_identities"]):
        moved = (
            " Its identities are numbers: where these have moved, the people held out "
            "are others, who may have been trained on."
        )
    for text in changed:
        logging.warning("%s.%s", text, moved)


def _split_as_recorded(recorded, sources):
    known = recorded["identities"]
    if "heldout_data" in sources:
        return tuple(_select(sources[name], known[name]) for name in sources)
    held, source = set(recorded["heldout_identities"]), sources["data"]
    train = _select(source, known["data"].keys() - held)
    return train, _select(source, held) if held else None


def _select(source, names):
    """Returns the identities of these names, in the source's order."""
    labels = [n for n, name in enumerate(source.identity_names()) if name in names]
    if not labels:
        raise ValueError(
            f"{source.name} holds none of the {len(names)} identities it had"
        )
    if len(labels) == source.num_identities:
        return source
    return data.Subset(source, labels)
