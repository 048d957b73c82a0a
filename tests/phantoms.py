"""Simulated breast ultrasound in BUSI's folder layout, for tests that need planted near-copies and normal images.

The model is the classic convolution model of B-mode ultrasound (Bamber and Dickinson 1980, Phys. Med.
Biol. 25:463; Meunier and Bertrand 1995, IEEE Trans. Med. Imaging 14:293): many random scatterers per
resolution cell, each a complex normal number scaled by the tissue's echogenicity, are filtered by a
point-spread function that widens with depth. The envelope is then Rayleigh-distributed (Wagner et al.
1983, IEEE Trans. Sonics Ultrason. 30:156): fully developed speckle. Attenuation is summed along each
vertical line, which gives shadows below dense tissue and enhancement below fluid; logarithmic
compression to 60 dB gives the picture. The anatomy follows what a radiologist looks for (BI-RADS):
skin, fat with septa, fibroglandular tissue, muscle; benign masses oval and smooth, malignant ones
irregular, spiculated, taller than wide and shadowing. Fat lobules and narrow shadows look a little
like lesions, so the task is not trivial. Results on phantoms say nothing about patients.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from segmentation.common.files import write_picture

CLASS_SHARES = {"benign": 0.56, "malignant": 0.27, "normal": 0.17}  # as in BUSI
DYNAMIC_RANGE_DB = 60.0
_RNG_STREAM = 20180411  # a random stream of their own: independent of other uses of the same seed


@dataclass
class Tissue:
    """Acoustic properties of the tissue at each pixel, (H, W) float32."""

    echo_db: np.ndarray  # backscatter, dB
    attenuation: np.ndarray  # dB per pixel of depth


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[float, float]) -> np.ndarray:
    """Random field of unit variance with a grain of `cells` pixels (vertical, horizontal)."""
    coarse = rng.normal(size=(max(int(shape[0] / cells[0]) + 2, 3), max(int(shape[1] / cells[1]) + 2, 3)))
    field = cv2.resize(coarse.astype(np.float32), shape[::-1], interpolation=cv2.INTER_CUBIC)
    return field / max(field.std(), 1e-6)


def _layers(rng: np.random.Generator, shape: tuple[int, int]) -> Tissue:
    """Skin, subcutaneous fat, fibroglandular tissue, pectoral muscle, chest wall."""
    height, width = shape
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    depths = np.cumsum(
        [rng.uniform(0.02, 0.05), rng.uniform(0.1, 0.28), rng.uniform(0.25, 0.45), rng.uniform(0.1, 0.2)]
    )
    waves = [depth + 0.02 * _smooth_noise(rng, (1, width), (1, width / 3)) for depth in depths]
    layer = sum((y > wave).astype(np.int32) for wave in waves)  # 0 skin .. 4 chest wall
    fibres = _smooth_noise(rng, shape, (4, 60))  # muscle and septa run along the skin
    lobules = _smooth_noise(rng, shape, (22, 45))
    echo = np.choose(
        layer,
        [
            np.full(shape, 0.0),
            -19 + 3 * lobules + 6 * (np.abs(lobules) < 0.08),
            -8 + 3 * lobules + 2 * fibres,
            -18 + 5 * fibres,
            -24 + 2 * fibres,
        ],
    )
    edges = sum(np.exp(-(((y - wave) * height / 2.0) ** 2)) for wave in waves)  # interfaces reflect
    return Tissue((echo + 12 * edges).astype(np.float32), np.full(shape, rng.uniform(0.03, 0.06), np.float32))


def _ellipse(shape: tuple[int, int], center, radii, tilt: float, outline) -> np.ndarray:
    """Mask of a closed curve: radius outline(angle) times an ellipse, (H, W) bool."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    dy, dx = y - center[0], x - center[1]
    u, v = dx * np.cos(tilt) + dy * np.sin(tilt), dy * np.cos(tilt) - dx * np.sin(tilt)
    u, v = u / radii[1], v / radii[0]
    return np.hypot(u, v) < outline(np.arctan2(v, u))


def _outline(rng: np.random.Generator, malignant: bool):
    """Radius as a function of the angle: a few low harmonics if benign, many and spicules if malignant."""
    orders = np.arange(2, 14 if malignant else 5)
    size = rng.normal(0, 0.11 if malignant else 0.05, len(orders)) / np.sqrt(orders - 1)
    phase = rng.uniform(0, 2 * np.pi, len(orders))
    spicules = rng.uniform(-np.pi, np.pi, rng.integers(4, 9) if malignant else 0)
    length = rng.uniform(0.15, 0.5, len(spicules))

    def radius(angle: np.ndarray) -> np.ndarray:
        r = 1 + sum(s * np.cos(k * angle + p) for s, k, p in zip(size, orders, phase, strict=True))
        for at, reach in zip(spicules, length, strict=True):
            r = r + reach * np.exp(-((np.angle(np.exp(1j * (angle - at))) / 0.12) ** 2))
        return np.maximum(r, 0.3)

    return radius


def _add_lesion(rng: np.random.Generator, tissue: Tissue, malignant: bool) -> np.ndarray:
    """Draw one mass into the tissue and return its mask, (H, W) bool."""
    height, width = shape = tissue.echo_db.shape
    size = np.exp(rng.normal(np.log(0.14 if malignant else 0.095), 0.4)) * min(shape)
    size = float(np.clip(size, 0.03 * min(shape), 0.24 * min(shape)))
    aspect = rng.uniform(0.8, 1.4) if malignant else rng.uniform(0.5, 0.85)  # height over width
    center = rng.uniform(0.25, 0.6) * height, rng.uniform(0.2, 0.8) * width
    mask = _ellipse(shape, center, (size * aspect, size), rng.uniform(-0.4, 0.4), _outline(rng, malignant))
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), rng.uniform(2, 4) if malignant else 1.0)
    inside = rng.uniform(-30, -21) + rng.uniform(1, 4) * _smooth_noise(rng, shape, (size / 2, size / 2))
    if malignant and rng.random() < 0.4:  # microcalcifications: bright specks
        inside = inside + 22 * (_smooth_noise(rng, shape, (2, 2)) > 2.2)
    tissue.echo_db[:] = tissue.echo_db * (1 - soft) + inside * soft
    if not malignant:  # a thin echogenic capsule
        tissue.echo_db += 6 * cv2.morphologyEx(mask.astype(np.float32), cv2.MORPH_GRADIENT, np.ones((3, 3)))
    absorbed = rng.uniform(6, 22) if malignant else -rng.uniform(2, 9)  # dB over the mass
    tissue.attenuation += (soft * absorbed / (2 * size * aspect)).astype(np.float32)
    return mask


def _add_distractors(rng: np.random.Generator, tissue: Tissue) -> None:
    """Add fat lobules and narrow shadows, which are dark but not lesions."""
    shape = tissue.echo_db.shape
    for _ in range(rng.integers(0, 4)):
        radius = rng.uniform(0.04, 0.12) * min(shape)
        lobule = _ellipse(
            shape,
            (rng.uniform(0.15, 0.8) * shape[0], rng.uniform(0, 1) * shape[1]),
            (radius * 0.5, radius * 1.3),
            rng.uniform(-0.3, 0.3),
            _outline(rng, False),
        )
        soft = cv2.GaussianBlur(lobule.astype(np.float32), (0, 0), 2.5)
        tissue.echo_db[:] = tissue.echo_db * (1 - soft) + (-18 + _smooth_noise(rng, shape, (8, 20))) * soft
    for _ in range(rng.integers(0, 3)):  # shadow of a ligament or of poor contact
        x = np.arange(shape[1]) - rng.uniform(0, shape[1])
        tissue.attenuation += (0.06 * np.exp(-((x / (0.04 * shape[1])) ** 2)))[None].astype(np.float32)


def _scan(rng: np.random.Generator, tissue: Tissue) -> np.ndarray:
    """B-mode picture of the tissue, (H, W) uint8."""
    height, width = shape = tissue.echo_db.shape
    lost = np.cumsum(tissue.attenuation, axis=0) - 0.045 * np.arange(height, dtype=np.float32)[:, None]  # time-gain
    amplitude = 10 ** ((tissue.echo_db - 2 * lost * 0.5) / 20)
    scatterers = (rng.normal(size=shape) + 1j * rng.normal(size=shape)) * amplitude
    field = np.empty(shape, np.complex64)
    bands = np.linspace(0, height, 5).astype(int)
    for top, bottom in zip(bands[:-1], bands[1:], strict=True):  # the beam widens with depth
        lateral = 1.3 + 1.6 * (top / height)
        low, high = max(top - 16, 0), min(bottom + 16, height)
        part = scatterers[low:high].astype(np.complex64)
        blurred = [
            cv2.GaussianBlur(c, (0, 0), sigmaX=lateral, sigmaY=0.9) for c in (part.real.copy(), part.imag.copy())
        ]
        field[top:bottom] = (blurred[0] + 1j * blurred[1])[top - low : bottom - low]
    envelope = np.abs(field)
    envelope /= np.percentile(envelope, 99.7)
    decibel = 20 * np.log10(np.maximum(envelope, 1e-6))
    return ((decibel / DYNAMIC_RANGE_DB + 1).clip(0, 1) * 255).astype(np.uint8)


def _add_calipers(rng: np.random.Generator, image: np.ndarray, mask: np.ndarray) -> None:
    """Crosses at the ends of the lesion, as the sonographer leaves them."""
    rows, columns = np.nonzero(mask)
    ends = [(int(columns.min()), int(rows[columns.argmin()])), (int(columns.max()), int(rows[columns.argmax()]))]
    for x, y in ends:
        cv2.drawMarker(image, (x, y), int(rng.integers(200, 256)), cv2.MARKER_CROSS, 9, 1)


def make_phantom(label: str, seed: int | tuple[int, ...]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draw one image and its masks.

    Args:
        label: "benign", "malignant" or "normal".
        seed: equal seeds give equal images.

    Returns:
        Image (H, W) uint8 and zero, one or two masks (H, W) bool; the sizes vary as in BUSI.
    """
    rng = np.random.default_rng((_RNG_STREAM, *np.atleast_1d(seed)))
    shape = int(rng.integers(280, 420)), int(rng.integers(340, 560))
    tissue = _layers(rng, shape)
    _add_distractors(rng, tissue)
    count = 0 if label == "normal" else 1 + int(label == "benign" and rng.random() < 0.06)
    masks = [_add_lesion(rng, tissue, label == "malignant") for _ in range(count)]
    image = _scan(rng, tissue)
    for mask in masks:
        if rng.random() < 0.3:
            _add_calipers(rng, image, mask)
    return image, masks


def make_near_copy(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Make a near-copy, of which BUSI holds many: the same frame with another crop and gain."""
    height, width = image.shape
    top, left = int(rng.integers(0, height // 40 + 1)), int(rng.integers(0, width // 40 + 1))
    window = (slice(top, height - height // 40 + top), slice(left, width - width // 40 + left))
    return cv2.convertScaleAbs(image[window], alpha=rng.uniform(0.9, 1.1), beta=rng.uniform(-8, 8)), mask[window]


def write_phantoms(folder: Path, images: int = 120, seed: int = 0, near_copy_share: float = 0.1) -> Path:
    """Write phantoms in BUSI's folder layout.

    Args:
        folder: gets `benign/`, `malignant/` and `normal/`.
        images: number of images.
        seed: of all random draws.
        near_copy_share: share of the images that are near-copies of the previous image of the same class.

    Returns:
        `folder`.
    """
    for label in CLASS_SHARES:
        (folder / label).mkdir(parents=True, exist_ok=True)
    labels = [label for label, share in CLASS_SHARES.items() for _ in range(max(round(images * share), 2))]
    numbers = dict.fromkeys(CLASS_SHARES, 0)
    previous: tuple[str, np.ndarray, list[np.ndarray]] = ("", np.empty(0), [])
    for index, label in enumerate(tqdm(labels, desc="drawing phantoms", unit="image", leave=False)):
        rng = np.random.default_rng((_RNG_STREAM, seed, index, 1))
        if previous[0] == label and len(previous[2]) == 1 and rng.random() < near_copy_share / 0.7:
            image, mask = make_near_copy(previous[1], previous[2][0], rng)
            masks = [mask] if mask.any() else []
        else:
            image, masks = make_phantom(label, (seed, index))
        previous = (label, image, masks)
        numbers[label] += 1
        name = f"{label} ({numbers[label]})"
        files = {"": image}
        for number, mask in enumerate(masks):
            files["_mask" + (f"_{number}" if number else "")] = mask.astype(np.uint8) * 255
        for suffix, pixels in files.items():
            write_picture(folder / label / f"{name}{suffix}.png", pixels)
    return folder
