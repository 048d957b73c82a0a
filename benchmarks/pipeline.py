"""Does training ever wait for data? Time of the input pipeline beside the time of a training step.

    python benchmarks/pipeline.py

Uses phantoms drawn in memory and the default settings of train_model.py. Run it on an idle machine.
"""

import statistics
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))
import quiet  # noqa: F401  # isort: skip

import numpy as np

from attention_unet import build_attention_unet
from augmentation import augment
from dataset import make_dataset, resize_image, resize_mask
from metrics import BceDiceLoss, training_metrics
from phantoms import make_phantom
from train_model import Config, make_optimizer, network_arguments

STEPS, REPEATS = 8, 5


def seconds(work) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Print a table."""
    config = Config()
    pictures = [make_phantom("benign", i) for i in range(32)]
    size = (config.image_size, config.image_size)
    images = np.stack([resize_image(image, size) for image, _ in pictures])
    masks = np.stack([resize_mask(m[0].astype(np.uint8), size) for _, m in pictures])
    model = build_attention_unet(**network_arguments(config))
    model.compile(make_optimizer(config, 10, STEPS), BceDiceLoss(), metrics=training_metrics(), jit_compile=False)
    stream = iter(make_dataset(images, masks, config.batch_size, training=True))
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
    what = f"{config.image_size}x{config.image_size}, batches of {config.batch_size}"
    print(f"| {what} | median of {REPEATS} |\n|---|---|")
    print(f"| augmented images/s, one thread | {1 / one:.0f} |")
    print(f"| batch from the pipeline | {1000 * made:.1f} ms |")
    print(f"| training step | {1000 * trained:.1f} ms ({config.batch_size / trained:.1f} images/s) |")
    print(f"| pipeline / step | {100 * made / trained:.1f} % |")


if __name__ == "__main__":
    main()
