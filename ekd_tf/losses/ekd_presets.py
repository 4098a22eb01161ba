"""What EKD's presets stand for."""

from ekd_tf.checks import check_choice
from ekd_tf.mining.critical import DEFAULT_FPRS

PRESETS = {
    "default": {
        "temperature": 0.1,
        "thresholds": "histogram",
        "bias_correction": True,
        "threshold_gradient": True,
        "memory": 2048,
    },
    "reference": {
        "temperature": 0.01,
        "thresholds": "ema",
        "bias_correction": False,
        "threshold_gradient": False,
        "memory": 0,
    },
}
# All that "reference" fixes.
_REFERENCE = {
    **PRESETS["reference"],
    "fprs": DEFAULT_FPRS,
    "num_negatives": 2000,
    "momentum": 0.01,
    "positive_weight": 0.02,
    "negative_weight": 0.01,
}


def resolve_preset(preset, **given):
    """Returns `given` with what is None filled in from a preset.

    Raises:
        ValueError: If there is no such preset.
    """
    check_choice("preset", preset, PRESETS)
    of_preset = PRESETS[preset]
    return {
        name: of_preset[name] if value is None else value
        for name, value in given.items()
    }


def check_reference(loss):
    """Raises `ValueError` naming all that departs from the reference implementation.

    Args:
        loss: `EKDLoss`, whose attributes are compared.
    """
    wrong = [
        f"{name}={getattr(loss, name)!r} (reference: {value!r})"
        for name, value in _REFERENCE.items()
        if getattr(loss, name) != value
    ]
    if wrong:
        raise ValueError(
            'preset="reference" fixes the arguments of the reference implementation. '
            f"Received: {', '.join(wrong)}"
        )
