"""Random state_dicts of the small networks of torch_networks.py."""

import functools

import numpy as np
import torch_networks


class State(dict):
    """A state_dict with the walk over the modules whose arrays it holds."""

    def __init__(self, rng, network, **sizes):
        super().__init__()
        self.walk = functools.partial(network, **sizes)
        self.walk(torch_networks.Net(self, rng), np.zeros((1, 3, 32, 32)))


def reference_embeddings(family, state, images):
    """Returns what the definition of the torch network gives, in float64.

    Args:
        family: One of `ekd_tf.models.TORCH_FAMILIES`; `state` knows of which it is.
        state: Of one of the functions below.
        images: Uint8 `(n, 32, 32, 3)`, in the order of colours of the weights.
    """
    pixels = (images.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.5
    return state.walk(torch_networks.Net(state), pixels)


def iresnet_state(rng, blocks=(2, 2, 2, 2)):
    state = State(rng, torch_networks.iresnet, blocks=blocks)
    state["features.weight"] = np.ones(6, np.float32)
    return state


def ir_state(rng, blocks=None, bottleneck=False):
    family = "tface_ir_152" if bottleneck else "tface_ir_18"
    blocks = blocks or torch_networks.IR_STAGES[family]
    return State(rng, torch_networks.ir, blocks=blocks, bottleneck=bottleneck)


def mbf_state(rng, scale=2, blocks=(1, 4, 6, 2)):
    return State(rng, torch_networks.mbf, scale=scale, blocks=blocks)


def mobilefacenet_state(rng, blocks=(1, 4, 6, 2)):
    return State(rng, torch_networks.mobilefacenet, blocks=blocks)
