"""The pairs of a batch on which teacher and student may decide differently."""

from ekd_tf.mining.miner import PairMiner as PairMiner
