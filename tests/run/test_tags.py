"""Tests for `ekd_tf.run.tags`."""

from ekd_tf.run.tags import tensorboard_tag


def test_losses_tpr_and_thresholds_come_first():
    names = [
        "critical/positive",
        "gradient_norm",
        "heldout/accuracy",
        "heldout/tpr_at_fpr_1e-3",
        "loss",
        "loss/ekd/positive",
        "loss/margin",
        "loss_scale",
        "threshold/student/fpr_1e-1",
        "something/new",
    ]
    tags = sorted(tensorboard_tag(name)[0] for name in names)
    assert tags == [
        "1 loss/loss",
        "1 loss/loss/ekd/positive",
        "1 loss/loss/margin",
        "2 TPR/heldout/tpr_at_fpr_1e-3",
        "3 threshold/threshold/student/fpr_1e-1",
        "4 evaluation/heldout/accuracy",
        "5 distillation/critical/positive",
        "6 training/gradient_norm",
        "6 training/loss_scale",
        "6 training/something/new",
    ]


def test_all_but_unknown_metrics_are_described():
    assert "cross entropy" in tensorboard_tag("loss/margin")[1]
    assert "distillation loss" in tensorboard_tag("loss/ekd/positive")[1]
    assert tensorboard_tag("something/new")[1] is None
