"""The pairs of a batch on which teacher and student may decide differently."""

from ekd_tf.mining.miner import DEFAULT_FPRS
from ekd_tf.mining.miner import Memory
from ekd_tf.mining.miner import MinedPairs
from ekd_tf.mining.miner import ModelPairs
from ekd_tf.mining.miner import PairMiner
from ekd_tf.mining.miner import Pairs

__all__ = [
    "DEFAULT_FPRS",
    "Memory",
    "MinedPairs",
    "ModelPairs",
    "PairMiner",
    "Pairs",
]
