"""Face images from bytes to batches; knows no model."""

from ekd_tf.data.augment import Augmentation
from ekd_tf.data.pairs import LinkedImages
from ekd_tf.data.pairs import PairSet
from ekd_tf.data.pairs import read_pairs
from ekd_tf.data.pipeline import Pipeline
from ekd_tf.data.pipeline import evaluation_batches
from ekd_tf.data.pipeline import make_pipeline
from ekd_tf.data.readable import readable_images
from ekd_tf.data.readable import readable_indices
from ekd_tf.data.readable import readable_pairs
from ekd_tf.data.readable import readable_templates
from ekd_tf.data.readable import sample_faces
from ekd_tf.data.readable import sample_images
from ekd_tf.data.sampling import BatchSampler
from ekd_tf.data.source import Images
from ekd_tf.data.source import Source
from ekd_tf.data.source import Subset
from ekd_tf.data.source import split_identities
from ekd_tf.data.sources.files import ListedImages
from ekd_tf.data.sources.files import images_below
from ekd_tf.data.sources.folder import FolderFaces
from ekd_tf.data.sources.huggingface import HuggingFaceFaces
from ekd_tf.data.sources.joined import JoinedSources
from ekd_tf.data.sources.recordio import RecordIOFaces
from ekd_tf.data.sources.tface import read_tface
from ekd_tf.data.sources.tfrecord import TFRecordFaces
from ekd_tf.data.sources.webdataset import WebDatasetFaces
from ekd_tf.data.synthetic.faces import SyntheticFaces
from ekd_tf.data.templates import TemplateSet
from ekd_tf.data.templates import read_template_set
from ekd_tf.data.views import DrawnViews

__all__ = [
    "Augmentation",
    "BatchSampler",
    "DrawnViews",
    "FolderFaces",
    "HuggingFaceFaces",
    "Images",
    "JoinedSources",
    "LinkedImages",
    "ListedImages",
    "PairSet",
    "Pipeline",
    "RecordIOFaces",
    "Source",
    "Subset",
    "SyntheticFaces",
    "TFRecordFaces",
    "TemplateSet",
    "WebDatasetFaces",
    "evaluation_batches",
    "images_below",
    "make_pipeline",
    "read_pairs",
    "read_template_set",
    "read_tface",
    "readable_images",
    "readable_indices",
    "readable_pairs",
    "readable_templates",
    "sample_faces",
    "sample_images",
    "split_identities",
]
