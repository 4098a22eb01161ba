"""The pairs of a batch on which teacher and student may decide differently."""

from ekd_tf.mining.miner import DEFAULT_FPRS as DEFAULT_FPRS
from ekd_tf.mining.miner import Memory as Memory
from ekd_tf.mining.miner import PairMiner as PairMiner
from ekd_tf.mining.miner import Pairs as Pairs
