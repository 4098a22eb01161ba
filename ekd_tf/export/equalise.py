"""Channels brought to like ranges before int8, without changing what is computed."""

from __future__ import annotations

import keras
import numpy as np

from ekd_tf.models import PReLU

# Activations with f(s x) = s f(x) for s > 0.
_HOMOGENEOUS = (PReLU, keras.layers.PReLU, keras.layers.ReLU, keras.layers.LeakyReLU)
_LIMIT = 100.0


def equalise(student: keras.Model, images: np.ndarray, batch_size: int = 16):
    r"""Scales channels so that one int8 scale suits all channels of an activation.

    int8 has one scale for all channels of an activation. A channel whose range is a
    hundredth of the widest is left two steps. Between a batch normalisation and the
    convolution behind it lies only an activation with $f(s x) = s f(x)$, so that the
    former's channel c can be multiplied by $s_c > 0$ and the latter's weights for it
    divided: the network computes the same. Before a depthwise convolution, which has
    a scale per channel, all ranges are made equal; before a convolution over channels
    the range $r_c$ of the activation and that of the weights, $w_c$, meet at
    $\sqrt{r_c w_c}$.

    Args:
        student: A float32 functional model; its weights are changed in place. Each of
            its layers is used once.
        images: Uint8 `(n, height, width, 3)`, n >= 1, to take the ranges from.
        batch_size: Int >= 1.

    Returns:
        The number of batch normalisations that were scaled.

    Reference:
        Nagel et al., 2019, arXiv:1906.04721, section 4.1. Departs from it in taking
        $r_c$ from images, where they take the range of the weights before.
    """
    pairs = _pairs(student)
    if not pairs:
        return 0
    ranges = _ranges(student, [norm for norm, _ in pairs], images, batch_size)
    for (norm, conv), r in zip(pairs, ranges):
        kernel = conv.get_weights()[0]
        depthwise = isinstance(conv, keras.layers.DepthwiseConv2D)
        if depthwise:
            factor = 1 / np.maximum(r, 1e-12)
        else:
            w = np.abs(kernel).max(axis=(0, 1, 3))
            factor = np.sqrt(w / np.maximum(r, 1e-12))
        alive = (r > 0) & (factor > 0)
        # The widest range stays what it is about; a channel that is always 0 has none.
        middle = np.exp(np.log(factor[alive]).mean()) if alive.any() else 1.0
        factor = np.clip(
            np.where(alive, factor / middle, 1.0), 1 / _LIMIT, _LIMIT
        ).astype(np.float32)
        norm.gamma.assign(norm.gamma * factor)
        norm.beta.assign(norm.beta * factor)
        rest = conv.get_weights()[1:]
        # (height, width, channels in, outputs of each) in both kinds.
        conv.set_weights([kernel / factor[:, None], *rest])
    return len(pairs)


def _pairs(student):
    """Finds (batch normalisation, convolution) with one homogeneous layer between."""
    consumers = {}
    for layer in student.layers:
        for tensor in _list(layer.input):
            consumers.setdefault(id(tensor), []).append(layer)

    def only_consumer(layer):
        after = consumers.get(id(layer.output), [])
        return after[0] if len(after) == 1 else None

    pairs = []
    for norm in student.layers:
        if not (
            isinstance(norm, keras.layers.BatchNormalization)
            and norm.scale
            and norm.center
            and isinstance(only_consumer(norm), _HOMOGENEOUS)
        ):
            continue
        after = only_consumer(only_consumer(norm))
        if isinstance(after, keras.layers.ZeroPadding2D):
            after = only_consumer(after)
        if isinstance(after, keras.layers.Conv2D) and getattr(after, "groups", 1) == 1:
            pairs.append((norm, after))
        elif isinstance(after, keras.layers.DepthwiseConv2D):
            pairs.append((norm, after))
    return pairs


def _ranges(student, norms, images, batch_size):
    """Returns the largest absolute output of each channel, float64, per layer."""
    probe = keras.Model(student.inputs[0], [norm.output for norm in norms])
    found = [np.zeros(norm.output.shape[-1]) for norm in norms]
    for start in range(0, len(images), batch_size):
        outputs = probe(images[start : start + batch_size], training=False)
        for row, output in zip(found, _list(outputs)):
            np.maximum(row, np.abs(output).max(axis=(0, 1, 2)), out=row)
    return found


def _list(value):
    return list(value) if isinstance(value, (list, tuple)) else [value]
