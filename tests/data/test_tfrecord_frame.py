"""TFRecord frames read by position, against TensorFlow's own writer and reader."""

import pytest
import tensorflow as tf

from ekd_tf.data.sources import tfrecord_frame as tf_record
from ekd_tf.data.sources.tfrecord_frame import masked_crc32c
from ekd_tf.data.sources.tfrecord_frame import read_example
from ekd_tf.data.sources.tfrecord_frame import record_offsets
from ekd_tf.files.positioned import PositionedFile


def example(**features):
    def feature(value):
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        values = value if isinstance(value, list) else [value]
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))

    features = {name: feature(value) for name, value in features.items()}
    message = tf.train.Example(features=tf.train.Features(feature=features))
    return message.SerializeToString(deterministic=True)


def wrap(tag, data):
    """A field of bytes of protobuf, shorter than 2^14."""
    length = len(data)
    size = [length] if length < 128 else [length & 127 | 128, length >> 7]
    return bytes([tag, *size]) + data


def entry(name, feature):
    """An entry of the map of features."""
    return wrap(0x0A, wrap(0x0A, name) + wrap(0x12, feature))


def image_entry(image):
    return entry(b"image", wrap(0x0A, wrap(0x0A, image)))


@pytest.fixture
def put(tmp_path):
    """Writes records with TensorFlow, cut after `keep` bytes; gives their offsets."""

    def put(*records, keep=None):
        path = tmp_path / "a.tfrecord"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in records:
                writer.write(record)
        path.write_bytes(path.read_bytes()[:keep])
        offsets = [0]
        for record in records:
            offsets.append(offsets[-1] + 8 + 4 + len(record) + 4)
        return PositionedFile(path), offsets[:-1]

    return put


def test_checksum_of_a_known_vector():
    # CRC-32C of "123456789" is 0xe3069283 (RFC 3720, appendix of iSCSI's polynomial);
    # rotated right by 15 bits: 0x2507c60d; plus 0xa282ead8, modulo 2^32.
    assert masked_crc32c(b"123456789") == (0x2507C60D + 0xA282EAD8) & 0xFFFFFFFF


def test_reads_what_tensorflow_wrote_in_any_order(put, rng):
    images = [rng.bytes(n) for n in (0, 5, 8_180, 100_000)]
    records = [example(image=image, label=k) for k, image in enumerate(images)]
    file, offsets = put(*records, example(image=b"x"))
    for k in (3, 0, 2, 1):
        assert read_example(file, offsets[k]) == (images[k], k)
    assert read_example(file, offsets[4]) == (b"x", None)
    assert record_offsets(file, 5) == offsets


LENGTHS = (0, 1, 100, 127, 128, 5_000, 16_383, 16_384, 70_000)


@pytest.mark.parametrize("size", [12, 100, 8_192, 100_000])
@pytest.mark.parametrize("label", [0, 127, 128, 2**24 - 1, None])
def test_examples_as_ours_need_no_protobuf(put, rng, monkeypatch, label, size):
    labels = {} if label is None else {"label": label}
    images = [rng.bytes(n) for n in LENGTHS]
    records = [example(image=image, **labels) for image in images]
    if label == 127:
        images.append(b"x" * 300)
        # The map in another order.
        entries = entry(b"label", b"\x1a\x03\x0a\x01\x7f") + image_entry(images[-1])
        records.append(wrap(0x0A, entries))
    file, offsets = put(*records)

    def refuse(_):
        raise AssertionError("protobuf is asked")

    monkeypatch.setattr(tf_record.tf.train.Example, "FromString", refuse)
    for image, offset in zip(images, offsets):
        assert read_example(file, offset, size) == (image, label)


def test_examples_of_another_make_are_read_by_protobuf(put, rng):
    image = rng.bytes(300)
    first = entry(b"label", b"\x1a\x03\x0a\x01\x06")
    others = [
        example(image=image, label=-3),
        example(image=image, label=2**60),
        example(image=image, label=7, name=b"anna"),
        example(a=b"first", image=image, label=7),
        # A number that is not packed, and a label twice.
        wrap(0x0A, image_entry(image) + entry(b"label", b"\x1a\x02\x08\x07")),
        wrap(
            0x0A, first + image_entry(image) + entry(b"label", b"\x1a\x03\x0a\x01\x07")
        ),
    ]
    file, offsets = put(*others)
    found = [read_example(file, offset) for offset in offsets]
    assert found == [(image, label) for label in (-3, 2**60, 7, 7, 7, 7)]


def test_what_contradicts_the_lengths_of_an_example_is_damage(put, rng, tmp_path):
    image = b"\xff" * 300
    file, _ = put(example(image=image, label=5))
    content = (tmp_path / "a.tfrecord").read_bytes()
    start = content.index(image)
    # The two bytes of the image's length, and the tag behind the image.
    for at in (start - 2, start - 1, start + 300):
        spoilt = bytearray(content)
        spoilt[at] ^= 1
        (tmp_path / "a.tfrecord").write_bytes(spoilt)
        file = PositionedFile(tmp_path / "a.tfrecord")
        with pytest.raises(ValueError, match="offset 0: it is no tf.train.Example"):
            read_example(file, 0)


@pytest.mark.parametrize(
    "record",
    [b"\xff\xff\xff", example(label=3), example(image=[b"a", b"b"]), example(image=3)],
    ids=["no message", "no image", "two images", "an integer"],
)
def test_other_messages_are_refused(put, record):
    file, _ = put(record)
    words = r"a\.tfrecord: record at offset 0: it is no tf\.train\.Example with one"
    with pytest.raises(ValueError, match=words):
        read_example(file, 0)


def test_damage_is_named_with_file_and_offset(put):
    records = [example(image=b"abc" * 50)] * 3
    size = len(records[0]) + 16
    file, offsets = put(*records, keep=2 * size + 100)
    assert read_example(file, size)[0] == b"abc" * 50
    words = f"record at offset {2 * size}: it has {size - 16} bytes and the file ends"
    with pytest.raises(ValueError, match=words):
        read_example(file, offsets[2])
    with pytest.raises(ValueError, match="the checksum of its length is wrong"):
        read_example(file, 3)
    with pytest.raises(ValueError, match="the file ends before its length"):
        read_example(file, 10_000)
    with pytest.raises(ValueError, match="holds 3 records .* not 3. Delete it and"):
        record_offsets(file, 3)
    file, _ = put(*records, keep=2 * size + 5)
    with pytest.raises(ValueError, match="the file ends before its length"):
        record_offsets(file, 3)
    file, _ = put(*records)
    with pytest.raises(ValueError, match="holds 3 records to .*, not 2"):
        record_offsets(file, 2)


def test_a_file_cut_while_in_use_is_said(put, tmp_path):
    file, _ = put(example(image=b"abc"))
    (tmp_path / "a.tfrecord").write_bytes(b"")
    with pytest.raises(ValueError, match="the file has changed since its index was"):
        read_example(file, 0)
