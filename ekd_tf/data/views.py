"""Views of images that are drawn once, so that embeddings of them can be kept."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from ekd_tf import checks
from ekd_tf.data.augment import NUM_DRAWS
from ekd_tf.data.augment import Augmentation
from ekd_tf.data.augment import flip_images
from ekd_tf.data.sampling import chosen_views

# Views an image may have: seeds of the draws are image * _MOST + view.
_MOST = 1 << 16


@dataclasses.dataclass(frozen=True)
class DrawnViews:
    """`count` views of every image; what is done in view v of image i is f(seed, i, v).

    A teacher that embedded them and a student that is trained on them see the same
    pixels, as a patient teacher's student should (Beyer et al., 2022,
    arXiv:2106.05237). With another `count` the first views stay what they are.

    Attributes:
        count: Views of an image, 1..65,536.
        seed: Integer >= 0.
        flip: Whether half of the views are mirrored.
    """

    count: int
    seed: int = 0
    flip: bool = True

    def __post_init__(self) -> None:
        checks.check_range("views", self.count, low=1, high=_MOST)
        checks.check_range("seed", self.seed, low=0)

    def choose(self, seed: int, step: int, rows: int) -> np.ndarray:
        """Returns int64 `(rows,)`: the views a step takes, as f(seed, step, row)."""
        return chosen_views(seed, step, rows, self.count)

    def make(
        self,
        pixels: dict[str, tf.Tensor],
        augmentations: dict[str, Augmentation],
        images: tf.Tensor,
        views: tf.Tensor,
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Returns a view of each image of a batch, and bool `(batch,)`: which mirrored.

        Args:
            pixels: Names to uint8 `(batch, size, size, 3)`, the batch in some sizes.
            augmentations: By the same names, what draws are made into; none for {}.
            images: int64 `(batch,)`, positions of the images in their whole source.
            views: int64 `(batch,)`, 0..count-1.
        """
        uniform = self._uniform(images, views)
        flips, draws = uniform[:, 0] < (0.5 if self.flip else 0.0), uniform[:, 1:]
        made = {name: flip_images(rows, flips) for name, rows in pixels.items()}
        for name, augmentation in augmentations.items():
            made[name] = augmentation(made[name], draws)
        return made, flips

    def _uniform(self, images, views):
        """Returns float32 `(batch, 1 + NUM_DRAWS)` in [0, 1)."""

        def of_one(seed):
            return tf.random.stateless_uniform([1 + NUM_DRAWS], seed, alg="philox")

        numbers = images * _MOST + views
        seeds = tf.stack([tf.fill(tf.shape(numbers), np.int64(self.seed)), numbers], 1)
        return tf.map_fn(of_one, seeds, fn_output_signature=tf.float32)
