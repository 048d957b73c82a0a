"""Outlines over an image, and images embedded in HTML, without matplotlib and Keras, which are slow to import.

Colours (Okabe and Ito, safe for colour-blind readers) have the same meaning in every figure.
"""

import base64

import cv2
import numpy as np

REFERENCE, PREDICTION = "#56B4E9", "#E69F00"  # outlines
LOW_SCORE = "low lesion score: "
FALSE_POSITIVE, FALSE_NEGATIVE = "#D55E00", "#009E73"  # hatched areas


def _rgb(colour: str) -> tuple[int, int, int]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def draw_overlay(
    image: np.ndarray,
    prediction: np.ndarray,
    reference: np.ndarray | None = None,
    side: int = 640,
    doubtful: np.ndarray | None = None,
) -> np.ndarray:
    """Image with outlines; with a reference, false positives and negatives are hatched in opposite directions.

    Args:
        image: (H, W) uint8.
        prediction, reference: (H, W), lesion where not zero.
        side: length of the longer side of the result in pixels.
        doubtful: (H, W), the mask that a low lesion score has emptied, or the prediction itself if it is doubtful; its
            outline is dashed, with a line of text.

    Returns:
        (h, w, 3) uint8, RGB.
    """
    scale = side / max(image.shape)
    size = max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1)
    canvas = cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR),
                          cv2.COLOR_GRAY2RGB)  # fmt: skip
    masks = [None if mask is None else cv2.resize((np.asarray(mask) > 0).astype(np.uint8), size,
             interpolation=cv2.INTER_NEAREST_EXACT) for mask in (prediction, reference)]  # fmt: skip
    predicted, true = masks
    y, x = np.indices(canvas.shape[:2])
    if true is not None:
        for wrong, colour, stripes in (
            (predicted > true, FALSE_POSITIVE, (x + y) % 9 < 3),
            (true > predicted, FALSE_NEGATIVE, (x - y) % 9 < 3),
        ):
            canvas[wrong & stripes] = _rgb(colour)
    for mask, colour in ((true, REFERENCE), (predicted if doubtful is None else None, PREDICTION)):
        if mask is not None:
            outline, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(canvas, outline, -1, _rgb(colour), 2, cv2.LINE_AA)
    if doubtful is not None:
        small = cv2.resize(doubtful.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT)
        _draw_dashed(canvas, small, LOW_SCORE + ("doubtful" if predicted.any() else "nothing marked"))
    return canvas


def _draw_dashed(canvas: np.ndarray, mask: np.ndarray, text: str) -> None:
    """Draw a dashed outline, dashes of 8 pixels, and a line of text."""
    outlines, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    for outline in outlines:
        for start in range(0, len(outline), 16):
            cv2.polylines(canvas, [outline[start : start + 8]], False, _rgb(PREDICTION), 2, cv2.LINE_AA)
    for shift, colour in ((1, (0, 0, 0)), (0, _rgb(PREDICTION))):  # with a black shadow, legible on any grey
        place = 8 + shift, canvas.shape[0] - 10 + shift
        cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.55, colour, 1, cv2.LINE_AA)


def data_uri(content: bytes, image_format: str) -> str:
    """An image file as a data URI."""
    return f"data:image/{image_format};base64,{base64.b64encode(content).decode()}"


def jpeg(rgb: np.ndarray) -> str:
    """An image (H, W, 3) uint8, RGB, as a JPEG data URI."""
    return data_uri(cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes(), "jpeg")
