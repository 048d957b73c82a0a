"""The page's table begins with the most doubtful picture, whichever was dropped first and is shown."""

import re

import numpy as np
import pytest

from segmentation.scoring.decision import Decision

demo_page = pytest.importorskip("segmentation.page.demo_page", exc_type=ImportError)


class Outliner(demo_page.Outliner):
    """Without a network."""

    def __init__(self):
        self.stored, self.decision = {}, Decision()


def seen(name: str, score: float) -> demo_page.Seen:
    certain = np.zeros((32, 32), np.float32)
    certain[8:24, 8:24] = 1
    return demo_page.Seen(name, np.full((32, 32), 90, np.uint8), None, certain, score, {})


def test_the_most_doubtful_picture_is_first_and_the_selected_one_is_marked():
    pictures = [seen("sure.png", 0.99), seen("doubtful.png", 0.5), seen("between.png", 0.9)]
    page = demo_page.describe_visit(Outliner(), pictures, [], 2, given=False)
    assert re.findall(r"<td>(\w+)\.png</td>", page) == ["doubtful", "between", "sure"]
    assert re.search(r'class="chosen">\s*<td>between', page)
    assert re.findall(r'data-label="doubt">([\d.]+)<', page) == ["1.00", "0.36", "0.04"]
    given = demo_page.describe_visit(Outliner(), pictures, [], 2, given=True)
    assert re.findall(r'data-label="doubt">([\d.]+)<', given) == ["0.00"] * 3
