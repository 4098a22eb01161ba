"""Scores and labels to numbers, in NumPy alone: nothing here needs TensorFlow."""

from ekd_tf.metrics.bootstrap import fold_intervals as fold_intervals
from ekd_tf.metrics.bootstrap import identity_intervals as identity_intervals
from ekd_tf.metrics.identification import GallerySearch as GallerySearch
from ekd_tf.metrics.identification import tpir_at_fpir as tpir_at_fpir
from ekd_tf.metrics.kfold import best_accuracy as best_accuracy
from ekd_tf.metrics.kfold import folds_of as folds_of
from ekd_tf.metrics.kfold import kfold_accuracy as kfold_accuracy
from ekd_tf.metrics.kfold import squared_distances as squared_distances
from ekd_tf.metrics.normalize import UnusableRows as UnusableRows
from ekd_tf.metrics.normalize import naming_images as naming_images
from ekd_tf.metrics.normalize import normalize_rows as normalize_rows
from ekd_tf.metrics.pooling import ALL_SWITCHES as ALL_SWITCHES
from ekd_tf.metrics.pooling import pool_templates as pool_templates
from ekd_tf.metrics.roc import ROC as ROC
from ekd_tf.metrics.roc import OperatingPoint as OperatingPoint
from ekd_tf.metrics.roc import allowed_negatives as allowed_negatives
from ekd_tf.metrics.roc import format_fpr as format_fpr
from ekd_tf.metrics.streaming import streamed_roc as streamed_roc
