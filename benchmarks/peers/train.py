"""What do other libraries reach on our folds? Their networks by their own examples, scored by our scorer.

    pip install -r benchmarks/peers/requirements.txt
    python benchmarks/peers/train.py smp_unet --data-dir FOLDER                     # the five grouped folds
    python benchmarks/peers/train.py smp_unet --data-dir A B C --split by-hospital --folds 0 1 2

A repeated command goes on after the last finished epoch. Each fold writes its scores to OUTPUT/PEER/; those of all
folds are in OUTPUT/PEER-SPLIT.csv, which compare_runs.py compares with ours. Images, folds, size and scores are those
of train_model.py. Augmentation, loss, optimizer and batch are those of the library's own example, for 20 epochs; the
epoch with the best mean Dice of all validation images is kept, where an empty mask of a normal one counts 1. A pixel is
lesion above 0.5, and no mask is averaged with a mirrored one.
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

import albumentations as A
import cv2
import monai
import segmentation_models_pytorch as smp
import torch
import tyro
from torch import nn

from dataset import read_each
from segmentation.common.files import write_atomic, write_json
from segmentation.data.splits import Division
from segmentation.network.encoders import find_checkpoint, read_checkpoint
from segmentation.runs.parts import Parts, load_data, split_data
from segmentation.scoring.decision import Decision, Prediction
from segmentation.scoring.prediction import score_samples
from segmentation.scoring.score_table import find_scores, write_scores
from segmentation.scoring.scores import overlap, result_line, summarise

SIZE, EPOCHS = 224, 20  # pixels and epochs, as train_model.py's defaults
ENCODER = "efficientnet_lite0"


class Peer(NamedTuple):
    """A network and how its library's example trains it."""

    build: Callable[[], nn.Module]  # (B, 1, H, W) grey values 0 to 1 -> logits of that shape
    augment: Callable[..., dict]  # albumentations: image and mask, both (H, W) uint8
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # of logits and masks
    learning_rate: float
    cosine: bool  # whether the learning rate decays over all steps
    batch: int


class Coloured(nn.Module):
    """A network of three colours for grey images, normalised as its encoder expects them."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) -> logits."""
        return self.network((2 * x - 1).expand(-1, 3, -1, -1))


def build_smp(architecture: Callable[..., nn.Module]) -> nn.Module:
    """A network of segmentation_models_pytorch with our encoder and its ImageNet weights, of the same checkpoint."""
    network = architecture(f"tu-tf_{ENCODER}", encoder_weights=None, classes=1)
    given = read_checkpoint(find_checkpoint(ENCODER))
    # Both list the layers from the first to the last, under names of their own.
    given = {name: values for name, values in given.items() if not name.startswith(("_fc", "_conv_head", "_bn1."))}
    own = network.encoder.model.state_dict()
    assert [v.shape for v in own.values()] == [v.shape for v in given.values()], "another version of timm"
    weights = (torch.from_numpy(np.array(values)) for values in given.values())
    network.encoder.model.load_state_dict(dict(zip(own, weights, strict=True)))
    return Coloured(network)


# examples/camvid_segmentation_multiclass.ipynb of segmentation_models_pytorch; its crops are whole images here.
SMP_AUGMENTATION = A.Compose(
    [
        A.HorizontalFlip(p=0.5),
        A.Affine(scale=(0.5, 1.5), translate_percent=(-0.1, 0.1), p=1),
        A.GaussNoise(p=0.2),
        A.Perspective(p=0.5),
        A.OneOf([A.CLAHE(p=1), A.RandomBrightnessContrast(p=1), A.RandomGamma(p=1)], p=0.9),
        A.OneOf([A.Sharpen(p=1), A.Blur(blur_limit=3, p=1), A.MotionBlur(blur_limit=3, p=1)], p=0.9),
        A.OneOf([A.RandomBrightnessContrast(p=1), A.RandomGamma(p=1)], p=0.9),
    ]
)
# 2d_segmentation/torch/unet_training_array.py of MONAI's tutorials; its crops are whole images here.
MONAI_AUGMENTATION = A.Compose([A.RandomRotate90(p=0.5)])


def smp_peer(architecture: Callable[..., nn.Module]) -> Peer:
    """A network of segmentation_models_pytorch, trained as its example does."""
    loss = smp.losses.DiceLoss(smp.losses.BINARY_MODE, from_logits=True)
    return Peer(lambda: build_smp(architecture), SMP_AUGMENTATION, loss, 2e-4, cosine=True, batch=8)


def build_monai() -> nn.Module:
    """MONAI's AttentionUnet, in the size of its tutorials' U-Net."""
    return monai.networks.nets.AttentionUnet(2, 1, 1, channels=(16, 32, 64, 128, 256), strides=(2, 2, 2, 2))


PEERS = {
    "smp_unet": smp_peer(smp.Unet),
    "smp_deeplabv3plus": smp_peer(smp.DeepLabV3Plus),
    "monai_attention_unet": Peer(
        build_monai, MONAI_AUGMENTATION, monai.losses.DiceLoss(sigmoid=True), 1e-3, cosine=False, batch=4
    ),
}


@dataclass(frozen=True)
class PeerConfig:
    """What to train on."""

    peer: tyro.conf.Positional[Literal[tuple(PEERS)]]
    data_dir: tuple[Path, ...]  # folders, as for train_model.py
    split: str = "grouped-cv"
    folds: tuple[int, ...] = (0, 1, 2, 3, 4)
    seed: int = 0
    output: Path = Path("models/peers")


def main(config: PeerConfig) -> None:
    """Train and score the folds that have no table yet, and print the scores of all."""
    split = Path(config.split).stem
    runs = {f"{split}-fold{fold}-seed{config.seed}": fold for fold in config.folds}
    tables = {run: config.output / config.peer / f"{run}.csv" for run in runs}
    missing = [run for run, table in tables.items() if not table.exists()]
    data = load_data(config.data_dir, SIZE) if missing else None
    for run in missing:
        tables[run].parent.mkdir(parents=True, exist_ok=True)
        parts = split_data(data, Division(config.split, runs[run]), [])
        checkpoint = tables[run].with_suffix(".pt")
        network, minutes = train(PEERS[config.peer], parts, config.seed, checkpoint)
        prediction = Prediction(predict(network, parts.test_images))
        scores = score_samples(prediction, parts.test, read_each(parts.test), parts.groups, Decision())
        about = {"minutes": round(minutes, 1), "summary": summarise(scores)}
        write_json(tables[run].with_suffix(".json"), about)
        write_scores(tables[run], [score | {"run": run} for score in scores])
        checkpoint.unlink()
    together = [score for table in tables.values() for score in find_scores(table)]
    write_scores(config.output / f"{config.peer}-{split}.csv", together)
    print(result_line(config.peer, summarise(together), 0))


def train(peer: Peer, parts: Parts, seed: int, checkpoint: Path) -> tuple[nn.Module, float]:
    """Train one network, and go on from the checkpoint if there is one.

    Returns:
        The network with the weights of the epoch whose validation Dice was highest, and the minutes of all epochs.
    """
    torch.manual_seed(seed)
    network = peer.build().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), peer.learning_rate)
    steps = len(parts.train[0]) // peer.batch
    last = 1e-5 if peer.cosine else peer.learning_rate
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * steps, eta_min=last)
    state = {"epoch": 0, "minutes": 0.0, "best": -1.0, "kept": {}}
    if checkpoint.exists():
        state = torch.load(checkpoint)
        for part, name in ((network, "network"), (optimizer, "optimizer"), (decay, "decay")):
            part.load_state_dict(state[name])
    for epoch in range(state["epoch"], EPOCHS):
        started, losses = time.time(), []
        network.train()
        peer.augment.set_random_seed(seed + epoch)
        for images, masks in batches(peer, parts.train, np.random.default_rng((seed, epoch))):
            optimizer.zero_grad()
            loss = peer.loss(network(images.contiguous(memory_format=torch.channels_last)), masks)
            loss.backward()
            optimizer.step()
            decay.step()
            losses.append(loss.item())
        found = predict(network, parts.val[0]) > 0.5
        dice = float(np.mean([overlap(mask, one)["dice"] for mask, one in zip(parts.val[1], found, strict=True)]))
        print(f"epoch {epoch + 1}/{EPOCHS}: loss {np.mean(losses):.4f}, validation Dice {dice:.4f}", flush=True)
        if dice > state["best"]:
            state |= {"best": dice, "kept": {name: values.clone() for name, values in network.state_dict().items()}}
        state |= {"epoch": epoch + 1, "minutes": state["minutes"] + (time.time() - started) / 60}
        state |= {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "decay": decay.state_dict()}
        write_atomic(checkpoint, partial(torch.save, state))
    network.load_state_dict(state["kept"])
    return network, state["minutes"]


def batches(
    peer: Peer, pictures: tuple[np.ndarray, np.ndarray], rng: np.random.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The augmented images of an epoch and their masks, (B, 1, H, W) float32 in [0, 1]; the rest is left out."""
    order = rng.permutation(len(pictures[0]))
    for start in range(0, len(order) - peer.batch + 1, peer.batch):
        changed = [peer.augment(image=pictures[0][i], mask=pictures[1][i]) for i in order[start : start + peer.batch]]
        images, masks = (np.stack([one[what] for one in changed])[:, None] for what in ("image", "mask"))
        yield torch.from_numpy(images.astype(np.float32) / 255), torch.from_numpy(masks.astype(np.float32))


@torch.inference_mode()
def predict(network: nn.Module, images: np.ndarray) -> np.ndarray:
    """Lesion probabilities, (N, H, W) float32, of (N, H, W) uint8."""
    network.eval()
    x = torch.from_numpy(images[:, None].astype(np.float32) / 255)
    return torch.cat([torch.sigmoid(network(part))[:, 0] for part in x.split(16)]).numpy()


if __name__ == "__main__":
    cv2.setNumThreads(1)
    main(tyro.cli(PeerConfig, description=__doc__))
