"""Converts a training set to another format, or looks at every image of one.

    python tools/convert_dataset.py --data=folder:faces --verify --list=bad.tsv
    python tools/convert_dataset.py --data=folder:faces --drop=bad.tsv \\
        --to=recordio --output=faces_rec

Encoded images keep their bytes; synthetic faces become PNG. The set is written to
OUTPUT.partial, which becomes OUTPUT when it is whole: the same command continues where
an interrupted one stopped.

A verification set is made of a list of pairs and a folder of aligned images:

    python tools/convert_dataset.py --pairs=pairs.txt --data=folder:lfw_aligned \\
        --to=pairs --output=lfw.bin
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import pathlib
import sys

from ekd_tf.files.outputs import check_file
from ekd_tf.files.outputs import make_folder
from ekd_tf.run import command
from ekd_tf.run.settings import Needs
from ekd_tf.run.settings import setting

_CONVERTS = Needs(
    "--to=recordio, tfrecord or webdataset",
    lambda settings: settings.to not in (None, "pairs"),
)
_VERIFIES = Needs("--verify", lambda settings: settings.verify)
_LISTS = Needs(
    "--verify, --overlap or --outliers",
    lambda settings: settings.verify or settings.overlap or settings.outliers,
)


@dataclasses.dataclass(frozen=True)
class ConvertSettings:
    """The flags of the tool."""

    data: str | None = setting(None, "Images, as --data of ekd_tf.train.")
    to: str | None = setting(
        None,
        "Format to convert to.",
        choices=("recordio", "tfrecord", "webdataset", "pairs"),
    )
    output: str | None = setting(
        None,
        "Folder (or .bin file, for pairs) to make.",
        needs=Needs("--to", lambda settings: settings.to is not None),
    )
    shard_size: int = setting(
        10_000,
        "Images in a file of a TFRecord set or of a WebDataset.",
        low=1,
        needs=Needs(
            "--to=tfrecord or webdataset",
            lambda settings: settings.to in ("tfrecord", "webdataset"),
        ),
    )
    drop: str | None = setting(None, "List of images to leave out.", needs=_CONVERTS)
    merge: str | None = setting(
        None,
        "List of --overlap: gives images to the identity they are said to be of.",
        needs=_CONVERTS,
    )
    pairs: str | None = setting(None, "List like LFW's pairs.txt, for --to=pairs.")
    suffix: str = setting(
        ".jpg",
        "Of image files, for --to=pairs.",
        needs=Needs("--to=pairs", lambda settings: settings.to == "pairs"),
    )
    verify: bool = setting(False, "Decode every image and list bad ones.")
    overlap: bool = setting(
        False, "List the images of identities that may be another one, by --teacher."
    )
    outliers: bool = setting(
        False,
        "List the images that are no more like their identity than a stranger's, by "
        "--teacher, and draw the first beside images of the identity.",
    )
    teacher: str | None = setting(
        None,
        "cache:DIR of ekd_tf.embed_teacher, of the images of --data.",
        needs=Needs(
            "--overlap or --outliers",
            lambda settings: settings.overlap or settings.outliers,
        ),
    )
    list: str = setting("drop.tsv", "Where the list is written.", needs=_LISTS)
    min_images: int = setting(
        2,
        "--verify lists identities with fewer images.",
        low=1,
        needs=_VERIFIES,
    )


PLAN_FILE = "conversion.json"
CHUNK = 256


def verify(source, path, min_images):
    """Looks at every image, writes the list and prints what it holds."""
    from dataset_inspection import inspect_images
    from dataset_inspection import write_list

    from ekd_tf.run.progress import begin_line

    done = begin_line(source.name, len(source), "images")
    findings, turned = inspect_images(source, min_images, done)
    write_list(path, source, findings)
    counts = collections.Counter(finding.reason for finding in findings)
    dropped = len({finding.index for finding in findings})
    print(
        f"{len(source):,} images of {source.num_identities:,} identities, "
        f"{dropped:,} of them listed in {path}"
    )
    for reason, count in counts.items():
        print(f"  {count:,} {reason}")
    if turned:
        print(f"{turned:,} have an EXIF orientation and are read upright")
    if dropped:
        print(f"Take out the lines of images to keep, then convert with --drop={path}")
    if source.left_out:
        print(
            f"{len(source.left_out):,} records cannot be read, whose person is not "
            f"known, and are left out of every use; comments in {path} name them"
        )


def look_at_people(source, teacher, path, outliers):
    """Writes the list of overlapping identities, or of outliers, and its length."""
    from dataset_inspection import write_list
    from dataset_people import draw_sheet
    from dataset_people import find_outliers
    from dataset_people import find_overlap

    from ekd_tf.embedders import TeacherCache

    find = find_outliers if outliers else find_overlap
    findings, least = find(source, TeacherCache(teacher.removeprefix("cache:")))
    write_list(path, source, findings)
    if outliers:
        print(
            f"{len(findings):,} of {len(source):,} images have a cosine below "
            f"{least:.3f} with their identity, which one in 1,000 of strangers' reaches"
        )
        if findings:
            sheet = pathlib.Path(path).with_suffix(".png")
            draw_sheet(source, findings, sheet)
            print(f"Look at {sheet}: each row an outlier, then others of its identity")
    else:
        pairs = len({finding.detail for finding in findings})
        print(
            f"{pairs:,} of {source.num_identities:,} identities may be another one: a "
            f"cosine of {least:.3f} or more, as 95 % of halves of one identity have"
        )
    if findings:
        merge = "" if outliers else f", or --merge={path} to make one of two"
        print(f"In {path}: take out lines of images to keep, then --drop={path}{merge}")


def encoded(source, indices):
    """Reads images as files: drawn ones as PNG."""
    from PIL import Image

    try:
        images = source.read(indices)
    except ValueError as error:
        raise ValueError(
            f"{error}. To leave damaged images out, list them by --verify and give the "
            "list as --drop"
        ) from None
    if source.encoded:
        return images
    files = []
    for pixels in images:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format="PNG")
        files.append(file.getvalue())
    return files


def convert(source, to, out, shard_size=10_000, drop=None, merge=None):
    """Writes the images of `source`, but those of the list `drop`, to the folder `out`.

    Returns how many there are, and how many of them an earlier try had written.
    """
    import numpy as np
    from dataset_inspection import read_list
    from dataset_people import merged_labels
    from dataset_writers import RecordIOWriter
    from dataset_writers import TFRecordWriter
    from dataset_writers import WebDatasetWriter

    from ekd_tf.data.image_pixels import read_image
    from ekd_tf.data.source import number_identities
    from ekd_tf.run.progress import begin_line

    kept = np.arange(len(source))
    if drop:
        kept = np.delete(kept, [index for index, _ in read_list(drop, source)])
        if not len(kept):
            raise ValueError(f"{drop} leaves no image of {source.name}")
    source_labels = source.labels
    if merge:
        source_labels = merged_labels(source_labels, read_list(merge, source))
    labels, people = number_identities(source_labels[kept])
    if to == "recordio":
        order = np.argsort(labels, kind="stable")
        kept, labels = kept[order], labels[order]
    out = pathlib.Path(out)
    partial = out.with_name(out.name + ".partial")
    plan = {
        "source": source.fingerprint,
        "images": hashlib.sha256(kept.astype("<i8").tobytes()).hexdigest(),
        "labels": hashlib.sha256(labels.astype("<i4").tobytes()).hexdigest(),
        "to": to,
        "shard_size": None if to == "recordio" else shard_size,
    }
    with open_partial(partial, plan):
        if to == "recordio":
            names = source.identity_names()
            writer = RecordIOWriter(partial, labels, [names[k] for k in people])
        else:
            if source.identities is not None:
                print("Names of people are left out: --to=recordio alone keeps them")
            kind = TFRecordWriter if to == "tfrecord" else WebDatasetWriter
            writer = kind(partial, labels, shard_size)
        first = encoded(source, kept[:1])[0]
        try:
            size = read_image(first).shape[:2]
        except ValueError as error:
            raise ValueError(f"{source.describe(int(kept[0]))}: {error}") from None
        done = writer.count
        progress = begin_line(str(out), len(kept) - done, "images")
        with contextlib.closing(writer):
            for start in range(done, len(kept), CHUNK):
                for image in encoded(source, kept[start : start + CHUNK]):
                    writer.add(image)
                progress(min(CHUNK, len(kept) - start))
            writer.finish(size)
        # In this order: a folder without its plan could not be continued.
        os.replace(partial, out)
        (out / PLAN_FILE).unlink()
    return len(kept), done


@contextlib.contextmanager
def open_partial(partial, plan):
    """Holds the folder to write to, which is new or has a try of this plan."""
    from ekd_tf.files.atomic import write_text
    from ekd_tf.files.lock import hold
    from ekd_tf.files.outputs import naming_unwritable

    path = partial / PLAN_FILE
    begun = list(partial.iterdir()) if partial.exists() else []
    # A plan that was not written whole counts as none.
    if not begun or begun == [path.with_name(path.name + ".tmp")]:
        partial.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(plan))
    elif not path.exists() or json.loads(path.read_text()) != plan:
        raise ValueError(
            f"{partial} holds the unfinished conversion of something else. Finish "
            "that one, choose another --output, or delete it"
        )
    # NFS locks nothing that is open for reading alone.
    with open(path, "rb+") as file:
        hold(file, str(partial), "Wait for it to end, or choose another --output")
        way_out = "Mend the cause, and the same command goes on"
        with naming_unwritable(partial, lambda: way_out):
            yield


def make_pairs(settings):
    """Writes a verification set of a list of pairs."""
    from dataset_pairs import pairs_from_list
    from dataset_pairs import write_pairs

    check_file("output", settings.output)
    kind, _, folder = settings.data.partition(":")
    if kind != "folder":
        raise ValueError(
            f"`--to=pairs` takes --data=folder:DIR. Received: {settings.data}"
        )
    images, issame = pairs_from_list(settings.pairs, folder, settings.suffix)
    write_pairs(settings.output, images, issame)
    print(f"Wrote {len(issame):,} pairs to {settings.output}")


def main(settings):
    """Does what the flags say."""
    looks = [name for name in ("verify", "overlap", "outliers") if vars(settings)[name]]
    if settings.to is None and not looks:
        raise ValueError("Give --verify, --overlap, --outliers, or --to and --output")
    if len(looks) > 1:
        raise ValueError(f"Give one of --{' and --'.join(looks)}: each writes a --list")
    is_cache = (settings.teacher or "").startswith("cache:")
    if (settings.overlap or settings.outliers) and not is_cache:
        raise ValueError(
            "--overlap and --outliers read the embeddings of a teacher: give "
            "--teacher=cache:DIR, which python -m ekd_tf.embed_teacher "
            f"--teacher=MODEL --data={settings.data} --output=DIR writes"
        )
    if settings.to and not settings.output:
        raise ValueError(f"`--to={settings.to}` needs --output")
    if (settings.to == "pairs") != bool(settings.pairs):
        raise ValueError("`--pairs` and `--to=pairs` go together")
    if settings.to == "pairs":
        make_pairs(settings)
        return
    if settings.to:
        out = pathlib.Path(settings.output)
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ValueError(f"{out} exists. Choose another --output or delete it")
        make_folder("output", out.parent)
    if looks:
        check_file("list", settings.list)
    from ekd_tf.data.unreadable import Unreadable
    from ekd_tf.run import factory

    # Damaged records are listed by --verify and left out by --drop, so none of them
    # keeps the set from being opened.
    source = factory.make_source(settings.data, unreadable=Unreadable(sys.maxsize))
    if settings.verify:
        verify(source, settings.list, settings.min_images)
    if settings.overlap or settings.outliers:
        look_at_people(source, settings.teacher, settings.list, settings.outliers)
    if settings.to:
        count, done = convert(
            source,
            settings.to,
            settings.output,
            settings.shard_size,
            settings.drop,
            settings.merge,
        )
        resumed = f", {done:,} of them by an earlier try" if done else ""
        print(f"Wrote {count:,} images to {settings.to}:{settings.output}{resumed}")


if __name__ == "__main__":
    command.run(
        main,
        "convert_dataset",
        ConvertSettings,
        required=["data"],
        # Looking at images starts from the first one again.
        resumes=lambda settings: bool(settings.to),
    )
