"""Model and labelled images to a report, in numbers and pictures."""

from ekd_tf.evaluation.allpairs import all_pair_scores
from ekd_tf.evaluation.allpairs import all_pairs_roc
from ekd_tf.evaluation.calibration import Calibration
from ekd_tf.evaluation.calibration import calibrate
from ekd_tf.evaluation.calibration import check_calibration
from ekd_tf.evaluation.calibration import is_of_one_model
from ekd_tf.evaluation.calibration import read_calibration
from ekd_tf.evaluation.calibration import write_calibration
from ekd_tf.evaluation.embed import Embedder
from ekd_tf.evaluation.embed import Models
from ekd_tf.evaluation.embed import SourceEmbedder
from ekd_tf.evaluation.gap import compare
from ekd_tf.evaluation.identification import IdentificationEvaluation
from ekd_tf.evaluation.ijb import IJBEvaluation
from ekd_tf.evaluation.plots import plot_roc
from ekd_tf.evaluation.protocols import LabelledEvaluation
from ekd_tf.evaluation.protocols import PairSetEvaluation
from ekd_tf.evaluation.result import Result
from ekd_tf.evaluation.tables import format_table
from ekd_tf.evaluation.verification import VerificationReport
from ekd_tf.evaluation.verification import verify_embeddings
from ekd_tf.evaluation.verification import verify_pairs
from ekd_tf.metrics import format_fpr

__all__ = [
    "Calibration",
    "Embedder",
    "IJBEvaluation",
    "IdentificationEvaluation",
    "LabelledEvaluation",
    "Models",
    "PairSetEvaluation",
    "Result",
    "SourceEmbedder",
    "VerificationReport",
    "all_pair_scores",
    "all_pairs_roc",
    "calibrate",
    "check_calibration",
    "compare",
    "format_fpr",
    "format_table",
    "is_of_one_model",
    "plot_roc",
    "read_calibration",
    "verify_embeddings",
    "verify_pairs",
    "write_calibration",
]
