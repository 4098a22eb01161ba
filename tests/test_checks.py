import tensorflow as tf
from refusals import refused

from ekd_tf import checks


def test_errors_call_arguments_by_their_flags():
    def failing(text, **flags):
        with checks.flag_words(**flags):
            raise ValueError(text)

    text = "`identities` must be below the identities, 3. Received: identities=4, "
    flags = {"identities": "balanced_identities", "general": "general"}
    assert refused(None, failing, text + "general=1, other=2", **flags) == (
        "`--balanced_identities` must be below the identities, 3. Received: "
        "--balanced_identities=4, --general=1, other=2"
    )
    assert refused(None, failing, "`a`") == "`a`"


def test_choices_are_answered_with_the_list_and_the_closest():
    offered = ("ema", "histogram")
    assert checks.check_choice("mode", "ema", offered) == "ema"
    for value, words in (
        (3, "3."),
        ("histogramm", "'histogramm'. Did you mean 'histogram'?"),
    ):
        words = f"`mode` must be one of 'ema', 'histogram'. Received: {words}"
        assert refused(None, checks.check_choice, "mode", value, offered) == words


def test_values_are_answered_with_the_interval_they_must_be_in():
    nan, inf = float("nan"), float("inf")
    for interval, bounds, inside, outside in (
        ("[0, inf)", {"low": 0}, (0, 1e9), (-1, nan, inf)),
        ("(0, inf)", {"low": 0, "low_open": True}, (1e-9,), (0,)),
        ("[0, 1]", {"low": 0, "high": 1}, (0, 1), (2,)),
        ("[0, 1)", {"low": 0, "high": 1, "high_open": True}, (0.5,), (1,)),
        ("(-inf, 1]", {"high": 1}, (-5,), (2, nan, -inf)),
    ):
        for value in inside:
            assert checks.check_range("x", value, **bounds) == value
        for value in outside:
            words = f"`x` must be in {interval}. Received: x={value}"
            assert refused(None, checks.check_range, "x", value, **bounds) == words
    assert checks.check_angle("margin", 0.5) == 0.5
    words = "`margin` must be in [0, pi/2) radians. Received: margin=28.6"
    assert refused(None, checks.check_angle, "margin", 28.6) == words


def test_batch_size_unknown_while_tracing_agrees_with_any():
    def trace(*sizes):
        def check(b):
            checks.check_rank("b", b, 1)
            known = {f"of_{size}": tf.zeros(size) for size in sizes}
            checks.check_same_batch(b=b, **known)

        of_any_size = tf.TensorSpec([None])
        tf.function(check, autograph=False).get_concrete_function(of_any_size)

    trace(2)
    refused("b=None, of_2=2, of_3=3", trace, 2, 3)


def test_whole_numbers():
    assert checks.check_whole("n", 3.0, 2) == 3
    refused("`n` must be a whole number.*n=2.7", checks.check_whole, "n", 2.7, 0)
    for value in (1, float("inf")):
        refused(r"`n` must be in \[2, inf\)", checks.check_whole, "n", value, 2)
    refused("`n` must be a number. Received: n='100%'", checks.check_range, "n", "100%")
