"""Does training ever wait for data? Time of the input pipeline beside the time of a training step.

    python benchmarks/pipeline.py

Uses phantoms drawn in memory and the default settings of train_model.py. Run it on an idle machine.
"""

import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))
import quiet  # noqa: F401  # isort: skip

import numpy as np
import tyro

from attention_unet import build_attention_unet
from augmentation import augment, make_dataset
from dataset import resize_image, resize_mask
from metrics import BceDiceLoss, training_metrics
from phantoms import make_phantom
from precision import convolution_policy
from train_model import Config as Training
from train_model import make_optimizer, network_arguments

STEPS, REPEATS = 8, 5


@dataclass(frozen=True)
class Config:
    """Where to."""

    output: Path | None = None  # write the figures as JSON too


def seconds(work) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main(config: Config) -> None:
    """Print a table."""
    training = Training()
    pictures = [make_phantom("benign", i) for i in range(32)]
    size = (training.image_size, training.image_size)
    images = np.stack([resize_image(image, size) for image, _ in pictures])
    masks = np.stack([resize_mask(m[0].astype(np.uint8), size) for _, m in pictures])
    model = build_attention_unet(
        **network_arguments(training), convolutions=convolution_policy(training.precision, gpus=0)
    )
    model.compile(make_optimizer(training, 10, STEPS), BceDiceLoss(), metrics=training_metrics(), jit_compile=False)
    stream = iter(make_dataset(images, masks, training.batch_size, training=True))
    batch = next(stream)
    model.train_on_batch(*batch)

    rng = np.random.default_rng(0)
    single, pipeline, step = [], [], []
    for _ in range(REPEATS):  # in turn, so that a slow moment of the machine meets all three
        single.append(seconds(lambda: [augment(images[i], masks[i], rng) for i in range(32)]) / 32)
        # More than the pipeline holds ready, so that the time is that of making batches.
        pipeline.append(seconds(lambda: [next(stream) for _ in range(4 * STEPS)]) / (4 * STEPS))
        step.append(seconds(lambda: [model.train_on_batch(*batch) for _ in range(STEPS)]) / STEPS)
    one, made, trained = map(statistics.median, (single, pipeline, step))
    what = f"{training.image_size}x{training.image_size}, batches of {training.batch_size}"
    print(f"| {what} | median of {REPEATS} |\n|---|---|")
    print(f"| augmented images/s, one thread | {1 / one:.0f} |")
    print(f"| batch from the pipeline | {1000 * made:.1f} ms |")
    print(f"| training step | {1000 * trained:.1f} ms ({training.batch_size / trained:.1f} images/s) |")
    print(f"| pipeline / step | {100 * made / trained:.1f} % |")
    if config.output:
        figures = {"augmented_per_second": 1 / one, "batch_seconds": made, "step_seconds": trained}
        config.output.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
