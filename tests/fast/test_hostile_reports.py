"""report.html of a stranger's run: no script of theirs can run in it, and pictures of any shape fit."""

import base64
import hashlib
import io
import re

import numpy as np
from PIL import Image

from segmentation.reports import figures
from segmentation.reports.report import Drawn, write_report
from segmentation.scoring.decision import Decision, Prediction
from segmentation.scoring.scores import score_image

ATTACK = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
SHAPES = [(4, 1200), (1200, 4), (1, 3000), (3000, 1), (1, 1), (2, 2)]


def case(name: str, shape: tuple[int, int]) -> figures.Case:
    """A lesion in one corner, outlined as it is."""
    reference = np.zeros(shape, np.uint8)
    reference[: shape[0] // 2 + 1, : shape[1] // 2 + 1] = 1
    score = {"name": name, "label": "benign", "group": 0, "height": shape[0], "width": shape[1], "diagonal": 5.0}
    score |= score_image(reference, reference) | {"roundness": 0.125}
    probability = np.full((32, 32), 0.5, np.float32)
    return figures.Case(score, np.full(shape, 90, np.uint8), reference, reference > 0, probability)


def write(run, cases, stored=None) -> str:
    (run / "figures").mkdir(parents=True)
    lesions = {"dice": 1.0, "dice_interval": [1.0, 1.0], "iou": 1.0, "missed": 0, "images": len(cases)}
    metrics = {"data": "custom", "split": "grouped", "near_copies_in_training": 0, "parameters": 1, "minutes": 1.0}
    metrics |= {"summary": {"lesions": lesions, "accuracy": {"pixels": 1.0, "all_background": 0.5}}, "environment": {}}
    drawn = Drawn(cases, 0.9, Decision(), metrics, Prediction(np.zeros((1, 8, 8))))
    write_report(run, drawn, stored or {"config": {}}, [])
    return (run / "report.html").read_text()


def test_no_script_of_a_stranger_is_in_the_report_and_none_could_run(tmp_path):
    run = tmp_path / ATTACK.replace("/", "\u2044")
    page = write(run, [case(ATTACK, (40, 60))], {"config": {ATTACK: ATTACK}})
    assert "<script>alert" not in page and "<img src=x" not in page
    scripts = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    allowed = re.search('script-src ([^;"]+)', page).group(1).replace("&#39;", "'").replace("&#43;", "+")
    assert len(scripts) == 1
    assert allowed == f"'sha256-{base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()}'"


def test_pictures_of_extreme_shapes_and_a_score_that_somebody_added(tmp_path):
    cases = [case(f"{height} x {width}", (height, width)) for height, width in SHAPES]
    page = write(tmp_path / "run", cases)
    assert page.count('data-roundness="0.125"') == len(cases)
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(pictures) == len(cases)
    for content in pictures:
        with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
            assert picture.width <= 224 and picture.height <= 112
    alphas = {"gate_1_alpha": np.random.default_rng(0).random((len(cases), 8, 8), np.float32)}
    for figure in (figures.overlay_grid(cases, "title"), figures.attention_grid(cases, alphas, "title")):
        figure.savefig(io.BytesIO(), dpi=20)
