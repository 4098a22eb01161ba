"""Distillation losses: student, teacher and labels to named scalars."""

from collections.abc import Callable

from ekd_tf.losses.base import DistillationLoss as DistillationLoss
from ekd_tf.losses.centres import AdaDistillLoss as AdaDistillLoss
from ekd_tf.losses.centres import CentreLoss as CentreLoss
from ekd_tf.losses.centres import MarginDistillationLoss as MarginDistillationLoss
from ekd_tf.losses.centres import ProxylessKDLoss as ProxylessKDLoss
from ekd_tf.losses.centres import ShrinkTeaNetLoss as ShrinkTeaNetLoss
from ekd_tf.losses.centres import check_centres as check_centres
from ekd_tf.losses.direct import CosineLoss as CosineLoss
from ekd_tf.losses.direct import FitNetLoss as FitNetLoss
from ekd_tf.losses.direct import ProjectedLoss as ProjectedLoss
from ekd_tf.losses.ekd import EKDLoss as EKDLoss
from ekd_tf.losses.ekd_centres import EKDCentresLoss as EKDCentresLoss
from ekd_tf.losses.kd import GKDLoss as GKDLoss
from ekd_tf.losses.kd import KDLoss as KDLoss
from ekd_tf.losses.pairwise import CCKDLoss as CCKDLoss
from ekd_tf.losses.pairwise import DarkRankLoss as DarkRankLoss
from ekd_tf.losses.pairwise import ICDFaceLoss as ICDFaceLoss
from ekd_tf.losses.pairwise import PKTLoss as PKTLoss
from ekd_tf.losses.pairwise import SPLoss as SPLoss
from ekd_tf.losses.triples import RKDLoss as RKDLoss
from ekd_tf.losses.triples import TripletDistillationLoss as TripletDistillationLoss
from ekd_tf.losses.unikd import UniKDLoss as UniKDLoss

# What `--distill` calls them.
LOSSES: dict[str, Callable[..., DistillationLoss]] = {
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
    "unikd": UniKDLoss,
    "cckd": CCKDLoss,
    "rkd": RKDLoss,
    "darkrank": DarkRankLoss,
    "shrinkteanet": ShrinkTeaNetLoss,
    "triplet_distillation": TripletDistillationLoss,
    "margin_distillation": MarginDistillationLoss,
    "proxyless_kd": ProxylessKDLoss,
    "ada_distill": AdaDistillLoss,
}
