"""Critical pairs: where teacher and student may decide differently."""

from ekd_tf.mining.critical import CriticalCounts
from ekd_tf.mining.critical import CriticalPairMiner
from ekd_tf.mining.critical import MinedPairs
from ekd_tf.mining.critical import ModelPairs
from ekd_tf.mining.critical import critical_counts

__all__ = [
    "CriticalCounts",
    "CriticalPairMiner",
    "MinedPairs",
    "ModelPairs",
    "critical_counts",
]
