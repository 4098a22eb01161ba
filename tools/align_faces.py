"""Cuts aligned 112x112 faces out of photographs.

    pip install '.[align]'
    python tools/align_faces.py --photos=photos --output=faces
    python -m ekd_tf.train --data=folder:faces ...

Every photograph under PHOTOS, in folders of any depth, becomes one JPEG of the same
name under OUT. The five points come from the `mtcnn` package, whose weights are part of
it, or from a file of lines "path x1 y1 ... x5 y5": left eye, right eye, nose, left and
right corner of the mouth as seen in the image, in pixels, paths relative to PHOTOS.

Photographs without a face are listed in OUT.left_out.tsv with the reason. The same
command continues where an interrupted one stopped and tries those again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import importlib.util
import multiprocessing
import os
import pathlib
import signal
import typing
from concurrent import futures

import numpy as np
from PIL import Image

from ekd_tf.files.outputs import check_outside
from ekd_tf.files.outputs import make_folder
from ekd_tf.files.user_text import KEEP
from ekd_tf.files.user_text import one_line
from ekd_tf.files.user_text import open_text
from ekd_tf.run import command
from ekd_tf.run.settings import setting


@dataclasses.dataclass(frozen=True)
class Settings:
    """The flags of the tool."""

    photos: str | None = setting(None, "Folder of photographs.")
    output: str | None = setting(None, "Folder of aligned faces to make.")
    landmarks: str | None = setting(
        None, "File of five points per photograph; no detector then."
    )
    choose: str = setting(
        "largest", "Which of several faces to take.", choices=("largest", "central")
    )
    size: int = setting(112, "Side of the aligned faces in pixels.", low=16)
    quality: int = setting(95, "Of the JPEGs written.", low=1, high=100)
    min_confidence: float = setting(
        0.9, "Least confidence of the detector.", low=0, high=1
    )
    min_face: int = setting(
        20, "Least side of a detected face in pixels of the photograph.", low=1
    )
    detect_side: int = setting(
        1024, "Larger photographs are shrunk to this to find the face.", low=64
    )
    processes: int = setting(
        os.cpu_count() or 1, "Photographs worked on at once.", low=1
    )


# No other face could be written either.
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
POINTS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")


class Face(typing.NamedTuple):
    """A face in pixels: x, y, width and height, and points `(5, 2)` in their order."""

    box: tuple
    points: np.ndarray


def choose_face(faces, width, height, rule):
    """Returns the largest face or the one whose box is centred nearest the middle."""

    def area(face):
        return face.box[2] * face.box[3]

    def off_centre(face):
        x, y, w, h = face.box
        return np.hypot(x + w / 2 - width / 2, y + h / 2 - height / 2)

    return max(faces, key=area) if rule == "largest" else min(faces, key=off_centre)


@functools.lru_cache(maxsize=1)
def detector():
    """Returns the network that finds faces, made once in a process."""
    from mtcnn import MTCNN

    return MTCNN()


def detect(network, image, settings):
    """Returns the faces an `mtcnn.MTCNN` finds in a uint8 RGB image."""
    height, width = image.shape[:2]
    shrink = min(1.0, settings.detect_side / max(height, width))
    if shrink < 1:
        size = (round(width * shrink), round(height * shrink))
        image = np.asarray(Image.fromarray(image).resize(size))
    least = max(12, round(settings.min_face * shrink))
    faces = []
    for face in network.detect_faces(image, min_face_size=least) or []:
        box = tuple(float(number) / shrink for number in face["box"])
        points = [face["keypoints"][name] for name in POINTS]
        is_sure = face["confidence"] >= settings.min_confidence
        if is_sure and min(box[2:]) >= settings.min_face:
            faces.append(Face(box, np.array(points, np.float64) / shrink))
    return faces


def read_landmarks(path):
    """Reads lines "path x1 y1 ... x5 y5" as path -> float `(5, 2)`."""
    landmarks = {}
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip() or line.startswith("#"):
                continue
            # From the right: a path may hold spaces.
            name, *words = line.strip().rsplit(maxsplit=10)
            name = os.path.normpath(name)
            try:
                points = np.array(words, np.float64).reshape(5, 2)
            except ValueError:
                raise ValueError(
                    f"{path}:{number} must be 'path x1 y1 ... x5 y5'. "
                    f"Received: {line.strip()!r}"
                ) from None
            if name in landmarks:
                raise ValueError(f"{path}:{number} names {name} a second time")
            landmarks[name] = points
    return landmarks


def align_photo(name, settings, points):
    """Writes the aligned face of the photograph `name` below `settings.photos`.

    The detector finds it where `points` are None; they are empty where the file of
    landmarks has none. Returns why there is no aligned face, or None; raises `OSError`
    where nothing more can be written, as on a full disk.
    """
    from ekd_tf.data.alignment import align
    from ekd_tf.data.image_pixels import read_image
    from ekd_tf.files.atomic import write_aside
    from ekd_tf.files.positioned import read_file
    from ekd_tf.files.positioned import reason_of

    if points is not None and not len(points):
        return "no points in --landmarks"
    try:
        image = read_image(read_file(os.path.join(settings.photos, name)))
        faces = [Face((0, 0, 0, 0), points)]
        if points is None:
            faces = detect(detector(), image, settings)
        if not faces:
            return "no face"
        height, width = image.shape[:2]
        face = choose_face(faces, width, height, settings.choose)
        inside = (face.points >= 0) & (face.points <= (width, height))
        outside = len(POINTS) - np.count_nonzero(inside.all(axis=1))
        # One or two may be of a face that the edge cuts.
        if outside >= 3:
            return f"{outside} of its points lie outside of its {width}x{height} pixels"
        aligned = Image.fromarray(align(image, face.points, settings.size))
    # Pillow's parsers raise nearly anything on damaged files; the reason is listed.
    except Exception as error:
        return f"{type(error).__name__}: {reason_of(error)}"
    path = output_path(name, settings.output)
    options = {"format": "JPEG", "quality": settings.quality, "subsampling": 0}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_aside(path, lambda file: aligned.save(file, **options))
    except OSError as error:
        if error.errno in UNWRITABLE:
            raise
        return f"cannot be written: {error.strerror}"
    return None


def output_path(name, folder):
    """Returns where the face of a photograph is written."""
    return (pathlib.Path(folder) / name).with_suffix(".jpg")


def left_out_path(folder):
    """Returns where the photographs without a face are listed."""
    folder = pathlib.Path(folder).resolve()
    return folder.with_name(folder.name + ".left_out.tsv")


def photographs(root, landmarks):
    """Returns the paths of all photographs below `root`, sorted, relative to it."""
    from ekd_tf.data.sources.files import names_below

    paths = names_below(os.fspath(root), SUFFIXES)
    names = sorted(os.path.relpath(path, root) for path in paths)
    if not names:
        raise ValueError(f"{root} holds no photographs")
    owners = {}
    for name in names:
        path = output_path(name, "")
        other = owners.setdefault(path, name)
        if other != name:
            raise ValueError(f"{other} and {name} would both become {path}: rename one")
    if landmarks is not None and not set(names) & set(landmarks):
        raise ValueError(
            f"`--landmarks` must name photographs by their paths below {root}, such "
            f"as {names[0]}. Received none of its {len(names):,} photographs, but "
            f"{next(iter(landmarks), 'nothing')}"
        )
    return names


def worked_off(names, settings, landmarks):
    """Yields `(name, reason)` of each photograph, in any order."""
    tasks = [
        (name, settings, None if landmarks is None else landmarks.get(name, ()))
        for name in names
    ]
    if settings.processes == 1:
        yield from ((task[0], align_photo(*task)) for task in tasks)
        return
    # Spawned: TensorFlow does not survive a fork. The parent is stopped by Ctrl-C, and
    # stops the others.
    pool = futures.ProcessPoolExecutor(
        settings.processes,
        multiprocessing.get_context("spawn"),
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        submitted = {pool.submit(align_photo, *task): task[0] for task in tasks}
        for future in futures.as_completed(submitted):
            yield submitted[future], future.result()
    except futures.process.BrokenProcessPool:
        raise ValueError(
            "a process was killed, most likely for want of memory: give fewer "
            f"--processes. Received: {settings.processes}"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def align_all(settings, landmarks):
    """Aligns what is not done yet; returns `(done before, written, left out)`."""
    from ekd_tf.run.progress import begin_line

    check_outside("output", settings.output, "photos", settings.photos)
    names = photographs(settings.photos, landmarks)
    folder = make_folder("output", settings.output)
    todo = [name for name in names if not output_path(name, folder).exists()]
    written = left_out = 0
    with open(left_out_path(folder), "w", encoding="utf-8", errors=KEEP) as file:
        if not todo:
            return len(names), 0, 0
        done = begin_line(str(settings.photos), len(todo), "photographs")
        with contextlib.closing(worked_off(todo, settings, landmarks)) as results:
            for name, reason in results:
                if reason is None:
                    written += 1
                else:
                    left_out += 1
                    file.write(f"{one_line(name)}\t{one_line(reason)}\n")
                    file.flush()
                done(1)
    return len(names) - len(todo), written, left_out


def main(settings):
    """Aligns the photographs the flags name."""
    landmarks = read_landmarks(settings.landmarks) if settings.landmarks else None
    if landmarks is None and importlib.util.find_spec("mtcnn") is None:
        raise ValueError(
            "the detector is not installed: pip install '.[align]', or give "
            "--landmarks=FILE"
        )
    before, written, left_out = align_all(settings, landmarks)
    print(
        f"{written:,} faces written to {settings.output}; {before:,} were done before"
    )
    if left_out:
        print(f"{left_out:,} photographs left out: {left_out_path(settings.output)}")


if __name__ == "__main__":
    required = ["photos", "output"]
    command.run(main, "align_faces", Settings, required=required, resumes=True)
