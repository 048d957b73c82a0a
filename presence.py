"""Is there a lesion in the picture at all? Asked of the trained network's own features, before its mask counts.

A network that marks pixels marks some in every second normal picture (docs/experiments.md). Its features know
better: a logistic regression on the coarsest skip connection, averaged over the picture, tells normals from others. It
is fitted on the training images once the network is trained; its threshold is chosen on the validation images.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np
from keras import layers
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from files import RunError, read_json, write_json
from predict import predict_probability

INVERSE_REGULARISATION = 0.01  # strong: a hundred features, a hundred normals
DICE_TO_SPARE = 0.005  # lesion Dice that may be given up for fewer normals with a mask
MAX_FEATURES = 4096
Arrays = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Presence:
    """Weights of the averaged features, and an offset: a lesion is present where the sum is at least 0."""

    weights: tuple[float, ...]
    offset: float


def save_presence(path: Path, presence: Presence) -> None:
    """Write presence.json."""
    write_json(path, asdict(presence))


def load_presence(path: Path) -> Presence:
    """Read presence.json; keys, types and ranges are checked.

    Raises:
        RunError: the file holds something else.
    """

    def number(value: object) -> bool:
        return type(value) in (int, float) and math.isfinite(value)

    stored = read_json(path)
    weights = stored.get("weights") if isinstance(stored, dict) else None
    good = isinstance(weights, list) and 0 < len(weights) <= MAX_FEATURES and all(map(number, weights))
    if not good or set(stored) != {"weights", "offset"} or not number(stored["offset"]):
        raise RunError(f'{path}: does not hold "weights", a list of numbers, and "offset", a number.')
    return Presence(tuple(weights), stored["offset"])


@keras.saving.register_keras_serializable("attention_unet")
class PresenceGate(layers.Layer):
    """Keeps a map where the presence is at least 0, else makes it zeros: (B, H, W, 1), (B, 1) -> (B, H, W, 1)."""

    def call(self, probability, presence):
        """Keep or silence."""
        return probability * keras.ops.cast(presence >= 0, probability.dtype)[:, None, None]


def pooled_features(model: keras.Model):
    """The coarsest skip connection, averaged over the picture, (B, C); None in a network without a gate."""
    names = [layer.name for layer in model.layers if layer.name.endswith("_theta")]
    if not names:
        return None
    coarsest = max(names, key=lambda name: int(name.split("_")[1]))  # gate_5_theta: level 5
    skip = model.get_layer(coarsest).input
    return layers.GlobalAveragePooling2D(dtype="float32", name="presence_pool")(skip)


def gate_by_presence(model: keras.Model, presence: Presence) -> keras.Model:
    """The same network, whose map is zero where it sees no lesion in the picture.

    Raises:
        ValueError: the weights are not as many as the network's features.
    """
    features = pooled_features(model)
    if features is None or features.shape[-1] != len(presence.weights):
        raise ValueError(f"{len(presence.weights)} weights for other features")
    linear = layers.Dense(1, dtype="float32", name="presence")
    gated = PresenceGate(dtype="float32", name="presence_gate")(model.output, linear(features))
    linear.set_weights([np.float32(presence.weights)[:, None], np.float32([presence.offset])])
    return keras.Model(model.input, gated, name=model.name)


# ---------------------------------------------------------------- fitted after training


def fit_presence(model: keras.Model, train: Arrays, val: Arrays, tta: bool) -> Presence | None:
    """Fit on training images, threshold from validation images.

    The threshold is the one that leaves the fewest normals with a mask at no more than `DICE_TO_SPARE` of the lesion
    Dice, and of these the one that silences the fewest pictures.

    Args:
        model: the trained network, without a `PresenceGate`.
        train, val: images (N, S, S) uint8 and masks (N, S, S) in {0, 1}.
        tta: whether the network's map is averaged with the mirrored picture's; each of the two is gated by itself.

    Returns:
        None where there is nothing to choose: no normals in one of the parts, or no gate in the network.
    """
    (images, masks), (val_images, val_masks) = train, val
    lesion, val_lesion = (m.any(axis=(1, 2)) for m in (masks, val_masks))
    pooled = pooled_features(model)
    if pooled is None or any(part.all() or not part.any() for part in (lesion, val_lesion)):
        return None
    network = keras.Model(model.input, pooled)
    # The mirrored picture is another example of the same.
    features = np.concatenate([_features(network, view) for view in (images, images[:, :, ::-1])])
    scaler = StandardScaler().fit(features)
    fitted = LogisticRegression(C=INVERSE_REGULARISATION, max_iter=1000).fit(
        scaler.transform(features), np.tile(lesion, 2)
    )
    weights = fitted.coef_[0] / scaler.scale_
    offset = float(fitted.intercept_[0] - scaler.mean_ @ weights)

    views = (val_images, val_images[:, :, ::-1]) if tta else (val_images,)
    logits = [_features(network, view) @ weights + offset for view in views]
    maps = [predict_probability(model, view) for view in views]
    maps = [maps[0], *(m[:, :, ::-1] for m in maps[1:])]
    threshold = choose_threshold(np.stack(logits), np.stack(maps), val_masks > 0)
    return Presence(tuple(float(w) for w in weights), offset - threshold)


def _features(network: keras.Model, images: np.ndarray) -> np.ndarray:
    return network.predict(images[..., None].astype(np.float32), batch_size=16, verbose=0).astype(np.float64)


def choose_threshold(logits: np.ndarray, maps: np.ndarray, references: np.ndarray) -> float:
    """Least logit of a picture that keeps its mask.

    Args:
        logits: (views, N).
        maps: (views, N, S, S) lesion probability.
        references: (N, S, S) bool.
    """
    lesion = references.any(axis=(1, 2))
    seen = np.sort(logits.ravel())
    chosen, fewest, least = seen[0] - 1, 2.0, 0.0
    for threshold in (seen[0] - 1, *(seen[1:] + seen[:-1]) / 2):
        kept = (logits >= threshold)[..., None, None]
        mask = (maps * kept).mean(axis=0) > 0.5
        both = (mask & references).sum(axis=(1, 2))[lesion]
        dice = np.mean(2 * both / (mask.sum(axis=(1, 2)) + references.sum(axis=(1, 2)))[lesion])
        alarms = mask.any(axis=(1, 2))[~lesion].mean()
        if fewest > 1:  # the first threshold silences nothing
            least = dice - DICE_TO_SPARE
        if dice < least:
            break
        if alarms < fewest:
            chosen, fewest = threshold, alarms
    return float(chosen)
