"""Near-copies: images of the same frame, or of the same lesion a moment later, which must stay in one part of a split.

Two images are near-copies if one of three correlations is high. Two of them compare thumbnails and are computed for
all pairs, as matrix products. The third is the maximum of the cross-correlation over all shifts. It costs a Fourier
transform a pair, so it is computed only for each image's nearest neighbours: the images with the most similar
magnitude spectra, which a shift does not change and a crop changes little.
"""

import os
from collections.abc import Iterable, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np
from scipy import fft
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

# Thresholds of the correlations, chosen by looking at pairs close to them: data/README.md shows the errors.
WHOLE, FINE, SLIDING = 0.95, 0.36, 0.43
EVEN = 0.28  # of the sliding correlation with flattened spectra: unrelated images may share the layers near the skin
ENOUGH = 1500  # pixels at 1/8 scale; smaller images correlate more by chance, so SLIDING and EVEN are raised for them
NEIGHBOURS = 50  # nearest neighbours that each image is compared with over all shifts; 10 are enough for BUSI
_FRAME = (96, 144)  # height and width of the canvas for the shifts, in pixels at 1/8 scale
_LOW = 0.7  # neighbours are found by the frequencies below this share of the highest
_ROWS = 512  # images that are compared with all others at once: limits the memory
_FLAT = 0.1  # grey levels; an image of less contrast is constant but for rounding, and correlates with nothing


class Pair(NamedTuple):
    """Two near-copies (indices of the images, a < b) and their three correlations."""

    a: int
    b: int
    whole: float
    fine: float
    sliding: float


class _Features(NamedTuple):
    """Features of N images, about 90 kB each."""

    whole: np.ndarray  # (N, 1024) float32, unit rows: thumbnails
    fine: np.ndarray  # (N, 4096) float32, unit rows: thumbnails without their coarse shading
    magnitudes: np.ndarray  # (N, frequencies) float32, unit rows: magnitude spectra, to find the neighbours
    spectra: np.ndarray  # (N, height, width // 2 + 1) complex64: of the fine structure at 1/8 scale
    pixels: list[int]  # N times the number of pixels at 1/8 scale


def _unit_rows(values: bytearray, count: int) -> np.ndarray:
    rows = np.frombuffer(values, np.float32).reshape(count, -1)
    rows -= rows.mean(axis=1, keepdims=True)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _FLAT)
    return rows


def _high_pass(picture: np.ndarray, sigma: float) -> np.ndarray:
    picture = picture.astype(np.float32)
    return picture - cv2.GaussianBlur(picture, (0, 0), sigma)


def _shrink(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


def _spectrum(picture: np.ndarray) -> tuple[np.ndarray, int]:
    """Spectrum of an image's fine structure at 1/8 scale, on a canvas of `_FRAME`, and its number of pixels."""
    small = _shrink(picture, max(picture.shape[1] // 8, 8), max(picture.shape[0] // 8, 8))
    small = _high_pass(small, 3)
    small = ((small - small.mean()) / max(small.std(), _FLAT)).clip(-3, 3)[: _FRAME[0], : _FRAME[1]]
    canvas = np.zeros(_FRAME, np.float32)
    canvas[: small.shape[0], : small.shape[1]] = small
    return fft.rfft2(canvas / max(np.linalg.norm(canvas), 1)), small.size


def _describe(pictures: Iterable[np.ndarray]) -> _Features:
    """Compute the features; each image is used once, so `pictures` may be a generator."""
    down, across = np.abs(fft.fftfreq(_FRAME[0])), fft.rfftfreq(_FRAME[1])
    low = np.hypot(down[:, None], across) < _LOW / 2  # the highest frequency is half a cycle a pixel
    kept, pixels = [bytearray() for _ in range(4)], []  # these grow in place, where a list would be copied to an array
    if isinstance(pictures, Sized):  # a generator, whose length is not known here, may have a bar of its own
        pictures = tqdm(pictures, desc="describing pictures", unit="image", leave=False)
    for picture in pictures:
        thumbnail = _shrink(picture, 128, 128)
        whole, fine = _shrink(thumbnail, 32, 32).astype(np.float32), _shrink(_high_pass(thumbnail, 6), 64, 64)
        spectrum, size = _spectrum(picture)
        magnitudes = np.sqrt(np.abs(spectrum[low]))  # without the root, a few strong frequencies would dominate
        for values, part in zip(kept, (whole, fine, magnitudes, spectrum), strict=True):
            values += part.tobytes()
        pixels.append(size)
    count = len(pixels)
    if not count:
        return _Features(*(np.empty((0, 1), np.float32) for _ in range(4)), [])
    spectra = np.frombuffer(kept[3], np.complex64).reshape(count, *low.shape)
    return _Features(*(_unit_rows(values, count) for values in kept[:3]), spectra, pixels)


def _select(features: _Features) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Candidates: pairs with similar thumbnails or spectra, (K, 2), a < b, ascending; their whole and fine, (K,)."""
    count = len(features.spectra)
    codes, whole, fine = [], [], []
    for start in tqdm(range(0, count, _ROWS), desc="looking for neighbours", leave=False):
        rows = slice(start, start + _ROWS)
        alike_whole, alike_fine, alike = (part[rows] @ part.T for part in features[:3])
        chosen = (alike_whole > WHOLE) | (alike_fine > FINE)
        last = max(count - 1 - NEIGHBOURS, 0)  # ascending order; the most similar is the image itself
        np.put_along_axis(chosen, np.argpartition(alike, last, axis=1)[:, last:], True, axis=1)
        chosen[np.arange(len(chosen)), start + np.arange(len(chosen))] = False
        a, b = np.nonzero(chosen)
        codes.append(np.minimum(start + a, b) * count + np.maximum(start + a, b))
        whole.append(alike_whole[chosen])
        fine.append(alike_fine[chosen])
    codes, first = np.unique(np.concatenate(codes), return_index=True)  # a pair may be found from both sides
    pairs = np.stack(np.divmod(codes, count), axis=1)
    return pairs, np.concatenate(whole)[first], np.concatenate(fine)[first]


def _flatten(spectrum: np.ndarray) -> np.ndarray:
    """Flatten a spectrum: the square root of each magnitude, the same phases, unit norm."""
    flat = spectrum / np.sqrt(np.maximum(np.abs(spectrum), 1e-6))
    return flat / max(np.linalg.norm(fft.irfft2(flat, s=_FRAME)), 1e-6)


def _slide(spectra: Sequence[np.ndarray], pairs: np.ndarray) -> np.ndarray:
    """Maximum cross-correlation of each of K pairs over all shifts, (K,) float32."""

    def slide(part: np.ndarray) -> list[float]:
        # One pair at a time: larger arrays do not fit the processor's cache, and take five times as long.
        return [fft.irfft2(spectra[a] * spectra[b].conj(), s=_FRAME).max() for a, b in part]

    parts = np.array_split(pairs, len(pairs) // 1000 + 1)
    pool = ThreadPoolExecutor(os.cpu_count())  # threads: a Fourier transform releases the GIL
    try:
        progress = tqdm(pool.map(slide, parts), total=len(parts), desc="searching near-copies", leave=False)
        return np.array([best for part in progress for best in part], np.float32)
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for all parts


def near_copies(pictures: Iterable[np.ndarray]) -> list[Pair]:
    """Find the pairs of near-copies among grey images, (H, W) uint8 each, of any size; in ascending order.

    One of three correlations must be above its threshold:
    - whole: 32x32 thumbnails (same frame, other gain, caliper or size);
    - fine: 64x64 thumbnails without their coarse shading (same frame, other overlay);
    - sliding: fine structure at 1/8 scale, maximum over all shifts (another crop); the correlation of the flattened
      spectra, in which weak frequencies count more, must then be high too.

    Args:
        pictures: each is used once, so with a generator only one is in memory.
    """
    features = _describe(pictures)
    if len(features.spectra) < 2:
        return []
    pairs, whole, fine = _select(features)
    sliding = _slide(features.spectra, pairs)
    tied = (whole > WHOLE) | (fine > FINE)
    for i in np.flatnonzero(~tied & (sliding > SLIDING)):
        # The correlation of n random values has a standard deviation of 1 / sqrt(n).
        stricter = max(1, ENOUGH / min(features.pixels[k] for k in pairs[i])) ** 0.5
        a, b = (_flatten(features.spectra[k]) for k in pairs[i])
        even = fft.irfft2(a * b.conj(), s=_FRAME).max()
        tied[i] = sliding[i] > SLIDING * stricter and even > EVEN * stricter
    return [
        Pair(int(a), int(b), float(w), float(f), float(s))
        for (a, b), w, f, s in zip(pairs[tied], whole[tied], fine[tied], sliding[tied], strict=True)
    ]


def group_pairs(count: int, pairs: Sequence[tuple]) -> np.ndarray:
    """Group number of each of `count` images, (count,) int: the connected components of the pairs."""
    a, b = [p[0] for p in pairs], [p[1] for p in pairs]
    graph = coo_array((np.ones(len(pairs)), (a, b)), shape=(count, count))
    return connected_components(graph, directed=False)[1]
