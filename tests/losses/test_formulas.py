"""The formula of each loss: values by hand, upstream, wrong arguments.

RKD and AdaDistill have files of their own. Values against NumPy loops are in
`test_conformance.py`.
"""

import math

import losses_numpy as reference
import numpy as np
import pytest
import tensorflow as tf
from toys import with_centres

from ekd_tf import losses
from ekd_tf.heads import ArcFace
from ekd_tf.keras_compat import tf_variable
from ekd_tf.losses.centres import margins_of_teacher
from ekd_tf.losses.darkrank import darkrank
from ekd_tf.losses.direct import cosine_distance
from ekd_tf.losses.gkd import grouped_divergences
from ekd_tf.losses.kd import kd_divergence
from ekd_tf.losses.pairwise import similarity_preserving
from ekd_tf.losses.triplet_distillation import triplet_distillation

AXES = np.eye(3, dtype=np.float32)
CENTRES = np.float32([[3, 4], [0, -2], [0, 0]])


def fitnet(student, teacher):
    return losses.FitNetLoss()(student, teacher)["fitnet"]


def cckd(student, teacher, **arguments):
    return losses.CCKDLoss(**arguments)(student, teacher)["cckd"]


# --- by hand


def test_cosine_by_hand():
    # Cosines 1, 0 and -3/5: (0 + 1 + 8/5) / 3.
    student = [[2.0, 0.0], [0.0, 1.0], [3.0, 4.0]]
    teacher = [[5.0, 0.0], [7.0, 0.0], [-1.0, 0.0]]
    np.testing.assert_allclose(cosine_distance(student, teacher), 2.6 / 3, rtol=1e-6)


def test_fitnet_by_hand():
    # Squares 1, 0, 4 and 9, on average 3.5.
    student = np.float32([[1, 2], [3, 4]])
    teacher = np.float32([[2, 2], [1, 7]])
    np.testing.assert_allclose(fitnet(student, teacher), 3.5, rtol=1e-6)


def test_sp_by_hand():
    # Cosines off the diagonal: 0 and 3/5; two ordered pairs of four entries.
    student, teacher = [[1.0, 0.0], [0.0, 9.0]], [[1.0, 0.0], [3.0, 4.0]]
    np.testing.assert_allclose(
        similarity_preserving(student, teacher), 2 * 0.36 / 4, rtol=1e-6
    )
    # Gram matrices [[1, 0], [0, 1]] and [[16, 12], [12, 9]], whose rows have lengths
    # 20 and 15: [[4/5, 3/5], [4/5, 3/5]]. Off by 1/5, 3/5, 4/5, 2/5.
    student, teacher = np.float32([[1, 0], [0, 1]]), np.float32([[4, 0], [3, 0]])
    value = losses.SPLoss(gram="row_normalized")(student, teacher)["sp"]
    np.testing.assert_allclose(value, (1 + 9 + 16 + 4) / 25 / 4, rtol=1e-6)


def test_cckd_by_hand():
    # Off the diagonal cosines 0 and 1: with gamma 1/2 and order 2 the kernels are
    # e^-1 and e^-1 (1 + 1 + 1/2). Two of four entries are off by e^-1 3/2.
    student, teacher = np.eye(2, dtype=np.float32), np.ones((2, 2), np.float32)
    expected = 2 * (1.5 / math.e) ** 2 / 4
    np.testing.assert_allclose(cckd(student, teacher, gamma=0.5), expected, rtol=1e-6)


def test_pkt_by_hand():
    # Kernels [[1, 1/2], [1/2, 1]] and [[1, 1], [1, 1]]: probabilities 2/3 and 1/3 of
    # the student, 1/2 of the teacher.
    student, teacher = np.eye(2, dtype=np.float32), np.ones((2, 2), np.float32)
    expected = 0.5 * math.log(0.5 / (2 / 3)) + 0.5 * math.log(0.5 / (1 / 3))
    found = losses.PKTLoss()(student, teacher)["pkt"]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_gkd_by_hand():
    # The teacher: 1/2, 1/4, 1/4; the student: 1/4, 1/4, 1/2. Half of the mass is the
    # first identity alone, whose share of itself is certain for both.
    teacher, student = (np.log(np.float32([x])) for x in ([2, 1, 1], [1, 1, 2]))
    primary, binary = grouped_divergences(student, teacher, temperature=1.0, mass=0.5)
    np.testing.assert_allclose(primary, 0.0, atol=1e-6)
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    np.testing.assert_allclose(binary, expected, rtol=1e-5)
    # All of it: what is left is Hinton's.
    primary, binary = grouped_divergences(student, teacher, temperature=2.0, mass=1.0)
    np.testing.assert_allclose(binary, 0.0, atol=1e-6)
    expected = kd_divergence(student, teacher, temperature=2.0)
    np.testing.assert_allclose(primary, expected, rtol=1e-5)


def test_icd_face_by_hand():
    # Bins at -1, 0, 1. The pair of one identity, seen from both ends: cosine 0 for the
    # student, 1/2 for the teacher, half of it in each of two bins.
    h = math.sqrt(3) / 2
    student, teacher = np.eye(2, dtype=np.float32), np.float32([[1, 0], [0.5, h]])
    loss = losses.ICDFaceLoss(2, 2, memory=3, bins=3)
    terms, monitor = loss(student, teacher, np.int32([7, 7]), with_monitor=True)
    expected = 0.5 * math.log(0.5 / 1) + 0.5 * math.log(0.5 / 1e-6)
    np.testing.assert_allclose(terms["icd_face"], expected, rtol=1e-4)
    assert monitor["icd_face/pairs"] == 2
    np.testing.assert_array_equal(np.array(loss.bank_labels), [7, 7, -1])
    # One more image of it beside two in the bank: cosines 1 and 0, 1/2 and 1.
    new = np.float32([[1, 0], [0, 1]]), np.float32([[0.5, h], [-1, 0]])
    terms, monitor = loss(*new, np.int32([7, 3]), with_monitor=True)
    assert monitor["icd_face/pairs"] == 2
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    np.testing.assert_allclose(terms["icd_face"], expected, rtol=1e-4)
    np.testing.assert_array_equal(np.array(loss.bank_labels), [7, 3, 7])
    with pytest.raises(ValueError, match="`memory` needs `student_dim`"):
        losses.ICDFaceLoss()


def test_darkrank_by_hand():
    # With alpha 1 and beta 2 a score is minus the squared distance, 2 cos - 2. The
    # teacher's nearest first: 0: 1, 2. 1: 0, 2. 2: 1, 0. The last position is certain;
    # the first costs log(1 + e^(other - chosen)).
    h = math.sqrt(3) / 2
    student = np.float32([[1, 0], [0.5, h], [0, -1]])
    teacher = np.float32([[1, 0], [0.8, 0.6], [0, 1]])
    scores = {"01": -1.0, "02": -2.0, "12": -(2 + 2 * h)}
    expected = (
        math.log1p(math.exp(scores["02"] - scores["01"]))
        + math.log1p(math.exp(scores["12"] - scores["01"]))
        + math.log1p(math.exp(scores["02"] - scores["12"]))
    ) / 3
    value = darkrank(student, teacher, alpha=1.0, beta=2.0)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_triplet_distillation_by_hand():
    # Squared distances are 2 - 2 cos. Rows 0 and 1 are one identity, so two triplets,
    # with anchors 0 and 1. Student cosines 01: 0.6, 02: 0.8, 12: 0.96; teacher 01: 1,
    # 02 and 12: 0. The teacher's gap is 2 in both, the largest: margin 0.5.
    # Anchor 0: 0.8 - 0.4 + 0.5, anchor 1: 0.8 - 0.08 + 0.5.
    student = np.float32([[1, 0], [0.6, 0.8], [0.8, 0.6]])
    teacher = np.float32([[1, 0], [2, 0], [0, 3]])
    value = triplet_distillation(student, teacher, tf.constant([4, 4, 5]))
    np.testing.assert_allclose(value, (0.9 + 1.22) / 2, rtol=1e-5)
    # Collapsed student: the loss is the mean margin. Teacher gaps for anchor 0:
    # negatives at cosines 0 and -1, squared distances 2 and 4; largest 4.
    student = np.ones((4, 2), np.float32)
    teacher = np.float32([[1, 0], [1, 0], [0, 1], [-1, 0]])
    value = triplet_distillation(student, teacher, tf.constant([0, 0, 1, 2]))
    np.testing.assert_allclose(value, (0.35 + 0.5) / 2, rtol=1e-5)
    # Two views of one image are no positive pair, and without any the loss is 0.
    loss = losses.TripletDistillationLoss()
    batch = student, teacher, np.int32([0, 0, 1, 2]), np.int32([7, 7, 8, 9])
    assert float(loss(*batch[:3])["triplet_distillation"]) > 0
    assert float(loss(*batch)["triplet_distillation"]) == 0
    # Separated by more than any margin.
    student = np.float32([[1, 0], [1, 0], [-1, 0], [-1, 0]])
    value = triplet_distillation(student, teacher, tf.constant([0, 0, 1, 1]))
    assert float(value) == 0


def test_kd_by_hand():
    # At temperature 2 the odds are e^0 = 1 and 3: p = (3/4, 1/4), q = (1/2, 1/2).
    student = tf.constant([[0.0, 0.0]])
    teacher = tf.constant([[2 * np.log(3.0), 0.0]], tf.float32)
    expected = 4 * (0.75 * np.log(1.5) + 0.25 * np.log(0.5))
    np.testing.assert_allclose(
        kd_divergence(student, teacher, 2.0), expected, rtol=1e-5
    )


def test_shrinkteanet_by_hand():
    # Cosine of student and teacher 0; the student lies on centre 0, its label's.
    loss = losses.ShrinkTeaNetLoss(
        AXES, angular_weight=3.0, classifier_weight=5.0, scale=2
    )
    terms = loss(np.float32([[7, 0, 0]]), np.float32([[0, 2, 0]]), np.int32([0]))
    assert list(terms) == ["shrinkteanet/angular", "shrinkteanet/classifier"]
    classified = np.log(np.exp(2) + 2) - 2
    np.testing.assert_allclose(list(terms.values()), [3, 5 * classified], rtol=1e-5)


def test_margin_distillation_by_hand():
    # The largest cosine 0.8 has the widest margin, half of it half of the way.
    margins = margins_of_teacher(tf.constant([0.8, 0.4, 0.0, -0.5]), 0.2, 0.6)
    np.testing.assert_allclose(margins, [0.6, 0.4, 0.2, 0.2], rtol=1e-6)
    margins = margins_of_teacher(tf.constant([-0.1, 0.0]), 0.2, 0.6)
    np.testing.assert_allclose(margins, [0.2, 0.2], rtol=1e-6)
    # The only image has the widest margin, 0.55. The student is on its centre.
    loss = losses.MarginDistillationLoss(AXES, scale=2.0)
    batch = np.float32([[5, 0, 0]]), np.float32([[1, 1, 0]]), np.int32([0])
    terms, monitor = loss(*batch, with_monitor=True)
    expected = np.log(1 + 2 * np.exp(-2 * np.cos(0.55)))
    np.testing.assert_allclose(terms["margin_distillation"], expected, rtol=1e-4)
    np.testing.assert_allclose(monitor["margin_distillation/margin"], 0.55, rtol=1e-6)


def test_proxyless_kd_by_hand():
    # Cosines 0.6, 0.8 and 0; cos(theta + m) of the label's at m = pi/6.
    loss = losses.ProxylessKDLoss(AXES, margin=np.pi / 6, scale=2.0)
    student, teacher = np.float32([[3, 4, 0]]), np.zeros((1, 3), np.float32)
    moved = 0.6 * np.sqrt(3) / 2 - 0.8 / 2
    expected = np.log(np.exp(2 * moved) + np.exp(1.6) + 1) - 2 * moved
    for teacher_rows in (teacher, student):
        terms = loss(student, teacher_rows, np.int32([0]))
        np.testing.assert_allclose(terms["proxyless_kd"], expected, rtol=1e-5)


# --- upstream


def test_values_and_gradients_of_tface(golden_arrays):
    arrays = golden_arrays("losses_official.npz")
    for function, key in (
        (cosine_distance, "cosine_distance"),
        (fitnet, "fitnet"),
        (similarity_preserving, "similarity_perserving"),
        # TFace stops one order short.
        (lambda s, t: cckd(s, t, orders=1), "cc"),
        (darkrank, "darkrank"),
        (kd_divergence, "simple_kd"),
        (lambda s, t: sum(losses.RKDLoss()(s, t).values()), "rkd"),
    ):
        student = tf.constant(arrays["student"])
        with tf.GradientTape() as tape:
            tape.watch(student)
            value = function(student, tf.constant(arrays["teacher"]))
        gradient, expected = tape.gradient(value, student), arrays[f"{key}_grad"]
        np.testing.assert_allclose(value, arrays[f"{key}_loss"], rtol=1e-4, err_msg=key)
        atol = 1e-4 * np.abs(expected).max()
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=atol)


# --- other values than the conformance tests have


def test_match_numpy_with_other_arguments(random_batch):
    for rows in (1, 2, 17):
        student, teacher, _ = random_batch(rows, 5, 8)
        expected = reference.sp(student, teacher, gram="row_normalized")
        value = similarity_preserving(student, teacher, "row_normalized")
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-12)
        # A repeated image is a neighbour; leaving the nearest out would drop it.
        student[-1], repeated = student[0], teacher.copy()
        repeated[-1] = repeated[0]
        for length in (2, 4):
            expected = reference.darkrank(student, repeated, length=length)
            value = darkrank(student, repeated, length=length)
            np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)
        if rows > 2:
            images = np.int32(np.arange(rows) // 3)
            batch = student, teacher, np.int32(np.arange(rows) // 5), images, 0.1, 0.6
            expected = reference.triplet_distillation(*batch)
            value = triplet_distillation(*batch)
            np.testing.assert_allclose(value, expected, rtol=1e-4)
        student, teacher, labels = random_batch(rows)
        centres = random_batch(6)[0]
        loss = losses.KDLoss(centres, temperature=2.0, scale=8.0)
        # Without one it follows the scale, as 4 does 64.
        assert losses.KDLoss(centres, scale=8.0).temperature == 0.5
        expected = reference.kd(student, teacher, labels, centres, 2.0, 8.0)
        np.testing.assert_allclose(loss(student, teacher)["kd"], expected, rtol=1e-4)


# --- centres


def test_centres_are_of_unit_length_and_frozen():
    loss = losses.CentreLoss(CENTRES)
    np.testing.assert_allclose(loss.centres, [[0.6, 0.8], [0, -1], [0, 0]], rtol=1e-6)
    assert len(loss.non_trainable_variables) == 1 and not loss.trainable_variables
    assert (loss.num_identities, loss.teacher_dim) == (3, 2)
    cosines = loss.cosines(tf.constant([[5.0, 0.0], [0.0, 0.1]]))
    np.testing.assert_allclose(cosines, [[0.6, 0, 0], [0.8, -1, 0]], rtol=1e-6)
    with pytest.raises(ValueError, match="centres of size 2.*embeddings of size 3"):
        loss.cosines(tf.ones((1, 3)))


def test_loss_is_no_number_until_saved_centres_are_restored(tmp_path):
    loss = losses.ProxylessKDLoss(CENTRES)
    batch = np.ones((2, 2), np.float32), np.ones((2, 2), np.float32), np.int32([0, 1])
    other = losses.ProxylessKDLoss.from_config(loss.get_config())
    assert np.isnan(other(*batch)["proxyless_kd"])
    path = tf.train.Checkpoint(loss=loss).write(str(tmp_path / "loss"))
    tf.train.Checkpoint(loss=other).read(path).assert_consumed()
    assert float(other(*batch)["proxyless_kd"]) == float(loss(*batch)["proxyless_kd"])


def test_rejects_centres_that_are_no_finite_matrix_of_identities():
    for centres in (np.zeros(2), np.zeros(3), np.zeros((1, 3)), np.zeros((2, 2, 2))):
        with pytest.raises(ValueError, match="must be .num_identities, teacher_dim"):
            losses.CentreLoss(centres)
    centres = np.zeros((5, 2))
    centres[[2, 4], 1] = np.nan, np.inf
    with pytest.raises(ValueError, match="2 rows that are not, the first is 2"):
        losses.CentreLoss(centres)


# --- KD beside a head


def test_students_classifier_in_kd_is_its_head_which_stays_the_trainers(
    rng, random_batch
):
    centres, own = random_batch(6)[0], np.float32(rng.normal(size=(6, 3)))
    head = with_centres(ArcFace(num_identities=6), own)
    student, teacher, labels = random_batch(4, student_dim=3)
    loss = losses.KDLoss(centres, head=head, student_dim=3)
    assert [tuple(v.shape) for v in loss.variables] == [(6, 5)]
    expected = reference.kd(student, teacher, labels, centres, own=own)
    variable = tf_variable(head.centers)
    with tf.GradientTape() as tape:
        value = loss(student, teacher)["kd"]
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    assert np.abs(tf.convert_to_tensor(tape.gradient(value, variable))).max() > 0
    with pytest.raises(ValueError, match="the same identities. Received: 7 and 6"):
        losses.KDLoss(centres, head=ArcFace(num_identities=7))


def test_equal_sizes_own_no_projection_and_others_must_fit(random_batch):
    student, teacher, _ = map(tf.constant, random_batch(3))
    for sizes in ((), (5, 5), (None, 5)):
        loss = losses.ProjectedLoss(*sizes)
        assert loss.project(student, teacher) is student
        assert not loss.variables
    with pytest.raises(ValueError, match="`student_dim` needs `teacher_dim` beside it"):
        losses.CosineLoss(student_dim=4)
    with pytest.raises(ValueError, match="Received: student_dim=2, teacher_dim=3"):
        losses.CosineLoss(2, 3)(student, teacher)


# --- arguments


ACUTE = r"must be in \[0, pi/2\) radians"


@pytest.mark.parametrize(
    ("name", "argument", "value", "rule"),
    [
        ("CosineLoss", "teacher_dim", 0, r"_dim` must be in \(0, inf\)"),
        ("CCKDLoss", "gamma", 0.0, r"`gamma` must be in \(0, inf\)"),
        ("CCKDLoss", "orders", 0, r"`orders` must be in \[1, inf\)"),
        ("DarkRankLoss", "alpha", 0.0, r"`alpha` must be in \(0, inf\)"),
        ("DarkRankLoss", "beta", 1.5, r"`beta` must be in \[2, inf\)"),
        ("DarkRankLoss", "length", 1, r"`length` must be in \[2, inf\)"),
        ("SPLoss", "gram", "euclid", "must be one of 'cosine', 'row_normalized'"),
        ("RKDLoss", "distance_weight", -1, r"`distance_weight` must be in \[0, inf\)"),
        ("RKDLoss", "delta", 0.0, r"`delta` must be in \(0, inf\)"),
        ("TripletDistillationLoss", "min_margin", 0.6, r"must be in \[0, 0.5\]"),
        ("KDLoss", "temperature", 0.0, r"`temperature` must be in \(0, inf\)"),
        ("ShrinkTeaNetLoss", "angular_weight", -1, r"must be in \[0, inf\)"),
        ("MarginDistillationLoss", "min_margin", 0.6, r"must be in \[0, 0.55\]"),
        ("ProxylessKDLoss", "margin", 28.6, ACUTE),
        ("AdaDistillLoss", "num_identities", 1, r"must be in \[2, inf\)"),
    ],
)
def test_rejects_arguments_outside_their_range(name, argument, value, rule):
    kind = getattr(losses, name)
    needed = {}
    if issubclass(kind, losses.CentreLoss):
        needed = {"centres": CENTRES}
    elif name == "AdaDistillLoss":
        needed = {"num_identities": 3, "teacher_dim": 2}
    with pytest.raises(ValueError, match=rule):
        kind(**{**needed, argument: value})
