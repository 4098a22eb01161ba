"""Distillation losses: student, teacher and labels to named scalars."""

from ekd_tf.losses.ada_distill import AdaDistillLoss
from ekd_tf.losses.base import DistillationLoss
from ekd_tf.losses.base import ProjectedLoss
from ekd_tf.losses.centres import CentreLoss
from ekd_tf.losses.centres import MarginDistillationLoss
from ekd_tf.losses.centres import ProxylessKDLoss
from ekd_tf.losses.centres import ShrinkTeaNetLoss
from ekd_tf.losses.darkrank import DarkRankLoss
from ekd_tf.losses.direct import CosineLoss
from ekd_tf.losses.direct import FitNetLoss
from ekd_tf.losses.ekd import EKDLoss
from ekd_tf.losses.ekd_centres import EKDCentresLoss
from ekd_tf.losses.gkd import GKDLoss
from ekd_tf.losses.icd_face import ICDFaceLoss
from ekd_tf.losses.kd import KDLoss
from ekd_tf.losses.pairwise import CCKDLoss
from ekd_tf.losses.pairwise import PKTLoss
from ekd_tf.losses.pairwise import SPLoss
from ekd_tf.losses.rkd import RKDLoss
from ekd_tf.losses.triplet_distillation import TripletDistillationLoss

# What `--distill` calls them.
LOSSES = {
    "ekd": EKDLoss,
    "ekd_reference": EKDLoss.reference,
    "ekd_centres": EKDCentresLoss,
    "cosine": CosineLoss,
    "fitnet": FitNetLoss,
    "kd": KDLoss,
    "gkd": GKDLoss,
    "sp": SPLoss,
    "pkt": PKTLoss,
    "icd_face": ICDFaceLoss,
    "cckd": CCKDLoss,
    "rkd": RKDLoss,
    "darkrank": DarkRankLoss,
    "shrinkteanet": ShrinkTeaNetLoss,
    "triplet_distillation": TripletDistillationLoss,
    "margin_distillation": MarginDistillationLoss,
    "proxyless_kd": ProxylessKDLoss,
    "ada_distill": AdaDistillLoss,
}

__all__ = [
    "LOSSES",
    "AdaDistillLoss",
    "CCKDLoss",
    "CentreLoss",
    "CosineLoss",
    "DarkRankLoss",
    "DistillationLoss",
    "EKDCentresLoss",
    "EKDLoss",
    "FitNetLoss",
    "GKDLoss",
    "ICDFaceLoss",
    "KDLoss",
    "MarginDistillationLoss",
    "PKTLoss",
    "ProjectedLoss",
    "ProxylessKDLoss",
    "RKDLoss",
    "SPLoss",
    "ShrinkTeaNetLoss",
    "TripletDistillationLoss",
]
