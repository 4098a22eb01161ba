import numpy as np
import pytest
import tensorflow as tf

from ekd_tf import checks


def message(check, *args, **kwargs):
    with pytest.raises(ValueError) as caught:
        check(*args, **kwargs)
    return str(caught.value)


# --- choices


def test_errors_call_arguments_by_their_flags():
    with pytest.raises(ValueError) as error:
        with checks.flag_words(identities="balanced_identities", general="general"):
            raise ValueError(
                "`identities` must be below the identities, 3. Received: identities=4, "
                "general=1, other=2"
            )
    assert str(error.value) == (
        "`--balanced_identities` must be below the identities, 3. Received: "
        "--balanced_identities=4, --general=1, other=2"
    )
    with pytest.raises(ValueError, match="^`a`$"), checks.flag_words():
        raise ValueError("`a`")


def test_choices_are_answered_with_the_list_and_the_closest():
    offered = ("ema", "histogram")
    assert checks.check_choice("mode", "ema", offered) == "ema"
    assert message(checks.check_choice, "mode", 3, ("a", "b")) == (
        "`mode` must be one of 'a', 'b'. Received: 3."
    )
    assert message(checks.check_choice, "mode", "histogramm", offered) == (
        "`mode` must be one of 'ema', 'histogram'. Received: 'histogramm'. "
        "Did you mean 'histogram'?"
    )


# --- ranges


def test_values_inside_are_returned():
    both_open = {"low": 0, "high": 1, "low_open": True, "high_open": True}
    for value, bounds in (
        (0, {"low": 0}),
        (1, {"low": 0, "high": 1}),
        (-5, {"high": 1}),
        (0.5, both_open),
        (1e9, {}),
    ):
        assert checks.check_range("x", value, **bounds) == value
    assert checks.check_positive("rate", 1e-9) == 1e-9
    assert checks.check_angle("margin", 0.5) == 0.5


def test_values_outside_are_answered_with_the_interval():
    for value, bounds, interval in (
        (-1, {"low": 0}, "[0, inf)"),
        (0, {"low": 0, "low_open": True}, "(0, inf)"),
        (2, {"low": 0, "high": 1}, "[0, 1]"),
        (1, {"low": 0, "high": 1, "high_open": True}, "[0, 1)"),
        (2, {"high": 1}, "(-inf, 1]"),
        (float("nan"), {"low": 0}, "[0, inf)"),
        (float("nan"), {"high": 0}, "(-inf, 0]"),
    ):
        assert message(checks.check_range, "x", value, **bounds) == (
            f"`x` must be in {interval}. Received: x={value}"
        )
    assert message(checks.check_positive, "rate", 0) == (
        "`rate` must be in (0, inf). Received: rate=0"
    )
    assert message(checks.check_angle, "margin", 28.6) == (
        "`margin` must be in [0, pi/2) radians. Received: margin=28.6"
    )


# --- tensors


def test_rank():
    checks.check_rank("rows", tf.zeros([2, 3]), 2)
    assert message(checks.check_rank, "rows", tf.zeros([2, 3]), 1) == (
        "`rows` must have 1 dimensions. Received: rows.shape=(2, 3)"
    )


def test_same_batch():
    checks.check_same_batch(a=tf.zeros([2, 3]), b=np.zeros(2))
    assert message(checks.check_same_batch, a=tf.zeros([2, 3]), b=np.zeros(3)) == (
        "All inputs must come from the same batch. Received batch sizes: a=2, b=3"
    )


def test_batch_size_unknown_while_tracing_agrees_with_any():
    @tf.function(input_signature=[tf.TensorSpec([None, 2])])
    def trace(rows):
        checks.check_rank("rows", rows, 2)
        checks.check_same_batch(rows=rows, labels=tf.zeros([4]))
        return rows

    trace(tf.zeros([4, 2]))
    with pytest.raises(ValueError, match="a=2, b=None, c=3"):
        tf.function(
            lambda b: checks.check_same_batch(a=tf.zeros(2), b=b, c=tf.zeros(3)),
            input_signature=[tf.TensorSpec([None])],
        ).get_concrete_function()
