"""Cuts aligned 112x112 faces out of photographs.

    pip install '.[align]'
    python tools/align_faces.py --photos=photos --output=faces
    python -m ekd_tf.train --data=folder:faces ...

Every photograph under PHOTOS, in folders of any depth, becomes one JPEG of the same
name under OUT. The five points come from the `mtcnn` package, whose weights are part of
it, or from a file of lines "path x1 y1 ... x5 y5": left eye, right eye, nose, left and
right corner of the mouth as seen in the image, in pixels, paths relative to PHOTOS.

Of several faces the largest is taken, or with `--choose=central` the one nearest to the
middle. Photographs without a face are listed in OUT.left_out.tsv with the reason. The
same command goes on where an interrupted one stopped and tries those photographs again.
"""

import contextlib
import dataclasses
import errno
import functools
import multiprocessing
import os
import pathlib
import signal

import numpy as np
from absl import flags
from PIL import Image

from ekd_tf.files.outputs import make_folder
from ekd_tf.files.user_text import KEEP
from ekd_tf.files.user_text import one_line
from ekd_tf.files.user_text import open_text
from ekd_tf.run import command

PHOTOS = flags.DEFINE_string("photos", None, "Folder of photographs.")
OUTPUT = flags.DEFINE_string("output", None, "Folder of aligned faces to make.")
LANDMARKS = flags.DEFINE_string(
    "landmarks", None, "File of five points per photograph; no detector then."
)
CHOOSE = flags.DEFINE_enum(
    "choose", "largest", ["largest", "central"], "Which of several faces to take."
)
SIZE = flags.DEFINE_integer("size", 112, "Side of the aligned faces in pixels.", 16)
QUALITY = flags.DEFINE_integer("quality", 95, "Of the JPEGs written.", 1, 100)
CONFIDENCE = flags.DEFINE_float(
    "min_confidence", 0.9, "Least confidence of the detector.", 0, 1
)
MIN_FACE = flags.DEFINE_integer(
    "min_face", 20, "Least side of a detected face in pixels of the photograph.", 1
)
DETECT_SIDE = flags.DEFINE_integer(
    "detect_side", 1024, "Larger photographs are shrunk to this to find the face.", 64
)
PROCESSES = flags.DEFINE_integer(
    "processes", os.cpu_count(), "Photographs worked on at once.", 1
)

# No other face could be written either.
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
POINTS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")


@dataclasses.dataclass(frozen=True)
class Face:
    """A face in a photograph, in its pixels.

    Attributes:
        box: `(x, y, width, height)`.
        points: float array `(5, 2)`, (x, y) in the order of the ArcFace template.
    """

    box: tuple
    points: np.ndarray


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a worker process needs to know."""

    photos: pathlib.Path
    out: pathlib.Path
    choose: str
    size: int
    quality: int
    min_confidence: float
    min_face: int
    detect_side: int


def choose_face(faces, width, height, rule):
    """Returns the largest face or the one whose box is centred nearest the middle."""

    def area(face):
        return face.box[2] * face.box[3]

    def off_centre(face):
        x, y, w, h = face.box
        return np.hypot(x + w / 2 - width / 2, y + h / 2 - height / 2)

    return max(faces, key=area) if rule == "largest" else min(faces, key=off_centre)


class MTCNNDetector:
    """Finds faces by the networks that come with the `mtcnn` package.

    Args:
        settings: `Settings`.
    """

    def __init__(self, settings):
        from mtcnn import MTCNN

        self._settings = settings
        self._network = MTCNN()

    def __call__(self, image):
        """Returns the faces of a uint8 RGB image as a list of `Face`."""
        settings = self._settings
        height, width = image.shape[:2]
        shrink = min(1.0, settings.detect_side / max(height, width))
        if shrink < 1:
            size = (round(width * shrink), round(height * shrink))
            image = np.asarray(Image.fromarray(image).resize(size))
        found = self._network.detect_faces(
            image, min_face_size=max(12, round(settings.min_face * shrink))
        )
        faces = []
        for face in found or []:
            if face["confidence"] < settings.min_confidence:
                continue
            box = tuple(float(number) / shrink for number in face["box"])
            points = [face["keypoints"][name] for name in POINTS]
            if min(box[2:]) >= settings.min_face:
                faces.append(Face(box, np.array(points, np.float64) / shrink))
        return faces


def read_landmarks(path):
    """Reads lines "path x1 y1 ... x5 y5"; blank ones and those from # on are skipped.

    Returns:
        Dict of paths to float arrays `(5, 2)`.

    Raises:
        ValueError: A line holds something else, or a path comes twice.
    """
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


def align_photo(name, settings, find_faces):
    """Writes the aligned face of one photograph.

    Args:
        name: Its path below `settings.photos`.
        settings: `Settings`.
        find_faces: Function of `(name, image)` that returns a list of `Face`.

    Returns:
        None, or why there is no aligned face.

    Raises:
        OSError: Nothing more can be written, as on a full disk.
    """
    from ekd_tf.data.alignment import align
    from ekd_tf.data.image_pixels import read_image
    from ekd_tf.files.atomic import write_aside
    from ekd_tf.files.positioned import read_file

    try:
        image = read_image(read_file(settings.photos / name))
        faces = find_faces(name, image)
        if not faces:
            return "no face"
        height, width = image.shape[:2]
        face = choose_face(faces, width, height, settings.choose)
        aligned = Image.fromarray(align(image, face.points, settings.size))
    # Pillow's parsers raise nearly anything on damaged files; the reason is listed.
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    path = output_path(name, settings.out)
    options = {"format": "JPEG", "quality": settings.quality, "subsampling": 0}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_aside(path, lambda file: aligned.save(file, **options))
    except OSError as error:
        if error.errno in UNWRITABLE:
            raise
        return f"cannot be written: {error.strerror}"
    return None


def output_path(name, out):
    return (pathlib.Path(out) / name).with_suffix(".jpg")


def photographs(root):
    """Returns the paths of all photographs below `root`, sorted, relative to it."""
    from ekd_tf.data.sources.listed import names_below

    paths = names_below(os.fspath(root), SUFFIXES)
    return sorted(os.path.relpath(path, root) for path in paths)


def check_landmarks(landmarks, names, photos):
    """Raises `ValueError` if the points are those of other photographs."""
    if not set(names) & set(landmarks):
        listed = next(iter(landmarks), "nothing")
        raise ValueError(
            f"`--landmarks` must name photographs by their paths below {photos}, such "
            f"as {names[0]}. Received none of its {len(names):,} photographs, but "
            f"{listed}"
        )


def check_outputs(names):
    """Raises `ValueError` if two photographs would become the same file."""
    owners = {}
    for name in names:
        other = owners.setdefault(output_path(name, ""), name)
        if other != name:
            raise ValueError(
                f"{other} and {name} would both become {output_path(name, '')}: "
                "rename one"
            )


class Worker:
    """Aligns photographs in a process of its own; see `align_photo`."""

    def __init__(self, settings, landmarks):
        self.settings = settings
        self.landmarks = landmarks

    @functools.cached_property
    def _detector(self):
        return MTCNNDetector(self.settings)

    def find_faces(self, name, image):
        if self.landmarks is None:
            return self._detector(image)
        return [Face((0, 0, 0, 0), self.landmarks[name])]

    def __call__(self, name):
        if self.landmarks is not None and name not in self.landmarks:
            return name, "no points in --landmarks"
        return name, align_photo(name, self.settings, self.find_faces)


_worker = None


def _start_worker(settings, landmarks):
    global _worker
    # The parent is stopped by Ctrl-C, and stops the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker = Worker(settings, landmarks)


def _work(name):
    return _worker(name)


@contextlib.contextmanager
def worked_off(names, settings, landmarks, processes):
    """Yields an iterator of `(name, reason)` over all photographs."""
    if processes == 1:
        yield map(Worker(settings, landmarks), names)
        return
    # Spawned: TensorFlow does not survive a fork.
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, _start_worker, (settings, landmarks)) as pool:
        yield pool.imap_unordered(_work, names)


def align_all(settings, landmarks, processes):
    """Aligns what is not done yet; returns `(done before, written, left out)`."""
    from ekd_tf.run.progress import ProgressLine

    names = photographs(settings.photos)
    if not names:
        raise ValueError(f"{settings.photos} holds no photographs")
    check_outputs(names)
    if landmarks is not None:
        check_landmarks(landmarks, names, settings.photos)
    make_folder("output", settings.out)
    path = left_out_path(settings.out)
    todo = [
        name for name in names if not os.path.exists(output_path(name, settings.out))
    ]
    written = left_out = 0
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open(path, "w", encoding="utf-8", errors=KEEP))
        if not todo:
            return len(names), 0, 0
        results = stack.enter_context(worked_off(todo, settings, landmarks, processes))
        line = ProgressLine(len(todo), unit="photographs")
        stack.callback(line.close)
        for name, reason in results:
            if reason is None:
                written += 1
            else:
                left_out += 1
                file.write(f"{one_line(name)}\t{one_line(reason)}\n")
                file.flush()
            line.update(1)
    return len(names) - len(todo), written, left_out


def left_out_path(out):
    return out.with_name(out.name + ".left_out.tsv")


def main():
    """Aligns the photographs the flags name."""
    settings = Settings(
        photos=pathlib.Path(PHOTOS.value),
        out=pathlib.Path(OUTPUT.value).resolve(),
        choose=CHOOSE.value,
        size=SIZE.value,
        quality=QUALITY.value,
        min_confidence=CONFIDENCE.value,
        min_face=MIN_FACE.value,
        detect_side=DETECT_SIDE.value,
    )
    landmarks = read_landmarks(LANDMARKS.value) if LANDMARKS.value else None
    if landmarks is None:
        check_detector()
    before, written, left_out = align_all(settings, landmarks, PROCESSES.value)
    print(f"{written:,} faces written to {settings.out}; {before:,} were done before")
    if left_out:
        print(f"{left_out:,} photographs left out: {left_out_path(settings.out)}")


def check_detector():
    """Raises `ValueError` with the command that installs the detector."""
    import importlib.util

    if importlib.util.find_spec("mtcnn") is None:
        raise ValueError(
            "the detector is not installed: pip install '.[align]', or give "
            "--landmarks=FILE"
        )


if __name__ == "__main__":
    command.run(main, "align_faces", required=["photos", "output"], resumes=True)
