import json
import pickle
import time

import pytest
from commands import refuse
from commands import succeed
from pages import data_of
from pictures import write_people
from toys import SIZE
from toys import backbone

from ekd_tf.run.provenance import package_commit
from ekd_tf.version import __version__


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A model, ten identities of three images, a set of twenty pairs, and a report."""
    folder = tmp_path_factory.mktemp("evaluate")
    model = folder / "model" / "m.keras"
    model.parent.mkdir()
    backbone(dim=6, batch_norm=False).save(model)
    faces = write_people(folder / "faces", people=10, each=3, side=SIZE)
    images = [path.read_bytes() for path in sorted(faces.rglob("*.png"))]
    pairs = [[(3 * p, 3 * p + 1), (3 * p, (3 * p + 5) % 30)] for p in range(10)]
    chosen = [images[i] for pair in sum(pairs, []) for i in pair]
    (folder / "toy.bin").write_bytes(pickle.dumps((chosen, [True, False] * 10)))
    lines = [f"p{person},{('even', 'odd')[person % 2]}" for person in range(10)]
    (folder / "attributes.csv").write_text("\n".join(["identity,parity", *lines]))
    return folder, succeed(
        "evaluate",
        f"--model={model}",
        f"--teacher={model}",
        f"--eval_sets=all_pairs:folder:{folder / 'faces'}",
        f"--eval_sets=toy:pairs:{folder / 'toy.bin'}",
        "--identify",
        "--fprs=1e-1,1e-4",
        "--calibrate_fpr=0.1",
        f"--output={folder / 'out'}",
        f"--slices={folder / 'attributes.csv'}",
    )


def test_writes_json_markdown_pictures_and_a_page(report):
    folder, done = report
    out = folder / "out"
    names = {path.name for path in out.iterdir()}
    of_sets = (".json", "_roc.png", "_similarities.png")
    expected = {name + of_set for name in ("all_pairs", "toy") for of_set in of_sets}
    assert expected | {"report.md", "identification.json"} <= names
    found = json.loads((out / "all_pairs.json").read_text())
    # 30 images: 30 positive pairs of 435. A model has no gap to itself.
    assert found["student"]["num_positive"] == 30
    assert found["student"]["num_negative"] == 405
    assert found["gap"]["points"]["1e-1"]["gap"] == 0
    of_toy = json.loads((out / "toy.json").read_text())
    assert of_toy["student"]["flip"]["num_pairs"] == 20
    text = (out / "report.md").read_text()
    for section in ("## all_pairs", "## identification", "## toy"):
        assert section in text and section in done.stdout
    assert "FPR 1e-4 is not measurable" in text
    assert done.stdout.startswith(f"AUC of the teacher on a sample of {folder}/faces: ")
    for picture in ("all_pairs_roc.png", "toy_similarities.png"):
        assert f"]({picture})" in text
    commit = package_commit()
    for line in (
        f"Teacher: {folder / 'model' / 'm.keras'}",
        f"Data: all_pairs:folder:{folder / 'faces'}; toy:pairs:{folder / 'toy.bin'}",
        f"Command: `python -m ekd_tf.evaluate --model={folder / 'model' / 'm.keras'} ",
        f"Date: {time.strftime('%Y-')}",
        f"ekd_tf: {__version__}" + (f", commit {commit}" if commit else ""),
    ):
        assert f"\n{line}" in text, text
    assert "Baseline" not in text
    page = data_of(out / "report.html")
    faces, toy, identification = page["sets"]
    assert faces["name"] == "all_pairs" and "slider" not in identification
    assert toy["models"]["student"]["figures"] == of_toy["student"]["flip"]
    (parity,) = [each for each in faces["slices"] if each["name"] == "parity"]
    assert [row["name"] for row in parity["rows"]] == ["even", "odd"]
    # 15 images of 5 people: 105 pairs, of which 3 a person are positive.
    assert parity["rows"][0]["pairs"] == [15, 90]
    # Calibrated by the same command, of one image: its FPR here is the one asked for.
    above, pairs = faces["calibration"]["above"], faces["calibration"]["pairs"]
    assert pairs == [30, 405] and 30 < above[1] <= 40
    assert "m.keras" in page["deployment"]["calibrations"]
    assert faces["pictures"] and toy["pictures"]


def test_verifies_two_images_at_the_calibrated_threshold(report, tmp_path):
    folder, _ = report
    model = f"--model={folder / 'model' / 'm.keras'}"
    faces, bad = folder / "faces", tmp_path / "bad.jpg"
    same, other = faces / "p0/0.png", faces / "p1/0.png"
    said = succeed("verify", model, same, same).stdout
    assert "cosine 1.0000: one person" in said
    assert "calibrated for FPR 1e-1 on faces)" in said
    said = refuse("verify", model, "--flip", same, other).stderr
    assert "for embeddings of one image, and `--flip` must say so" in said
    bad.write_text("no image")
    said = refuse("verify", model, same, bad).stderr
    assert f"cannot decode {bad}" in said


def test_lists_the_nearest_of_a_gallery_and_names_what_it_cannot_read(report, tmp_path):
    folder, _ = report
    model = f"--model={folder / 'model' / 'm.keras'}"
    probe = tmp_path / "faces" / "p4/1.png"
    (tmp_path / "faces").symlink_to(folder / "faces")
    (tmp_path / "bad.jpg").write_text("no image")
    flags = [model, f"--gallery={tmp_path}", "--threshold=-1"]
    said = succeed("verify", *flags, probe)
    assert f"unreadable image {tmp_path}/bad.jpg: not an image in a" in said.stderr
    lines = said.stdout.splitlines()
    assert lines[0] == str(probe) == lines[1].split()[0]
    assert len(lines) == 6
    cosines = [float(line.split("cosine ")[1].split(":")[0]) for line in lines[1:]]
    assert cosines[0] == 1.0 and cosines == sorted(cosines, reverse=True)
    given = ": one person (threshold -1.0000, as given by --threshold)"
    assert all(line.endswith(given) for line in lines[1:])


def test_what_cannot_be_is_refused_before_any_figure(report):
    folder, _ = report
    arguments = [f"--model={folder / 'model' / 'm.keras'}", "--calibrate_fpr=0.1"]
    faces = [f"--eval_sets=faces:folder:{folder}/faces", "--noflip", "--calibrate_flip"]
    pairs = [f"--eval_sets=toy:pairs:{folder}/toy.bin"]
    named = [f"--eval_sets=identification:folder:{folder}/faces", "--identify"]
    for more, words in (
        (pairs, "needs one set of labelled images"),
        (faces, "needs mirror images: leave out --noflip"),
        ([*pairs, "--fprs=1e-1,1"], "`--fprs` must be in (0, 1)"),
        ([*pairs, "--fprs="], "Give `--fprs` one FPR or more"),
        (named, "Two sets are called identification"),
    ):
        said = refuse("evaluate", *arguments, *more)
        assert words in said.stderr and said.stdout == ""
