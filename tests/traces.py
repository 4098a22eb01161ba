"""Reads what TensorFlow writes for TensorBoard: events, and traces of its profiler."""

import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2


def events_in(path):
    """Returns the events of a file."""
    records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    return [tf.compat.v1.Event.FromString(record) for record in records]


def steps_in(path):
    """Returns the numbers of the training steps marked in an .xplane.pb, rising."""
    numbers = []
    for plane in xplane_pb2.XSpace.FromString(path.read_bytes()).planes:
        names = {key: value.name for key, value in plane.event_metadata.items()}
        kinds = {key: value.name for key, value in plane.stat_metadata.items()}
        for event in (event for line in plane.lines for event in line.events):
            if names[event.metadata_id] == "train":
                numbers += [
                    stat.int64_value or stat.uint64_value
                    for stat in event.stats
                    if kinds[stat.metadata_id] == "step_num"
                ]
    return sorted(numbers)
