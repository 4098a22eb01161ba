import numpy as np
import tensorflow as tf

from ekd_tf.heads.sampling import num_sampled
from ekd_tf.heads.sampling import sample_classes

LABELS = tf.constant([7, 2, 7, 19])


def sample(count, seed=(0, 0), labels=LABELS, num_identities=20):
    return sample_classes(labels, num_identities, count, tf.constant(seed))


def test_number_of_classes_computed_by_hand():
    assert num_sampled(1000, 0.1, 32) == 100
    assert num_sampled(1000, 0.0001, 32) == 32
    assert num_sampled(1001, 0.1, 32) == 101
    assert num_sampled(20, 0.5, 32) == 20


def test_every_label_is_found_at_its_position(run_as):
    classes, positions = run_as(lambda: sample(6))()
    np.testing.assert_array_equal(tf.gather(classes, positions), LABELS)
    assert len(np.unique(classes)) == 6 and np.all(np.diff(classes) > 0)
    assert np.min(classes) >= 0 and np.max(classes) < 20


def test_labels_alone_where_there_is_no_room_for_others():
    classes, positions = sample(3)
    np.testing.assert_array_equal(classes, [2, 7, 19])
    np.testing.assert_array_equal(positions, [1, 0, 1, 2])


def test_all_classes_keep_their_labels():
    classes, positions = sample(20)
    np.testing.assert_array_equal(classes, np.arange(20))
    np.testing.assert_array_equal(positions, LABELS)


def test_a_function_of_the_seed():
    np.testing.assert_array_equal(sample(8, (3, 5))[0], sample(8, (3, 5))[0])
    for other in ((3, 6), (4, 5)):
        assert not np.array_equal(sample(8, (3, 5))[0], sample(8, other)[0])


def test_other_classes_are_drawn_alike():
    # 17 others, 5 of them per draw: each about 400 * 5 / 17 = 118 times; the deviation
    # of such a count is 9.1.
    draw = tf.function(lambda i: sample_classes(LABELS, 20, 8, tf.stack([1, i]))[0])
    counts = np.zeros(20)
    for i in range(400):
        counts[draw(tf.constant(i))] += 1
    others = np.delete(counts, [2, 7, 19])
    np.testing.assert_array_equal(counts[[2, 7, 19]], 400)
    assert np.abs(others - 400 * 5 / 17).max() < 5 * 9.1
