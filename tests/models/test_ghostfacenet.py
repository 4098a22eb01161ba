import numpy as np
from refusals import refused

from ekd_tf.models import count_parameters
from ekd_tf.models import ghostfacenet
from ekd_tf.models.ghostfacenet import GhostFaceNet


def test_has_the_published_number_of_parameters():
    # 6,880,288 in all and 6,795,720 trained: HamadYA/GhostFaceNets, Flops.ipynb, of
    # GhostFaceNetV2-1.3-1. The paper's table: 6.88 M, and 4.09 M for V1.
    model = GhostFaceNet(version=2, width=1.3)
    assert (model.count_params(), count_parameters(model)) == (6_880_288, 6_795_720)
    model = GhostFaceNet(version=1, width=1.3)
    assert round(model.count_params() / 1e4) == 409


def test_embeds_in_every_size_and_stride(rng, monkeypatch):
    # Those that halve the image, the first and the last.
    stages = [ghostfacenet.STAGES[number] for number in (0, 1, 3, 5, 11, 15)]
    monkeypatch.setattr(ghostfacenet, "STAGES", stages)
    for version, size, stride in ((1, 32, 1), (2, 64, 2)):
        model = GhostFaceNet(version, 8, 0.25, stride, input_size=size)
        images = rng.integers(0, 256, (2, size, size, 3), np.uint8)
        embeddings = np.asarray(model(images, training=True))
        assert embeddings.shape == (2, 8) and np.isfinite(embeddings).all()
    # Resizing of Keras would put what is behind it into training mode.
    np.testing.assert_array_equal(model(images), model(images, training=False))


def test_refuses_sizes_its_strides_do_not_fit():
    refused("must be 64 or more with", GhostFaceNet, stem_stride=2, input_size=56)
    refused("`version` must be", GhostFaceNet, version=3)
