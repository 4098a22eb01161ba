import pathlib
import subprocess
import sys

import pytest
from refusals import refused

from ekd_tf.files.user_text import command_line
from ekd_tf.files.user_text import is_utf8
from ekd_tf.files.user_text import one_line
from ekd_tf.files.user_text import open_bytes
from ekd_tf.files.user_text import open_text
from ekd_tf.files.user_text import without_folders


@pytest.mark.parametrize("raw", [b"\xef\xbb\xbfa\r\nb\xe9\n", b"a\nb\xe9\n"])
def test_marks_are_skipped_and_other_bytes_kept(tmp_path, raw):
    path = tmp_path / "a.txt"
    path.write_bytes(raw)
    with open_text(path) as file:
        assert file.read() == "a\nb\udce9\n"
    with open_bytes(path) as file:
        assert file.readline().strip() == b"a"
    assert is_utf8("aé") and not is_utf8("b\udce9")


def test_files_that_cannot_be_read_are_named(tmp_path):
    refused("cannot read .*none.txt: No such file", open_text, tmp_path / "none.txt")
    (tmp_path / "wide.txt").write_bytes("a".encode("utf-16"))
    refused("wide.txt is UTF-16 text: save it as", open_text, tmp_path / "wide.txt")


def test_a_line_stays_one_and_paths_from_the_root_become_names():
    assert one_line("a\nb\tc\r.jpg") == "a\\nb\\tc\\r.jpg"
    for text, expected in (
        ("/data/ms1m", "ms1m"),
        ("/data/emore/train.rec (12 identities)", "emore/train.rec (12 identities)"),
        ("folder:/data/faces/", "folder:faces"),
        ("iresnet100:/w/r100.pth@bgr+/b.onnx", "iresnet100:w/r100.pth@bgr+b.onnx"),
        (
            "x --data='folder:/my faces' /a/b --n=/",
            "x --data='folder:my faces' b --n=/",
        ),
        ("runs/ekd, see https://a.org/b or CC-BY/NC", None),
    ):
        assert without_folders(text) == (expected or text)


def test_flagfiles_stand_where_they_are_named(tmp_path, monkeypatch):
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    inner.write_bytes(b"\xef\xbb\xbf--b=2\r\n\r\n")
    outer.write_bytes(
        b"\xef\xbb\xbf# a comment\r\n--a=1 2\r\n// another\n--flagfile=%s\n  --c\n"
        % bytes(inner)
    )
    words = ["x", "--a=0", f"--flagfile={outer}", "--flagfile", str(inner), "y", "--"]
    monkeypatch.setattr(sys, "argv", [*words, f"--flagfile={outer}"])
    assert command_line() == [
        *("x", "--a=0", "--a=1 2", "--b=2", "--c", "--b=2", "y", "--"),
        f"--flagfile={outer}",
    ]


def test_flagfiles_that_cannot_be_read_end_the_command(tmp_path, monkeypatch):
    path = tmp_path / "f"
    path.write_text(f"--flagfile={path}\n")
    for word, reason in (
        (f"--flagfile={path}", "names itself"),
        ("--flagfile", "FILE"),
    ):
        monkeypatch.setattr(sys, "argv", ["x", word])
        refused(f"--flagfile: .*{reason}", command_line, error=SystemExit)


def test_names_no_terminal_can_show_are_printed_with_escapes():
    code = (
        "import sys; from ekd_tf.files.user_text import command_line; command_line();"
        "print('Ren\\udce9 \\u2013')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONIOENCODING": "ascii"},
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
    )
    assert done.stdout == b"Ren\\udce9 \\u2013\n", done.stderr
