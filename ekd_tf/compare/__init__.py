"""Methods side by side, over seeds: one grid of trainings and its report."""

from ekd_tf.compare.comparison import Comparison
from ekd_tf.compare.comparison import RunFigures
from ekd_tf.compare.comparison import Spread
from ekd_tf.compare.comparison import kept_figures
from ekd_tf.compare.report import write_comparison

__all__ = [
    "Comparison",
    "RunFigures",
    "Spread",
    "kept_figures",
    "write_comparison",
]
