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


def test_values_are_answered_with_the_interval_they_must_be_in():
    nan = float("nan")
    for interval, bounds, inside, outside in (
        ("[0, inf)", {"low": 0}, (0, 1e9), (-1, nan)),
        ("(0, inf)", {"low": 0, "low_open": True}, (1e-9,), (0,)),
        ("[0, 1]", {"low": 0, "high": 1}, (0, 1), (2,)),
        ("[0, 1)", {"low": 0, "high": 1, "high_open": True}, (0.5,), (1,)),
        ("(-inf, 1]", {"high": 1}, (-5,), (2, nan)),
    ):
        for value in inside:
            assert checks.check_range("x", value, **bounds) == value
        for value in outside:
            words = f"`x` must be in {interval}. Received: x={value}"
            assert message(checks.check_range, "x", value, **bounds) == words
    assert checks.check_positive("rate", 1e-9) == 1e-9
    assert checks.check_angle("margin", 0.5) == 0.5
    assert message(checks.check_angle, "margin", 28.6) == (
        "`margin` must be in [0, pi/2) radians. Received: margin=28.6"
    )


# --- tensors


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
