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

    It picks pairs by `boolean_mask`, which XLA does not take.
    """

    def __init__(self):
        reference = EKDLoss(**PUBLISHED)
        self.fprs = reference.miner.fprs
        self.temperature = reference.temperature
        self.num_negatives = reference.miner.num_negatives
        self.weights = (reference.positive_weight, reference.negative_weight)
        self.momentum = reference.momentum
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
        positive, negative = self.terms(student, teacher, upper & same, upper & ~same)
        return self.weights[0] * positive + self.weights[1] * negative

    def terms(self, student, teacher, positive, negative):
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

    def ranks(self, num_negatives):
        return tf.stack([num_negatives // round(1 / fpr) for fpr in self.fprs])

    def update(self, student_thresholds, sorted_teacher, ranks):
        self.num_updates.assign_add(1.0)
        part = self.momentum / (1.0 - tf.pow(1.0 - self.momentum, self.num_updates))
        for variable, batch in (
            (self.student_thresholds, student_thresholds),
            (self.teacher_thresholds, tf.gather(sorted_teacher, ranks)),
        ):
            variable.assign_add(part * (tf.stop_gradient(batch) - variable))

    def difference(self, student, teacher):
        def rank(cosines, thresholds):
            margins = cosines[..., None] - tf.convert_to_tensor(thresholds)
            return tf.reduce_sum(tf.sigmoid(margins / self.temperature), axis=-1)

        student = rank(student, self.student_thresholds)
        teacher = rank(teacher, self.teacher_thresholds)
        return tf.square(student - tf.stop_gradient(teacher))
