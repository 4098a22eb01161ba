"""Small data sets written from their formats' definitions, independent of ours."""

import itertools
import struct

import tensorflow as tf


def put(path, content=b"x"):
    """Writes a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


# --- RecordIO ------------------------------------------------------------------


def part(cflag, data):
    """One part as the format's definition says."""
    word = cflag << 29 | len(data)
    return struct.pack("<II", 0xCED7230A, word) + data + b"\0" * (-len(data) % 4)


def record(label, image, key=0, labels=()):
    """One record in one part: `label` in the header, `labels` behind it."""
    data = struct.pack("<IfQQ", len(labels), label, key, 0)
    return part(0, data + struct.pack(f"<{len(labels)}f", *labels) + image)


def write(root, entries, name="train"):
    """Writes `(key, record)` entries in this order; returns their offsets."""
    root.mkdir(parents=True, exist_ok=True)
    offsets = _starts(len(data) for _, data in entries)
    lines = [f"{key}\t{at}\n" for (key, _), at in zip(entries, offsets)]
    (root / f"{name}.rec").write_bytes(b"".join(data for _, data in entries))
    (root / f"{name}.idx").write_text("".join(lines))
    return offsets


def _starts(sizes):
    return [0, *itertools.accumulate(sizes)][:-1]


def insightface(images, header=True):
    """Entries as insightface lays out `[(label, image), ...]`, grouped by label."""
    entries = [
        (key, record(label, image, key))
        for key, (label, image) in enumerate(images, start=1)
    ]
    if not header:
        return entries
    count = len(images)
    classes = sorted({label for label, _ in images})
    for k, wanted in enumerate(classes):
        keys = [key for key, (label, _) in enumerate(images, 1) if label == wanted]
        span = (keys[0], keys[-1] + 1)
        entries.append((count + 1 + k, record(0, b"", count + 1 + k, span)))
    span = (count + 1, count + 1 + len(classes))
    return [*entries, (0, record(0, b"", 0, span))]


# --- TFRecord and TFace --------------------------------------------------------


def example(**features):
    """The bytes of a `tf.train.Example`; a list is that of one feature's values."""
    message = tf.train.Example()
    for name, value in features.items():
        values = value if isinstance(value, list) else [value]
        feature = message.features.feature[name]
        kind = feature.int64_list if isinstance(values[0], int) else feature.bytes_list
        kind.value.extend(values)
    return message.SerializeToString(deterministic=True)


def write_examples(path, examples):
    """Writes records with TensorFlow; returns their offsets."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for data in examples:
            writer.write(data)
    # Around each stand a length and two checksums.
    return _starts(8 + 4 + len(data) + 4 for data in examples)
