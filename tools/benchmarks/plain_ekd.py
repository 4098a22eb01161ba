"""The EKD loss as one would write it down, for `bench_ekd.py` to compare with."""

import tensorflow as tf

from ekd_tf.losses import EKDLoss

# The published form, which is what one writes down.
PUBLISHED = {
    "temperature": 0.01,
    "thresholds": "ema",
    "threshold_gradient": False,
    "memory": 0,
}


class PlainEKD:
    """The loss written straight down: mask, sort, rank, all through the full matrix.

    Args:
        dynamic: Whether pairs may be picked by `boolean_mask`. XLA needs static shapes:
            there all entries are sorted and ranked, and masked afterwards.
    """

    def __init__(self, dynamic=True):
        reference = EKDLoss(**PUBLISHED)
        self.fprs = reference.miner.fprs
        self.temperature = reference.temperature
        self.num_negatives = reference.miner.num_negatives
        self.weights = (reference.positive_weight, reference.negative_weight)
        self.momentum = reference.momentum
        self.dynamic = dynamic
        count = len(self.fprs)
        self.student_thresholds = tf.Variable(tf.zeros([count]), trainable=False)
        self.teacher_thresholds = tf.Variable(tf.zeros([count]), trainable=False)
        self.num_updates = tf.Variable(0.0, trainable=False)

    def __call__(self, student, teacher, labels):
        student = tf.math.l2_normalize(student, axis=1)
        teacher = tf.math.l2_normalize(teacher, axis=1)
        student = tf.matmul(student, student, transpose_b=True)
        teacher = tf.matmul(teacher, teacher, transpose_b=True)
        rows = tf.range(tf.shape(labels)[0])
        upper = rows[:, None] < rows[None, :]
        same = labels[:, None] == labels[None, :]
        terms = self.dynamic_terms if self.dynamic else self.static_terms
        positive, negative = terms(student, teacher, upper & same, upper & ~same)
        return self.weights[0] * positive + self.weights[1] * negative

    def dynamic_terms(self, student, teacher, positive, negative):
        negative_s = tf.boolean_mask(student, negative)
        negative_t = tf.boolean_mask(teacher, negative)
        order = tf.argsort(negative_s, direction="DESCENDING")
        sorted_t = tf.sort(negative_t, direction="DESCENDING")
        ranks = self.ranks(tf.size(order))
        self.update(tf.gather(negative_s, tf.gather(order, ranks)), sorted_t, ranks)
        hardest = order[: self.num_negatives]
        return (
            tf.reduce_mean(
                self.difference(
                    tf.boolean_mask(student, positive),
                    tf.boolean_mask(teacher, positive),
                )
            ),
            tf.reduce_mean(
                self.difference(
                    tf.gather(negative_s, hardest), tf.gather(negative_t, hardest)
                )
            ),
        )

    def static_terms(self, student, teacher, positive, negative):
        negative_s = tf.reshape(tf.where(negative, student, -2.0), [-1])
        negative_t = tf.reshape(tf.where(negative, teacher, -2.0), [-1])
        order = tf.argsort(negative_s, direction="DESCENDING")
        sorted_t = tf.sort(negative_t, direction="DESCENDING")
        ranks = self.ranks(tf.math.count_nonzero(negative, dtype=tf.int32))
        self.update(tf.gather(negative_s, tf.gather(order, ranks)), sorted_t, ranks)
        hardest = order[: self.num_negatives]
        hard_s = tf.gather(negative_s, hardest)
        is_pair = tf.cast(hard_s > -2.0, tf.float32)
        hard = self.difference(hard_s, tf.gather(negative_t, hardest)) * is_pair
        is_positive = tf.cast(positive, tf.float32)
        difference = self.difference(student, teacher) * is_positive
        return (
            tf.reduce_sum(difference) / tf.reduce_sum(is_positive),
            tf.reduce_sum(hard) / tf.reduce_sum(is_pair),
        )

    def ranks(self, num_negatives):
        return tf.stack([num_negatives // round(1 / fpr) for fpr in self.fprs])

    def update(self, student_thresholds, sorted_teacher, ranks):
        self.num_updates.assign_add(1.0)
        share = self.momentum / (1.0 - tf.pow(1.0 - self.momentum, self.num_updates))
        for variable, batch in (
            (self.student_thresholds, student_thresholds),
            (self.teacher_thresholds, tf.gather(sorted_teacher, ranks)),
        ):
            variable.assign_add(share * (tf.stop_gradient(batch) - variable))

    def difference(self, student, teacher):
        def rank(cosines, thresholds):
            margins = cosines[..., None] - tf.convert_to_tensor(thresholds)
            return tf.reduce_sum(tf.sigmoid(margins / self.temperature), axis=-1)

        student = rank(student, self.student_thresholds)
        teacher = rank(teacher, self.teacher_thresholds)
        return tf.square(student - tf.stop_gradient(teacher))
