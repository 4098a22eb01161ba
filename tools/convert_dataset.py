"""Converts a training set to another format, or looks at every image of one.

    python tools/convert_dataset.py --data=folder:faces --verify --list=bad.tsv
    python tools/convert_dataset.py --data=folder:faces --drop=bad.tsv \\
        --to=recordio --out=faces_rec

`--data` takes whatever `ekd_tf.train --data` takes. Encoded images keep their bytes;
drawn faces become PNG. The set is written to OUT.partial, which becomes OUT when it is
whole: the same command goes on where an interrupted one stopped.

A verification set is made of a list of pairs and a folder of aligned images:

    python tools/convert_dataset.py --pairs=pairs.txt --data=folder:lfw_aligned \\
        --to=pairs --out=lfw.bin
"""

import collections
import contextlib
import hashlib
import io
import json
import os
import pathlib
import sys

from absl import app
from absl import flags

from ekd_tf.files.outputs import check_file
from ekd_tf.files.outputs import make_folder
from ekd_tf.run import command
from ekd_tf.run.effects import Needs

DATA = flags.DEFINE_string("data", None, "Images, as --data of ekd_tf.train.")
TO = flags.DEFINE_enum(
    "to", None, ["tfrecord", "recordio", "pairs"], "Format to convert to."
)
OUT = flags.DEFINE_string("out", None, "Folder (or .bin file, for pairs) to make.")
SHARDS = flags.DEFINE_integer("shards", 16, "Files of a TFRecord set.", 1)
DROP = flags.DEFINE_string("drop", None, "List of images to leave out.")
PAIRS = flags.DEFINE_string("pairs", None, "List like LFW's pairs.txt, for --to=pairs.")
SUFFIX = flags.DEFINE_string("suffix", ".jpg", "Of image files, for --to=pairs.")
VERIFY = flags.DEFINE_bool("verify", False, "Decode every image and list bad ones.")
LIST = flags.DEFINE_string("list", "drop.tsv", "Where --verify writes its list.")
MIN_IMAGES = flags.DEFINE_integer(
    "min_images", 2, "--verify lists identities with fewer images.", 1
)

_EFFECTS = (
    Needs("list min_images", "--verify", lambda v: v["verify"]),
    Needs("out", "--to", lambda v: v["to"] is not None),
    Needs("shards", "--to=tfrecord", lambda v: v["to"] == "tfrecord"),
    Needs(
        "drop",
        "--to=tfrecord or recordio",
        lambda v: v["to"] in ("tfrecord", "recordio"),
    ),
    Needs("suffix", "--to=pairs", lambda v: v["to"] == "pairs"),
)
PLAN_FILE = "conversion.json"
CHUNK = 256


def verify(source, path, min_images):
    """Looks at every image, writes the list and prints what it holds."""
    from dataset_inspection import inspect_images
    from dataset_inspection import write_list

    from ekd_tf.files.atomic import write_aside
    from ekd_tf.run.progress import ProgressLine

    with contextlib.closing(ProgressLine(chunks(len(source)))) as line:
        seen = inspect_images(source, min_images, progress=line.update)
    findings = seen.findings
    write_aside(pathlib.Path(path), lambda file: write_list(file, source, findings))
    counts = collections.Counter(finding.reason for finding in findings)
    dropped = len({finding.index for finding in findings})
    print(
        f"{len(source):,} images of {source.num_identities:,} identities, "
        f"{dropped:,} of them listed in {path}"
    )
    for reason, count in counts.items():
        print(f"  {count:,} {reason}")
    if seen.turned:
        print(f"{seen.turned:,} have an EXIF orientation and are read upright")
    if dropped:
        print(f"Take out the lines of images to keep, then convert with --drop={path}")


def chunks(count):
    return -(-count // CHUNK)


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


def convert(source, to, out, shards=16, drop=None, stream=None):
    """Writes the images of `source`, but those of the list `drop`, to the folder `out`.

    Raises:
        ValueError: `out` is taken, an earlier try was of something else, the list is
            of something else, or an image cannot be read.
        OSError: Something cannot be written.
    """
    import numpy as np
    from dataset_inspection import read_list
    from dataset_writers import RecordIOWriter
    from dataset_writers import TFRecordWriter

    from ekd_tf.data.image_pixels import read_image
    from ekd_tf.data.source import number_identities
    from ekd_tf.run.progress import ProgressLine

    kept = np.arange(len(source))
    if drop:
        kept = np.delete(kept, read_list(drop, source))
        if not len(kept):
            raise ValueError(f"{drop} leaves no image of {source.name}")
    labels, _ = number_identities(source.labels[kept])
    if to == "recordio":
        order = np.argsort(labels, kind="stable")
        kept, labels = kept[order], labels[order]
    out = pathlib.Path(out)
    partial = out.with_name(out.name + ".partial")
    plan = {
        "source": source.fingerprint,
        "images": hashlib.sha256(kept.astype("<i8").tobytes()).hexdigest(),
        "to": to,
        "shards": shards if to == "tfrecord" else None,
    }
    open_partial(out, partial, plan)
    if to == "recordio":
        writer = RecordIOWriter(partial, labels)
    else:
        writer = TFRecordWriter(partial, labels, shards)
    first = encoded(source, kept[:1])[0]
    try:
        size = read_image(first).shape[:2]
    except ValueError as error:
        raise ValueError(f"{source.describe(int(kept[0]))}: {error}") from None
    done = writer.count
    left = chunks(len(kept) - done)
    progress = None
    with contextlib.closing(writer):
        if left:
            progress = ProgressLine(left, stream=stream)
        for start in range(done, len(kept), CHUNK):
            for image in encoded(source, kept[start : start + CHUNK]):
                writer.add(image)
            progress.update(min(CHUNK, len(kept) - start))
        if progress:
            progress.close()
        writer.finish(size)
    (partial / PLAN_FILE).unlink()
    os.replace(partial, out)
    return len(kept), done


def check_free(out):
    """Raises `ValueError` where something would be overwritten."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists. Choose another --out or delete it")


def open_partial(out, partial, plan):
    """Makes the folder to write to, or makes sure that it holds a try of this plan."""
    from ekd_tf.files.atomic import write_aside

    check_free(out)
    path = partial / PLAN_FILE
    if partial.exists() and any(partial.iterdir()):
        if not path.exists() or json.loads(path.read_text()) != plan:
            raise ValueError(
                f"{partial} holds the unfinished conversion of something else. Finish "
                "that one, choose another --out, or delete it"
            )
        return
    partial.mkdir(parents=True, exist_ok=True)
    write_aside(path, lambda file: file.write(json.dumps(plan).encode()))


def make_pairs(list_path, spec, out, suffix):
    """Writes a verification set of a list of pairs."""
    from dataset_pairs import pairs_from_list
    from dataset_pairs import write_pairs

    kind, _, folder = spec.partition(":")
    if kind != "folder":
        raise ValueError(f"`--to=pairs` takes --data=folder:DIR. Received: {spec}")
    pairs = pairs_from_list(list_path, folder, suffix)
    write_pairs(out, pairs)
    return pairs


def run():
    """Does what the flags say; returns what to print."""
    if TO.value is None and not VERIFY.value:
        raise ValueError("Give --verify, or --to and --out")
    if TO.value and not OUT.value:
        raise ValueError(f"`--to={TO.value}` needs --out")
    if (TO.value == "pairs") != bool(PAIRS.value):
        raise ValueError("`--pairs` and `--to=pairs` go together")
    if TO.value == "pairs":
        check_file("out", OUT.value)
        pairs = make_pairs(PAIRS.value, DATA.value, OUT.value, SUFFIX.value)
        print(f"Wrote {len(pairs.issame):,} pairs to {OUT.value}")
        return
    if TO.value:
        out = pathlib.Path(OUT.value)
        check_free(out)
        make_folder("out", out.parent)
    if VERIFY.value:
        check_file("list", LIST.value)
    from ekd_tf.data.unreadable import Unreadable
    from ekd_tf.run import factory

    # Damaged records are listed by --verify and left out by --drop, so none of them
    # keeps the set from being opened.
    source = factory.make_source(DATA.value, unreadable=Unreadable(sys.maxsize))
    if VERIFY.value:
        verify(source, LIST.value, MIN_IMAGES.value)
    if TO.value:
        count, done = convert(source, TO.value, OUT.value, SHARDS.value, DROP.value)
        resumed = f", {done:,} of them by an earlier try" if done else ""
        print(f"Wrote {count:,} images to {TO.value}:{OUT.value}{resumed}")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    try:
        command.check_effects(sys.modules[__name__], _EFFECTS)
        run()
    except ValueError as error:
        sys.exit(f"convert_dataset: {error}")
    except OSError as error:
        sys.exit(
            f"convert_dataset: {error}. Mend that and give the same command again: it "
            "goes on where it stopped"
        )


if __name__ == "__main__":
    # Looking at images starts from the first one again.
    command.run(main, "convert_dataset", ["data"], resumes=lambda: bool(TO.value))
