"""One HTML page of an evaluation, of a comparison or of a run, for any browser."""

from ekd_tf.page.columns import Attributes
from ekd_tf.page.curves import run_content
from ekd_tf.page.deployment import deployment
from ekd_tf.page.document import image_bytes
from ekd_tf.page.document import write_page
from ekd_tf.page.sets import set_section

__all__ = [
    "Attributes",
    "deployment",
    "image_bytes",
    "run_content",
    "set_section",
    "write_page",
]
