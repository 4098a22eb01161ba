"""Model and labelled images to a report, in numbers and pictures."""

from ekd_tf.evaluation.allpairs import PairBlocks
from ekd_tf.evaluation.allpairs import all_pair_scores
from ekd_tf.evaluation.allpairs import all_pairs_roc
from ekd_tf.evaluation.drawn_pairs import draw_pairs
from ekd_tf.evaluation.embed import Embedder
from ekd_tf.evaluation.embed import embed
from ekd_tf.evaluation.gap import GapPoint
from ekd_tf.evaluation.gap import GapReport
from ekd_tf.evaluation.gap import compare
from ekd_tf.evaluation.heldout import HeldoutEvaluation
from ekd_tf.evaluation.heldout import HeldoutResult
from ekd_tf.evaluation.plots import plot_roc
from ekd_tf.evaluation.plots import plot_similarities
from ekd_tf.evaluation.tables import format_fpr
from ekd_tf.evaluation.tables import format_table
from ekd_tf.evaluation.verification import VerificationReport
from ekd_tf.evaluation.verification import verify
from ekd_tf.evaluation.verification import verify_pairs

__all__ = [
    "Embedder",
    "GapPoint",
    "GapReport",
    "HeldoutEvaluation",
    "HeldoutResult",
    "PairBlocks",
    "VerificationReport",
    "all_pair_scores",
    "all_pairs_roc",
    "compare",
    "draw_pairs",
    "embed",
    "format_fpr",
    "format_table",
    "plot_roc",
    "plot_similarities",
    "verify",
    "verify_pairs",
]
