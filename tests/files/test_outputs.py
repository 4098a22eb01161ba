from refusals import refused

from ekd_tf.files.outputs import check_file
from ekd_tf.files.outputs import make_folder

WORDS = "`out` must be a {} that can be written to. Received: .*{}"


def test_makes_what_is_missing(tmp_path):
    assert make_folder("out", tmp_path / "a" / "b").is_dir()
    path = check_file("out", tmp_path / "c" / "d.keras")
    assert path.parent.is_dir() and not path.exists()
    path.write_text("old")
    assert check_file("out", path).read_text() == "old"


def test_refuses_what_cannot_be_written(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    for make, kind, long, (other, reason) in (
        (make_folder, "folder", 256, (file, "File exists")),
        (check_file, "file", 252, (tmp_path, "It is a folder")),
    ):
        for path in (file / "x", "/proc/x/y", tmp_path / ("n" * long)):
            refused(WORDS.format(kind, path), make, "out", path)
        refused(WORDS.format(kind, reason), make, "out", other)
