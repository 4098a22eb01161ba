"""Scores and labels to numbers, in NumPy alone: nothing here needs TensorFlow."""

from ekd_tf.metrics.bootstrap import fold_intervals
from ekd_tf.metrics.bootstrap import identity_intervals
from ekd_tf.metrics.identification import GallerySearch
from ekd_tf.metrics.identification import rank_rates
from ekd_tf.metrics.identification import tpir_at_fpir
from ekd_tf.metrics.kfold import best_accuracy
from ekd_tf.metrics.kfold import folds_of
from ekd_tf.metrics.kfold import kfold_accuracy
from ekd_tf.metrics.kfold import squared_distances
from ekd_tf.metrics.normalize import normalize_rows
from ekd_tf.metrics.pooling import ALL_SWITCHES
from ekd_tf.metrics.pooling import Switches
from ekd_tf.metrics.pooling import pool_templates
from ekd_tf.metrics.roc import ROC
from ekd_tf.metrics.roc import OperatingPoint
from ekd_tf.metrics.roc import allowed_negatives
from ekd_tf.metrics.roc import format_fpr
from ekd_tf.metrics.streaming import streamed_roc

__all__ = [
    "ALL_SWITCHES",
    "GallerySearch",
    "OperatingPoint",
    "ROC",
    "Switches",
    "allowed_negatives",
    "best_accuracy",
    "fold_intervals",
    "folds_of",
    "format_fpr",
    "identity_intervals",
    "kfold_accuracy",
    "normalize_rows",
    "pool_templates",
    "rank_rates",
    "squared_distances",
    "streamed_roc",
    "tpir_at_fpir",
]
