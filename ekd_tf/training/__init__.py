"""Training: one update, the loop around it, and what a run leaves behind."""

from ekd_tf.training.classifier import FaceClassifier
from ekd_tf.training.distiller import Distiller
from ekd_tf.training.gradient_share import GradientShare

__all__ = ["Distiller", "FaceClassifier", "GradientShare"]
