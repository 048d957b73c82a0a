"""From a network and pictures to lesion probabilities and scores: mirrored averaging, the lesion score, batches."""

from types import SimpleNamespace

import numpy as np
import pytest

from dataset import hash_pixels
from segmentation.scoring.decision import Decision, Prediction
from segmentation.scoring.prediction import predict_pictures, predict_raw, score_samples


class Brightness:
    """A network that finds the left half of bright pixels twice as likely."""

    input_shape = (None, 4, 4, 1)

    def predict_on_batch(self, x):
        weight = np.linspace(1, 0, x.shape[2])[None, None, :, None]
        return x / 255 * weight


class TwoOutputs(Brightness):
    """Beside the map, the mean of the left half as the lesion score."""

    def predict_on_batch(self, x):
        half = x[:, :, : x.shape[2] // 2] / 255
        return {"lesion": super().predict_on_batch(x), "lesion_score": half.mean(axis=(1, 2))}


def test_map_and_lesion_score_are_averaged_with_those_of_the_mirrored_picture():
    image = np.full((1, 4, 5), 255, np.uint8)
    assert np.allclose(predict_raw(Brightness(), image).probability[0, 0], [1, 0.75, 0.5, 0.25, 0])
    assert np.allclose(predict_raw(Brightness(), image, tta=True).probability, 0.5)
    images = np.zeros((2, 4, 4), np.uint8)
    images[0, :, :2] = 255
    assert predict_raw(TwoOutputs(), images).score.tolist() == [1, 0]
    averaged = predict_raw(TwoOutputs(), images, tta=True)
    assert averaged.score.tolist() == [0.5, 0] and averaged.probability.shape == (2, 4, 4)
    found = predict_pictures(TwoOutputs(), list(images), Decision(tta=True, score_scale=2.0, score_offset=1.0))
    assert found.score[0] == pytest.approx(1 / (1 + np.exp(-1)))  # the logit of 0.5 is 0


def test_pictures_of_any_size_and_number_come_in_batches_of_one_shape():
    """TensorFlow would trace a batch of another shape anew, which takes longer than to compute it."""
    shapes = set()

    class Watched(Brightness):
        def predict_on_batch(self, x):
            shapes.add(x.shape)
            return x / 255

    for count, height in ((5, 20), (4, 8), (3, 31)):
        images = [np.full((height, 12), 51 * k, np.uint8) for k in range(count)]
        maps = predict_pictures(Watched(), images, Decision(tta=True), batch_size=4).probability
        assert maps.shape == (count, 4, 4) and np.allclose(maps[:, 0, 0], 0.2 * np.arange(count), atol=1e-3)
    assert shapes == {(4, 4, 4, 1)}


@pytest.mark.parametrize("by_score", [False, True])
def test_a_lesion_is_scored_as_found_and_with_presence_given_by_hand(by_score):
    """Maps that the threshold or a low lesion score empties: Dice 0; what would be drawn covers half of the lesion."""
    probability, reference = np.zeros((8, 8), np.float32), np.zeros((8, 8), np.uint8)
    probability[2:4, 2:4], reference[2:4, 2:6] = 0.9 if by_score else 0.2, 1
    samples = [SimpleNamespace(name=f"{n}", label=label, folder="") for n, label in enumerate(("benign", "normal"))]
    pictures = [(reference, reference), (reference, reference * 0)]
    prediction = Prediction(np.stack([probability] * 2), np.float32([0.25, 0.25]) if by_score else None)
    lesion, normal = score_samples(prediction, samples, iter(pictures), [0, 1], Decision(min_score=0.5 * by_score))
    assert lesion["sha256"] == normal["sha256"] == hash_pixels(reference)
    assert lesion["dice"] == 0 and normal["dice"] == 1 and normal["fp"] == 0
    assert lesion["dice_lesion_given"] == pytest.approx(2 / 3) and lesion["iou_lesion_given"] == 0.5
    assert normal["dice_lesion_given"] is None and lesion.get("lesion_score") == (0.25 if by_score else None)
    if by_score:
        (kept,) = score_samples(Prediction(*(x[:1] for x in prediction)), samples[:1], pictures[:1], [0], Decision())
        assert kept["dice"] == kept["dice_lesion_given"] == pytest.approx(2 / 3)
