"""Methods side by side, over seeds: one grid of trainings and its report."""

from ekd_tf.compare.comparison import Comparison as Comparison
from ekd_tf.compare.comparison import RunFigures as RunFigures
from ekd_tf.compare.comparison import Spread as Spread
from ekd_tf.compare.comparison import kept_figures as kept_figures
from ekd_tf.compare.comparison import write_comparison as write_comparison
