"""Which pictures to look at first."""

import csv

import numpy as np
import pytest
from PIL import Image

from segmentation.inference import own_images
from segmentation.scoring.decision import Decision
from segmentation.scoring.doubt import find_doubt

PROBABILITY = np.float32([[0.9, 0.7, 0.4], [0.0, 0.0, 0.0]])
MASK = PROBABILITY > 0.5


def test_the_doubt_by_hand():
    outline = 1 - 2 * (0.9 + 0.7) / (0.9 + 0.7 + 0.4 + 2)  # 0.2
    assert find_doubt(PROBABILITY, MASK, None) == pytest.approx(outline) == pytest.approx(0.2)
    assert find_doubt(PROBABILITY, MASK, 0.99) == pytest.approx(0.2)  # 4 * 0.99 * 0.01 is less
    assert find_doubt(PROBABILITY, MASK, 0.9) == pytest.approx(0.36)
    assert find_doubt(PROBABILITY, MASK, 0.5) == 1
    assert find_doubt(PROBABILITY, MASK, 0.01, dashed=True) == 1  # outlined, although the score denies a lesion
    certain = MASK.astype(np.float32)
    assert find_doubt(certain, MASK, 1.0) == find_doubt(certain, MASK, None) == 0


def test_the_doubt_without_an_outline():
    nothing = np.zeros_like(MASK)
    assert find_doubt(PROBABILITY / 2, nothing, None) == pytest.approx(0.45)  # a lesion may have been missed
    for dashed in (False, True):  # the lesion score says what there is to say, emptied or not
        assert find_doubt(PROBABILITY, nothing, 0.1, dashed) == pytest.approx(0.36)


class Brightness:
    """A network that takes bright for lesion, and is in doubt where it is grey."""

    input_shape = (None, 32, 32, 1)

    def predict_on_batch(self, x):
        return x / 255


def test_a_call_ends_with_the_ten_most_doubtful(tmp_path, capsys):
    for number in range(12):
        picture = np.zeros((32, 32), np.uint8)
        picture[8:24, 8:24] = 140 + 10 * number  # the brighter, the more certain
        Image.fromarray(picture).save(tmp_path / f"p{number:02}.png")
    own_images.predict_images(Brightness(), {}, [tmp_path], own_images.Wish(tmp_path / "out", Decision()))
    last = capsys.readouterr().out.splitlines()[-1]
    with (tmp_path / "out" / "predictions.csv").open(newline="") as lines:
        doubts = {row["name"]: float(row["doubt"]) for row in csv.DictReader(lines)}
    assert sorted(doubts, key=lambda name: -doubts[name]) == sorted(doubts) and len(doubts) == 12
    assert last == "look at these first (doubt): " + ", ".join(f"p{i:02} {doubts[f'p{i:02}']:.2f}" for i in range(10))
    own_images.predict_images(Brightness(), {}, [tmp_path / "p00.png"], own_images.Wish(tmp_path / "one", Decision()))
    assert "look at these first" not in capsys.readouterr().out
