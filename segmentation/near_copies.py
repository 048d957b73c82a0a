"""Near-copies: pictures of one frame, or of one lesion a moment later, that must not lie in two parts of a split."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from scipy import fft
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

# Thresholds chosen by eye on the pairs around them: data/README.md shows the error cases.
WHOLE, FINE, SLIDING = 0.95, 0.36, 0.43
CANDIDATE = 0.5  # whole-picture correlation below which no pair is searched by sliding
_FRAME = (96, 144)  # height and width of the sliding search's canvas, in eighths of a pixel


class Pair(NamedTuple):
    """Two near-copies (indices into the samples, a < b) and what tied them."""

    a: int
    b: int
    whole: float
    fine: float
    sliding: float


def _unit_rows(pictures: np.ndarray) -> np.ndarray:
    rows = pictures.reshape(len(pictures), -1).astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def _high_pass(picture: np.ndarray, sigma: float) -> np.ndarray:
    picture = picture.astype(np.float32)
    return picture - cv2.GaussianBlur(picture, (0, 0), sigma)


def _sliding_spectrum(picture: np.ndarray) -> np.ndarray:
    """Spectrum of the fine structure at an eighth of the picture's own scale, on a common canvas."""
    size = max(picture.shape[1] // 8, 8), max(picture.shape[0] // 8, 8)
    small = _high_pass(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), 3)
    small = ((small - small.mean()) / max(small.std(), 1e-6)).clip(-3, 3)[: _FRAME[0], : _FRAME[1]]
    canvas = np.zeros(_FRAME, np.float32)
    canvas[: small.shape[0], : small.shape[1]] = small
    return fft.rfft2(canvas / max(np.linalg.norm(canvas), 1e-6))


def near_copies(pictures: Sequence[np.ndarray]) -> list[Pair]:
    """Pairs of near-copies among grey pictures, (H, W) uint8 each, of any size.

    A pair is tied by any of three correlations:
    - whole: 32x32 thumbnails (same frame, other gain, caliper or size);
    - fine: 64x64 thumbnails without their coarse shading (same frame, other overlay);
    - sliding: fine structure at the pictures' own scale, best over all shifts (another crop).
    """
    if not pictures:
        return []
    thumbnails = [cv2.resize(p, (128, 128), interpolation=cv2.INTER_AREA) for p in pictures]
    whole = _unit_rows(np.stack([cv2.resize(t, (32, 32), interpolation=cv2.INTER_AREA) for t in thumbnails]))
    fine = _unit_rows(
        np.stack([cv2.resize(_high_pass(t, 6), (64, 64), interpolation=cv2.INTER_AREA) for t in thumbnails])
    )
    whole, fine = whole @ whole.T, fine @ fine.T
    spectra = np.stack([_sliding_spectrum(p) for p in pictures])
    pairs = []
    for a in tqdm(range(len(pictures) - 1), desc="searching near-copies", unit="image", leave=False):
        candidates = a + 1 + np.flatnonzero(whole[a, a + 1 :] > CANDIDATE)
        sliding = np.zeros(len(pictures), np.float32)
        if len(candidates):
            shifted = fft.irfft2(spectra[candidates] * spectra[a].conj(), s=_FRAME, workers=os.cpu_count())
            sliding[candidates] = shifted.max(axis=(1, 2))
        tied = (whole[a] > WHOLE) | (fine[a] > FINE) | (sliding > SLIDING)
        pairs += [
            Pair(a, int(b), float(whole[a, b]), float(fine[a, b]), float(sliding[b]))
            for b in np.flatnonzero(tied)
            if b > a
        ]
    return pairs


def group_pairs(count: int, pairs: Sequence[Pair]) -> np.ndarray:
    """Group number of each of `count` images, (count,) int: pairs, and pairs of pairs, share one."""
    a, b = [p[0] for p in pairs], [p[1] for p in pairs]
    graph = coo_array((np.ones(len(pairs)), (a, b)), shape=(count, count))
    return connected_components(graph, directed=False)[1]
