"""One HTML page of an evaluation, of a comparison or of a run, for any browser."""

from ekd_tf.page.columns import Attributes as Attributes
from ekd_tf.page.document import image_bytes as image_bytes
from ekd_tf.page.document import write_page as write_page
from ekd_tf.page.sets import set_section as set_section
from ekd_tf.page.workdir import deployment as deployment
from ekd_tf.page.workdir import run_content as run_content
