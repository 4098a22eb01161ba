import numpy as np

from ekd_tf.evaluation.tables import format_table


def test_table_written_out():
    rows = [["ekd", 0.98765, 7], ["student alone", None, 1234], ["a|b", 1.0, None]]
    table = format_table(rows, ["model", "accuracy", "n"])
    assert table.split("\n") == [
        "| model         | accuracy |    n |",
        "| ------------- | -------: | ---: |",
        "| ekd           |   0.9877 |    7 |",
        "| student alone |      n/a | 1234 |",
        "| a\\|b          |   1.0000 |  n/a |",
    ]


def test_numpy_numbers_look_like_python_numbers():
    table = format_table([[np.float32(0.5), np.int64(3), True]], ["x", "y", "flag"])
    assert table.split("\n")[2] == "| 0.5000 |   3 | True |"
