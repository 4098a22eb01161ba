"""Training: one update, the loop around it, and what a run leaves behind."""

from ekd_tf.training.classifier import FaceClassifier as FaceClassifier
from ekd_tf.training.distiller import Distiller as Distiller
from ekd_tf.training.gradient_share import GradientShare as GradientShare
