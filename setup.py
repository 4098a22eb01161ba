"""Packaging of ekd-tf. The version is read from the file, not imported."""

import pathlib
import re

from setuptools import find_packages
from setuptools import setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (HERE / "ekd_tf" / "version.py").read_text()
).group(1)

setup(
    name="ekd-tf",
    version=VERSION,
    description=(
        "Evaluation-oriented knowledge distillation for face recognition "
        "in Keras and TensorFlow"
    ),
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["ekd_tf", "ekd_tf.*"]),
    package_data={
        "ekd_tf": ["py.typed"],
        "ekd_tf.page": ["page.html", "page.css", "page.js"],
    },
    python_requires=">=3.9",
    install_requires=[
        "tensorflow>=2.15.1",
        "keras>=2.15",
        "numpy",
        "absl-py",
        "tensorboard",
        "matplotlib",
        "pillow>=10.1",
        "google-crc32c",
        "tqdm",
        "vl-convert-python>=1.7",
    ],
    extras_require={
        "cuda": ["tensorflow[and-cuda]>=2.18"],
        "addons": [
            "tensorflow==2.15.1",
            "tensorflow-addons==0.23.0",
            "numpy<2",
        ],
        "onnx": ["onnx", "onnxruntime", "tf2onnx>=1.17"],
        # In place of onnx: both have one package name in Python.
        "onnx-gpu": ["onnx", "onnxruntime-gpu", "tf2onnx>=1.17"],
        "hf": ["datasets"],
        "litert": ["ai-edge-litert"],
        "align": ["mtcnn>=1.0"],
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.7",
            "scikit-learn",
            "scipy",
            "ruff",
            "mypy",
        ],
        # With Debian's chromium and chromium-driver.
        "test-browser": ["selenium>=4.11"],
    },
    entry_points={
        "console_scripts": [
            "ekd-train = ekd_tf.train:run",
            "ekd-evaluate = ekd_tf.evaluate:run",
            "ekd-embed-teacher = ekd_tf.embed_teacher:run",
            "ekd-export = ekd_tf.export_model:run",
            "ekd-verify = ekd_tf.verify:run",
            "ekd-report = ekd_tf.report:run",
        ]
    },
)
