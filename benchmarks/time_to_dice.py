"""How long until a network is good? Ours beside MONAI's AttentionUnet and the pilot network, on the same images.

    pip install torch==2.13.0 monai && python benchmarks/time_to_dice.py --data-dir FOLDER

Split p1-1, lesions only, scored on the 195 images of its public validation list. train_model.py keeps those for the
test, and nothing is chosen by them here; its own 68 validation images are too few to tell 0.75 from 0.70. All get the
same batches, augmentation, loss, optimizer, schedule and weight averaging, at the same size. They take turns, an
epoch each, so that a slow moment of the machine meets all; the clock of each runs only while it trains. All are
scored with mirrored averaging, as train_model.py does. Run it on an idle machine; it takes an hour. Each runs at its
fastest: ours as train_model.py does, MONAI's and the pilot in bfloat16, MONAI's compiled, as on a new machine: without
what torch.compile kept from an earlier run. Who has reached the last goal stops there, unless `--to-the-end`.
"""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import tyro
from shared import default_network, default_settings, seconds
from step import build_pilot

from segmentation.common import startup  # noqa: F401  # isort: skip
import keras

from dataset import Stream, find_samples, make_dataset, read_samples, resize_samples
from segmentation.data.augmentation import augmenter
from segmentation.data.find_data import find_data
from segmentation.data.splits import Division, split_samples
from segmentation.network.encoders import Encoder, load_imagenet
from segmentation.network.losses import training_loss
from segmentation.network.optimizer import convolution_policy, make_optimizer, make_schedule
from segmentation.runs.run_folder import build_network

DEFAULT = default_settings()
GOALS = (0.60, 0.70, 0.75)


@dataclass(frozen=True)
class TimeToDiceConfig:
    """What to train on."""

    data_dir: Path  # folder with BUSI
    epochs: int = 24  # of each network
    encoder: Encoder = DEFAULT["encoder"]  # of ours; none: the same settings from random weights
    networks: tuple[str, ...] = ("ours", "MONAI AttentionUnet", "pilot")  # who takes part
    score_every: int = 1  # epochs between two scorings; the last is always scored
    to_the_end: bool = False  # train all epochs: what is the best Dice of each?
    output: Path | None = None  # write the curves as JSON too


class Ours:
    """Our network, or without `encoder` the pilot, an epoch at a time."""

    def __init__(self, epochs: int, steps: int, encoder: Encoder | None = None):
        if encoder is None:
            keras.mixed_precision.set_global_policy("mixed_bfloat16")
            self.model = build_pilot(DEFAULT["image_size"])
            keras.mixed_precision.set_global_policy("float32")
        else:
            policy = convolution_policy(DEFAULT["precision"], gpus=0)
            self.model = build_network(**default_network(encoder=encoder, lesion_score=False), convolutions=policy)
            if encoder != "none":
                load_imagenet(self.model, encoder)
        optimizer = make_optimizer(DEFAULT["learning_rate"], DEFAULT["ema"], epochs, steps)
        self.model.compile(optimizer, training_loss(DEFAULT["dice_weight"]), jit_compile=False)
        self.averaging = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)

    def epoch(self, batches, number: int, steps: int) -> None:
        """Train."""
        self.model.fit(
            batches,
            initial_epoch=number,
            epochs=number + 1,
            steps_per_epoch=steps,
            callbacks=[self.averaging],  # leaves the averaged weights in the model until the next epoch begins
            verbose=0,
            shuffle=False,
        )

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Probabilities with the averaged weights."""
        return self.model.predict(images[..., None].astype(np.float32), batch_size=16, verbose=0)[..., 0]


class Theirs:
    """MONAI's network, an epoch at a time."""

    def __init__(self, epochs: int, steps: int):
        import torch  # not at the top: ours and the pilot need neither PyTorch nor MONAI
        from torch_attention_unet import Trainer, build_monai

        torch.compiler.config.force_disable_caches = True
        torch.manual_seed(0)
        self.torch = torch
        rate = make_schedule(DEFAULT["learning_rate"], epochs, steps)
        momentum = min(DEFAULT["ema"], 1 - 1 / (2 * steps))
        self.trainer = Trainer(build_monai(), lambda step: float(rate(step)), momentum, bfloat16=True, compiled=True)

    def epoch(self, batches, number: int, steps: int) -> None:
        """Train."""
        for _, (images, masks) in zip(range(steps), batches, strict=False):
            self.trainer.train(*(self.torch.from_numpy(a.numpy()).permute(0, 3, 1, 2) for a in (images / 255, masks)))

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Probabilities with the averaged weights."""
        x = self.torch.from_numpy(images.astype(np.float32) / 255)[:, None]
        return self.torch.cat([self.trainer.predict(part, averaged=True) for part in x.split(16)])[:, 0].numpy()


def main(config: TimeToDiceConfig) -> None:
    """Print a table."""
    keras.utils.set_random_seed(0)
    samples = find_samples(find_data(config.data_dir))
    pictures = read_samples(samples)
    parts = split_samples(samples, np.arange(len(samples)), Division("p1-1", normals="none"))
    train, test = (
        resize_samples([pictures[i] for i in parts[part]], DEFAULT["image_size"]) for part in ("train", "test")
    )
    steps = -(-len(train[0]) // DEFAULT["batch_size"])
    build = {"ours": partial(Ours, encoder=config.encoder), "MONAI AttentionUnet": Theirs, "pilot": Ours}
    networks = {name: build[name](config.epochs, steps) for name in config.networks}
    change = augmenter(DEFAULT["augmentation"], 0)  # as the plain network (docs/settings.md)
    minutes, curves = dict.fromkeys(networks, 0.0), {name: [] for name in networks}
    for epoch in range(config.epochs):
        for name, network in networks.items():
            if not config.to_the_end and any(dice >= GOALS[-1] for _, dice in curves[name]):
                continue
            batches = make_dataset(*train, DEFAULT["batch_size"], Stream(change=change, first_epoch=epoch))
            minutes[name] += seconds(partial(network.epoch, batches, epoch, steps)) / 60
            if (epoch + 1) % config.score_every and epoch + 1 < config.epochs:
                continue
            mirrored = network.predict(test[0][:, :, ::-1])[:, :, ::-1]
            dice = mean_dice((network.predict(test[0]) + mirrored) / 2, test[1])
            curves[name].append((minutes[name], dice))
            print(f"epoch {epoch + 1}: {name} {dice:.3f} after {minutes[name]:.1f} min", flush=True)
    goals = " | ".join(f"{goal:.2f}" for goal in GOALS)
    print(f"\n| minutes until validation Dice | {goals} | best |\n|---|---|---|---|---|")
    for name, curve in curves.items():
        reached = [next((f"{t:.1f}" for t, dice in curve if dice >= goal), "not reached") for goal in GOALS]
        print(f"| {name} | " + " | ".join(reached) + f" | {max(d for _, d in curve):.3f} |")
    if config.output:
        config.output.write_text(json.dumps(curves) + "\n")


def mean_dice(probability: np.ndarray, masks: np.ndarray) -> float:
    """Mean Dice at 0.5."""
    p, r = probability > 0.5, masks > 0
    return float(np.mean(2 * (p & r).sum((1, 2)) / (p.sum((1, 2)) + r.sum((1, 2)))))


if __name__ == "__main__":
    main(tyro.cli(TimeToDiceConfig, description=__doc__))
