"""Distillation losses: student, teacher and labels to named scalars."""

from ekd_tf.losses.base import DistillationLoss
from ekd_tf.losses.ekd import EKDLoss

__all__ = ["DistillationLoss", "EKDLoss"]
