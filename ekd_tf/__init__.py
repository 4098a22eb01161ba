"""Evaluation-oriented knowledge distillation for face recognition.

How a batch becomes an update, in the order to read: `run.session` is a training from
top to bottom; `data.pipeline` makes batches of a source's images; `run.teacher` brings
the teacher and its rows; `training.classifier` makes the step, to which
`training.distiller` adds the distillation losses, over replicas by `ops.collective` and
weighted by `training.gradient_share`; `losses.ekd` compares the ranks of the pairs that
`mining.miner` finds, `losses.ekd_centres` with class centres among them;
`training.update` updates the variables.

Public names are imported when first used, so that `import ekd_tf` costs nothing and
touches no device.
"""

import importlib

from ekd_tf.version import __version__

_HOME = {
    "ArcFace": "ekd_tf.heads",
    "BatchSampler": "ekd_tf.data",
    "CosFace": "ekd_tf.heads",
    "CosineLoss": "ekd_tf.losses",
    "PairMiner": "ekd_tf.mining",
    "DistillationLoss": "ekd_tf.losses",
    "Distiller": "ekd_tf.training",
    "EKDCentresLoss": "ekd_tf.losses",
    "EKDLoss": "ekd_tf.losses",
    "FaceClassifier": "ekd_tf.training",
    "FolderFaces": "ekd_tf.data",
    "GradientShare": "ekd_tf.training",
    "IResNet": "ekd_tf.models",
    "MobileFaceNet": "ekd_tf.models",
    "SyntheticFaces": "ekd_tf.data",
    "export_student": "ekd_tf.export",
    "load_embedder": "ekd_tf.embedders",
    "make_pipeline": "ekd_tf.data",
    "measure_gap": "ekd_tf.evaluation",
    "verify_embeddings": "ekd_tf.evaluation",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module 'ekd_tf' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__():
    return sorted(__all__)
