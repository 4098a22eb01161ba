"""The formula of each loss: values by hand, upstream, wrong arguments.

RKD and AdaDistill have files of their own. Values against NumPy are in
`test_conformance.py`.
"""

import math

import losses_numpy as reference
import numpy as np
import pytest
import tensorflow as tf
from refusals import refused
from toys import two_models
from toys import with_centres
from toys import with_gradient

from ekd_tf import losses
from ekd_tf.heads import ArcFace
from ekd_tf.keras_compat import tf_variable
from ekd_tf.losses.kd import grouped_divergences
from ekd_tf.losses.kd import kd_divergence

AXES = np.eye(3, dtype=np.float32)
CENTRES = np.float32([[3, 4], [0, -2], [0, 0]])
EYE, ONES, H = np.eye(2), np.ones((2, 2)), math.sqrt(3) / 2
LINE = [[0], [1], [3]]
QUARTERS = [[1, 0], [1, 0], [0, 1], [-1, 0]]


BY_HAND = [
    # Cosines 1, 0 and -3/5: (0 + 1 + 8/5) / 3.
    ("cosine", {}, [[2, 0], [0, 1], [3, 4]], [[5, 0], [7, 0], [-1, 0]], 2.6 / 3),
    # Squares 1, 0, 4 and 9, on average 3.5.
    ("fitnet", {}, [[1, 2], [3, 4]], [[2, 2], [1, 7]], 3.5),
    # Cosines off the diagonal: 0 and 3/5; two ordered pairs of four entries.
    ("sp", {}, [[1, 0], [0, 9]], [[1, 0], [3, 4]], 2 * 0.36 / 4),
    # Gram matrices [[1, 0], [0, 1]] and [[16, 12], [12, 9]], whose rows have lengths
    # 20 and 15: [[4/5, 3/5], [4/5, 3/5]]. Off by 1/5, 3/5, 4/5, 2/5.
    ("sp", {"gram": "row_normalized"}, EYE, [[4, 0], [3, 0]], 30 / 25 / 4),
    # Off the diagonal cosines 0 and 1: with gamma 1/2 and order 2 the kernels are
    # e^-1 and e^-1 (1 + 1 + 1/2). Two of four entries are off by e^-1 3/2.
    ("cckd", {"gamma": 0.5}, EYE, ONES, 2 * (1.5 / math.e) ** 2 / 4),
    # Kernels of 1 and, for orthogonal rows, 1/2. Rows of the student have 1/2 for
    # themselves and 1/4 for others; the first two of the teacher, which are alike, 2/5
    # for both and 1/5 for the third, and the third the same as the student's.
    (
        "pkt",
        {},
        np.eye(3),
        [[1, 0], [1, 0], [0, 1]],
        2 / 3 * (0.6 * math.log(0.8) + 0.4 * math.log(1.6)),
    ),
    # On a line: distances 1, 2, 3 (mean 2) and 1, 1, 2 (mean 4/3), so the relative
    # distances are 1/2, 1, 3/2 and 3/4, 3/4, 3/2. Two pairs are off by 1/4, each
    # counts twice: 2 * 2 * (1/2 * 1/16) / 9 = 1/72.
    ("rkd", {"angle_weight": 0}, LINE, [[0], [1], [2]], 25 / 72),
    # The line's angles are 1, -1, 1 (outer, inner, outer), the triangle's 0.6, 0, 0.8
    # in that order. Each counts twice: (0.4^2 + 1 + 0.2^2) / 27.
    ("rkd", {"distance_weight": 0}, LINE, [[3, 0], [0, 0], [0, 4]], 50 * 1.2 / 27),
    # With alpha 1 and beta 2 a score is minus the squared distance, 2 cos - 2: 01: -1,
    # 02: -2, 12: -2 - 2 h. The teacher's nearest first: 0: 1, 2. 1: 0, 2. 2: 1, 0. The
    # last position is certain; the first costs log(1 + e^(other - chosen)).
    (
        "darkrank",
        {"alpha": 1, "beta": 2},
        [[1, 0], [0.5, H], [0, -1]],
        [[1, 0], [0.8, 0.6], [0, 1]],
        sum(math.log1p(math.exp(gap)) for gap in (-1, -1 - 2 * H, 2 * H)) / 3,
    ),
    # The same and the first row once more, of which each row looks at the nearest two:
    # a repeated image is the nearest. 0: 3, 1. 1: 0, 3 in any order. 2: 1, 0. 3: 0, 1.
    (
        "darkrank",
        {"alpha": 1, "beta": 2, "length": 2},
        [[1, 0], [0.5, H], [0, -1], [1, 0]],
        [[1, 0], [0.8, 0.6], [0, 1], [1, 0]],
        sum(math.log1p(math.exp(gap)) for gap in (-1, 0, 2 * H, -1)) / 4,
    ),
    # Squared distances are 2 - 2 cos. Rows 0 and 1 are one identity, so two triplets,
    # with anchors 0 and 1. Student cosines 01: 0.6, 02: 0.8, 12: 0.96; teacher 01: 1,
    # 02 and 12: 0. The teacher's gap is 2 in both, the largest: margin 0.5.
    # Anchor 0: 0.8 - 0.4 + 0.5, anchor 1: 0.8 - 0.08 + 0.5.
    (
        "triplet_distillation",
        {},
        [[1, 0], [0.6, 0.8], [0.8, 0.6]],
        [[1, 0], [2, 0], [0, 3]],
        (0.9 + 1.22) / 2,
    ),
    # Collapsed student: the loss is the mean margin. Teacher gaps for anchor 0:
    # negatives at cosines 0 and -1, squared distances 2 and 4; largest 4.
    ("triplet_distillation", {}, np.ones((4, 2)), QUARTERS, (0.35 + 0.5) / 2),
    # To the teacher the last row is farthest from the first, which has the margin 0.5
    # there; a negative nearer than the positive, or as near, has 0.2. To the student
    # the positives and the third row are alike, the last is at 0.4: beyond 0.2.
    (
        "triplet_distillation",
        {},
        [[1, 0], [1, 0], [1, 0], [0.8, 0.6]],
        [[1, 0], [0, 1], [1, 0], [-1, 0]],
        (0.2 + 0.1 + 0.2 + 0) / 4,
    ),
    # Cosine of student and teacher 0; the student lies on centre 0, its label's.
    (
        "shrinkteanet",
        {"centres": AXES, "angular_weight": 3, "classifier_weight": 5, "scale": 2},
        [[7, 0, 0]],
        [[0, 2, 0]],
        [3, 5 * (math.log(math.exp(2) + 2) - 2)],
    ),
    # Cosines 0.6, 0.8 and 0; cos(theta + m) of the label's at m = pi/6.
    (
        "proxyless_kd",
        {"centres": AXES, "margin": math.pi / 6, "scale": 2},
        [[3, 4, 0]],
        [[0, 0, 0]],
        math.log(math.exp(1.2 * H - 0.8) + math.exp(1.6) + 1) - (1.2 * H - 0.8),
    ),
]


@pytest.mark.parametrize("name, arguments, student, teacher, expected", BY_HAND)
def test_value_by_hand(name, arguments, student, teacher, expected):
    labels = np.int32([0, 0, 1, 2][: len(student)])
    loss = losses.LOSSES[name](**arguments)
    terms = loss(np.float32(student), np.float32(teacher), labels)
    np.testing.assert_allclose(list(terms.values()), expected, rtol=1e-5)


def test_two_views_of_one_image_are_no_positive_pair_of_a_triplet():
    loss = losses.TripletDistillationLoss()
    batch = np.ones((4, 2)), np.float32(QUARTERS), np.int32([0, 0, 1, 2])
    assert float(loss(*batch)["triplet_distillation"]) > 0
    assert float(loss(*batch, np.int32([7, 7, 8, 9]))["triplet_distillation"]) == 0


def test_kd_by_hand():
    # At temperature 2 the odds are e^0 = 1 and 3: p = (3/4, 1/4), q = (1/2, 1/2).
    student = tf.constant([[0.0, 0.0]])
    teacher = tf.constant([[2 * np.log(3.0), 0.0]], tf.float32)
    expected = 4 * (0.75 * np.log(1.5) + 0.25 * np.log(0.5))
    found = kd_divergence(student, teacher, 2.0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    # Without one it follows the scale, as 4 does 64.
    assert losses.KDLoss(CENTRES, scale=8.0).temperature == 0.5


def test_gkd_by_hand():
    # A row of one primary identity, whose share of itself is certain, and one of two,
    # which have 0.7 and 0.8 of the teacher's mass and 0.5 of the student's.
    teacher = np.log(np.float32([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2]]))
    student = np.log(np.float32([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]]))
    primary, binary = grouped_divergences(student, teacher, temperature=1.0, mass=0.6)
    expected = 5 / 8 * math.log(25 / 16) + 3 / 8 * math.log(5 / 8)
    np.testing.assert_allclose(primary, expected / 2, rtol=1e-5)
    expected = 0.7 * math.log(1.4) + 0.3 * math.log(0.6)
    expected += 0.8 * math.log(1.6) + 0.2 * math.log(0.4)
    np.testing.assert_allclose(binary, expected / 2, rtol=1e-5)
    # All of the mass: what is left is Hinton's.
    primary, binary = grouped_divergences(student, teacher, temperature=2.0, mass=1.0)
    np.testing.assert_allclose(binary, 0.0, atol=1e-6)
    expected = kd_divergence(student, teacher, temperature=2.0)
    np.testing.assert_allclose(primary, expected, rtol=1e-5)
    assert losses.GKDLoss(AXES).mass == 0.9
    form = {"temperature": 1.0, "mass": 0.5, "scale": 2.0}
    loss = losses.GKDLoss(AXES, primary_weight=2.0, binary_weight=3.0, **form)
    logits = loss.logits(tf.constant(student), tf.constant(teacher))
    primary, binary = grouped_divergences(*logits, temperature=1.0, mass=0.5)
    terms = list(loss(student, teacher).values())
    np.testing.assert_allclose(terms, [2 * primary, 3 * binary], rtol=1e-5)


def test_icd_face_by_hand():
    # Bins at -1, 0, 1. The pair of one identity, seen from both ends: cosine 0 for the
    # student, 0.6 for the teacher, of which 0.4 are in the second bin.
    student, teacher = np.float32(EYE), np.float32([[1, 0], [0.6, 0.8]])
    loss = losses.ICDFaceLoss(2, 2, memory=3, bins=3)
    terms, monitor = loss(student, teacher, np.int32([7, 7]), with_monitor=True)
    expected = 0.4 * math.log(0.4 / 1) + 0.6 * math.log(0.6 / 1e-6)
    np.testing.assert_allclose(terms["icd_face"], expected, rtol=1e-4)
    assert monitor["icd_face/pairs"] == 2
    np.testing.assert_array_equal(np.array(loss.memory_labels)[:2], [7, 7])
    # One more image of it beside two in the bank: cosines -1 and 0, 0.6 and 1.
    new = np.float32([[-1, 0], [0, 1]]), np.float32([[0.6, 0.8], [-1, 0]])
    terms, monitor = loss(*new, np.int32([7, 3]), with_monitor=True)
    assert monitor["icd_face/pairs"] == 2
    expected = 0.2 * math.log(0.2 / 0.5) + 0.8 * math.log(0.8 / 1e-6)
    np.testing.assert_allclose(terms["icd_face"], expected, rtol=1e-4)
    np.testing.assert_array_equal(np.array(loss.memory_labels), [7, 3, 7])


def test_icd_face_pairs_no_image_with_itself(rng):
    loss = losses.ICDFaceLoss(3, 3, memory=4)
    rows, labels = np.float32(rng.normal(size=(3, 3))), np.int32([7, 7, 7])
    # Of three rows two show image 5: two pairs, seen from both ends. Then as many, and
    # image 4 of the memory with each; image 5 is in the batch again.
    for images, pairs in (([5, 5, 4], 4), ([6, 6, 5], 4 + 3)):
        monitor = loss(rows, rows, labels, np.int32(images), with_monitor=True)[1]
        assert monitor["icd_face/pairs"] == pairs


def test_unikd_by_hand():
    # Two images of one identity and one of another; distances 0, 0.4 and 1.
    student = np.float32([[1, 0], [0, 1], [-1, 0]])
    teacher = np.float32([[1, 0], [0.8, 0.6], [0, 1]])
    loss = losses.UniKDLoss(2, 2, memory=3, relation_weight=2.0, num_negatives=1)
    terms = loss(student, teacher, np.int32([7, 7, 3]))
    np.testing.assert_allclose(terms["unikd/instance"], (0.16 + 1) / 3, rtol=1e-6)
    # The positive pair, 0 for 0.8, and the negative one most similar for the student,
    # the last two, 0 for 0.6.
    expected = 2 * (0.64 + 0.36)
    np.testing.assert_allclose(terms["unikd/relation"], expected, rtol=1e-6)
    # One of identity 7 beside these: -1 for 0 and 0 for 0.6; the negative 1 for 1.
    terms = loss(-student[:1], teacher[2:], np.int32([7]))
    np.testing.assert_allclose(terms["unikd/instance"], 1.0, rtol=1e-6)
    expected = 2 * ((1 + 0.36) / 2 + 0)
    np.testing.assert_allclose(terms["unikd/relation"], expected, rtol=1e-6)


def test_margin_distillation_by_hand():
    # The largest cosine 0.8 has the widest margin, 3/4 of it 3/4 of the way.
    loss = losses.MarginDistillationLoss(AXES, min_margin=0.2, max_margin=0.6)
    teacher = np.float32([[0.8, 0.6, 0], [0.6, 0.8, 0], [0, 1, 0], [-1, 0, 0]])
    for rows, expected in (([0, 1, 2, 3], [0.6, 0.5, 0.2, 0.2]), ([2, 3], [0.2, 0.2])):
        batch = teacher[rows], teacher[rows], np.zeros(len(rows), np.int32)
        _, monitor = loss(*batch, with_monitor=True)
        margin = monitor["margin_distillation/margin"]
        np.testing.assert_allclose(margin, np.mean(expected), rtol=1e-6)
    # The only image has the widest margin, 0.55. The student is on its centre.
    loss = losses.MarginDistillationLoss(AXES, scale=2.0)
    batch = np.float32([[5, 0, 0]]), np.float32([[1, 1, 0]]), np.int32([0])
    value = loss(*batch)["margin_distillation"]
    expected = np.log(1 + 2 * np.exp(-2 * np.cos(0.55)))
    np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_values_and_gradients_of_tface(golden_arrays):
    arrays = golden_arrays("losses_official.npz")
    for function, key in (
        (losses.CosineLoss(), "cosine_distance"),
        (losses.FitNetLoss(), "fitnet"),
        (losses.SPLoss(), "similarity_perserving"),
        # TFace stops one order short.
        (losses.CCKDLoss(orders=1), "cc"),
        (losses.DarkRankLoss(), "darkrank"),
        (lambda s, t: {"kd": kd_divergence(s, t)}, "simple_kd"),
        (losses.RKDLoss(), "rkd"),
    ):
        step = with_gradient(function)
        value, gradient = step(arrays["student"], tf.constant(arrays["teacher"]))
        expected = arrays[f"{key}_grad"]
        np.testing.assert_allclose(value, arrays[f"{key}_loss"], rtol=1e-4, err_msg=key)
        atol = 1e-4 * np.abs(expected).max()
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=atol)


def test_centres_are_of_unit_length_and_frozen():
    loss = losses.CentreLoss(CENTRES)
    np.testing.assert_allclose(loss.centres, [[0.6, 0.8], [0, -1], [0, 0]], rtol=1e-6)
    assert len(loss.non_trainable_variables) == 1 and not loss.trainable_variables
    assert (loss.num_identities, loss.teacher_dim) == (3, 2)
    cosines = loss.cosines(tf.constant([[5.0, 0.0], [0.0, 0.1]]))
    np.testing.assert_allclose(cosines, [[0.6, 0, 0], [0.8, -1, 0]], rtol=1e-6)


def test_loss_is_no_number_until_saved_centres_are_restored():
    loss = losses.ProxylessKDLoss(CENTRES)
    batch = np.ones((2, 2), np.float32), np.ones((2, 2), np.float32), np.int32([0, 1])
    other = losses.ProxylessKDLoss.from_config(loss.get_config())
    assert np.isnan(other(*batch)["proxyless_kd"])


def test_rejects_centres_that_are_no_finite_matrix_of_identities():
    for centres in (np.zeros(2), np.zeros(3), np.zeros((1, 3)), np.zeros((2, 2, 2))):
        refused("must be .num_identities, teacher_dim", losses.CentreLoss, centres)
    centres = np.zeros((5, 2))
    centres[[2, 4], 1] = np.nan, np.inf
    refused("2 rows that are not, the first is 2", losses.CentreLoss, centres)


def test_students_classifier_in_kd_is_its_head_which_stays_the_trainers(rng):
    centres, own = two_models(rng, 6)[0], np.float32(rng.normal(size=(6, 3)))
    head = with_centres(ArcFace(num_identities=6), own)
    student, teacher, labels = two_models(rng, 4, student_dim=3)
    loss = losses.KDLoss(centres, head=head, student_dim=3)
    assert [tuple(v.shape) for v in loss.variables] == [(6, 5)]
    expected = reference.kd(student, teacher, labels, centres, own=own)
    variable = tf_variable(head.centers)
    with tf.GradientTape() as tape:
        value = loss(student, teacher)["kd"]
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    assert np.abs(tf.convert_to_tensor(tape.gradient(value, variable))).max() > 0
    refused("Received: 7 and 6", losses.KDLoss, centres, head=ArcFace(num_identities=7))


def test_equal_sizes_own_no_projection_and_others_must_fit(rng):
    student, teacher, _ = map(tf.constant, two_models(rng, 3))
    for sizes in ((), (5, 5), (None, 5)):
        loss = losses.ProjectedLoss(*sizes)
        assert loss.project(student, teacher) is student
        assert not loss.variables
    refused("student_dim=2, teacher_dim=3", losses.CosineLoss(2, 3), student, teacher)


def test_rejects_arguments_outside_their_range():
    for name, argument, value, rule in (
        ("CosineLoss", "teacher_dim", 0, r"_dim` must be in \(0, inf\)"),
        ("CosineLoss", "student_dim", 4, "`student_dim` needs `teacher_dim` beside it"),
        ("CCKDLoss", "gamma", 0.0, r"`gamma` must be in \(0, inf\)"),
        ("CCKDLoss", "orders", 0, r"`orders` must be in \[1, inf\)"),
        ("DarkRankLoss", "alpha", 0.0, r"`alpha` must be in \(0, inf\)"),
        ("DarkRankLoss", "beta", 1.5, r"`beta` must be in \[2, inf\)"),
        ("DarkRankLoss", "length", 1, r"`length` must be in \[2, inf\)"),
        ("SPLoss", "gram", "euclid", "must be one of 'cosine', 'row_normalized'"),
        ("RKDLoss", "distance_weight", -1, r"`distance_weight` must be in \[0, inf\)"),
        ("RKDLoss", "delta", 0.0, r"`delta` must be in \(0, inf\)"),
        ("TripletDistillationLoss", "min_margin", 0.6, r"must be in \[0, 0.5\]"),
        ("ICDFaceLoss", "memory", 1, "`memory` needs `student_dim`"),
        ("UniKDLoss", "relation_weight", -1, r"_weight` must be in \[0, inf\)"),
        ("UniKDLoss", "num_negatives", 0, r"`num_negatives` must be in \[1, inf\)"),
        ("KDLoss", "temperature", 0.0, r"`temperature` must be in \(0, inf\)"),
        ("ShrinkTeaNetLoss", "angular_weight", -1, r"must be in \[0, inf\)"),
        ("MarginDistillationLoss", "min_margin", 0.6, r"must be in \[0, 0.55\]"),
        ("ProxylessKDLoss", "margin", 28.6, r"must be in \[0, pi/2\) radians"),
        ("AdaDistillLoss", "num_identities", 1, r"must be in \[2, inf\)"),
        ("EKDLoss", "temperature", 0, r"`temperature` must be in \(0, inf\)"),
        ("EKDLoss", "momentum", 1.5, r"`momentum` must be in \(0, 1\]"),
        ("EKDLoss", "positive_weight", -1, r"`positive_weight` must be in \[0, inf\)"),
        ("EKDLoss", "negative_weight", -1, r"`negative_weight` must be in \[0, inf\)"),
        ("EKDLoss", "thresholds", "hist", "must be one of 'ema', 'histogram'"),
        ("EKDLoss", "bias_correction", False, "effect on `thresholds=.ema.` alone"),
        ("EKDLoss", "memory", -1, r"`memory` must be in \[0, inf\)"),
        ("EKDLoss", "memory", 9, "`memory` needs `student_dim` and `teacher_dim`"),
        ("EKDCentresLoss", "sampled", -1, r"`sampled` must be in \[0, inf\)"),
    ):
        kind, needed = getattr(losses, name), {}
        if issubclass(kind, losses.CentreLoss):
            needed = {"centres": CENTRES}
        elif name == "AdaDistillLoss":
            needed = {"num_identities": 3, "teacher_dim": 2}
        elif name in ("EKDLoss", "UniKDLoss"):
            needed = {"memory": 0}
        refused(rule, kind, **{**needed, argument: value})
