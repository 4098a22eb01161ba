"""Model and labelled images to a report, in numbers and pictures."""

from ekd_tf.evaluation.allpairs import all_pair_scores as all_pair_scores
from ekd_tf.evaluation.allpairs import all_pairs_roc as all_pairs_roc
from ekd_tf.evaluation.calibration import Calibration as Calibration
from ekd_tf.evaluation.calibration import calibrate as calibrate
from ekd_tf.evaluation.calibration import check_calibration as check_calibration
from ekd_tf.evaluation.calibration import is_of_one_model as is_of_one_model
from ekd_tf.evaluation.calibration import read_calibration as read_calibration
from ekd_tf.evaluation.calibration import write_calibration as write_calibration
from ekd_tf.evaluation.embed import Embedder as Embedder
from ekd_tf.evaluation.embed import Models as Models
from ekd_tf.evaluation.embed import SourceEmbedder as SourceEmbedder
from ekd_tf.evaluation.gap import measure_gap as measure_gap
from ekd_tf.evaluation.identification import (
    IdentificationEvaluation as IdentificationEvaluation,
)
from ekd_tf.evaluation.ijb import IJBEvaluation as IJBEvaluation
from ekd_tf.evaluation.plots import plot_roc as plot_roc
from ekd_tf.evaluation.protocols import LabelledEvaluation as LabelledEvaluation
from ekd_tf.evaluation.protocols import PairSetEvaluation as PairSetEvaluation
from ekd_tf.evaluation.result import Result as Result
from ekd_tf.evaluation.tables import format_table as format_table
from ekd_tf.evaluation.verification import VerificationReport as VerificationReport
from ekd_tf.evaluation.verification import measurable_curve as measurable_curve
from ekd_tf.evaluation.verification import verify_embeddings as verify_embeddings
from ekd_tf.evaluation.verification import verify_pairs as verify_pairs
from ekd_tf.metrics import format_fpr as format_fpr
