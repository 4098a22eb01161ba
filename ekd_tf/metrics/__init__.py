"""Scores and labels to numbers, in NumPy alone: nothing here needs TensorFlow."""

from ekd_tf.metrics.bootstrap import IdentityScores
from ekd_tf.metrics.bootstrap import fold_intervals
from ekd_tf.metrics.bootstrap import identity_intervals
from ekd_tf.metrics.identification import GallerySearch
from ekd_tf.metrics.identification import rank_rates
from ekd_tf.metrics.identification import tpir_at_fpir
from ekd_tf.metrics.kfold import KFoldResult
from ekd_tf.metrics.kfold import best_accuracy
from ekd_tf.metrics.kfold import folds_of
from ekd_tf.metrics.kfold import kfold_accuracy
from ekd_tf.metrics.kfold import squared_distances
from ekd_tf.metrics.normalize import normalize_rows
from ekd_tf.metrics.pooling import ALL_SWITCHES
from ekd_tf.metrics.pooling import Switches
from ekd_tf.metrics.pooling import TemplateList
from ekd_tf.metrics.pooling import pool_templates
from ekd_tf.metrics.roc import RocPoint
from ekd_tf.metrics.roc import allowed_negatives
from ekd_tf.metrics.roc import auc
from ekd_tf.metrics.roc import equal_error_rate
from ekd_tf.metrics.roc import format_fpr
from ekd_tf.metrics.roc import operating_points
from ekd_tf.metrics.roc import roc_curve
from ekd_tf.metrics.roc import tpr_at_fpr
from ekd_tf.metrics.roc import tpr_at_nearest_fpr
from ekd_tf.metrics.streaming import StreamedRoc
from ekd_tf.metrics.streaming import streamed_roc

__all__ = [
    "ALL_SWITCHES",
    "GallerySearch",
    "IdentityScores",
    "KFoldResult",
    "RocPoint",
    "StreamedRoc",
    "Switches",
    "TemplateList",
    "allowed_negatives",
    "auc",
    "best_accuracy",
    "equal_error_rate",
    "fold_intervals",
    "format_fpr",
    "folds_of",
    "identity_intervals",
    "kfold_accuracy",
    "normalize_rows",
    "operating_points",
    "pool_templates",
    "rank_rates",
    "roc_curve",
    "squared_distances",
    "streamed_roc",
    "tpir_at_fpir",
    "tpr_at_fpr",
    "tpr_at_nearest_fpr",
]
