"""Change an image and its mask together, as another patient, probe or machine setting would."""

import cv2
import numpy as np


def augment(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, strength: float = 1.0):
    """One random change of an image and its mask.

    Flip (left-right only: shadows fall downwards), rotation, scale, shear, translation and a smooth
    elastic deformation in one interpolation; then gamma, contrast, blur and speckle on the image.

    Args:
        image: (H, W) uint8.
        mask: (H, W) uint8 in {0, 1}.
        rng: the only source of chance.
        strength: 0 leaves the flip alone, 1 is the default recipe.

    Returns:
        New image (H, W) uint8 and new mask (H, W) uint8 in {0, 1}.
    """
    height, width = image.shape
    flip = -1.0 if rng.random() < 0.5 else 1.0
    angle, shear = np.deg2rad(rng.uniform(-15, 15) * strength), np.deg2rad(rng.uniform(-8, 8) * strength)
    zoom = np.exp(rng.uniform(-0.25, 0.25) * strength)
    shift = rng.uniform(-0.1, 0.1, 2) * strength
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[flip, np.tan(shear)], [0, 1]]) / zoom  # output -> input, in units of the picture

    # A coarse random field, enlarged, is a smooth deformation; 4 points a side bend a lesion's outline.
    field = rng.normal(0, 0.012 * strength, (4, 4, 2)).astype(np.float32)
    bend = cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC)
    x, y = np.meshgrid(
        np.linspace(-0.5, 0.5, width, dtype=np.float32), np.linspace(-0.5, 0.5, height, dtype=np.float32)
    )
    u = matrix[0, 0] * x + matrix[0, 1] * y + shift[0] + bend[..., 0]
    v = matrix[1, 0] * x + matrix[1, 1] * y + shift[1] + bend[..., 1]
    map_x, map_y = ((u + 0.5) * (width - 1)).astype(np.float32), ((v + 0.5) * (height - 1)).astype(np.float32)
    # Both reflect: a lesion mirrored into the picture is a lesion in the mask too.
    image = cv2.remap(image, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    mask = cv2.remap(mask, map_x, map_y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101)

    if rng.random() < 0.2 * strength:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.2))
    gamma = np.exp(rng.uniform(-0.35, 0.35) * strength)
    gain = 1 + rng.uniform(-0.25, 0.25) * strength
    offset = rng.uniform(-0.1, 0.1) * strength
    curve = np.linspace(0, 1, 256) ** gamma * gain + offset
    image = cv2.LUT(image, (curve * 255).clip(0, 255).astype(np.uint8))
    if rng.random() < 0.3 * strength:  # speckle multiplies; its grain is coarser than a pixel
        grain = cv2.resize(rng.normal(1, 0.12, (height // 2, width // 2)).astype(np.float32), (width, height))
        image = (image * grain).clip(0, 255).astype(np.uint8)
    return image, mask
