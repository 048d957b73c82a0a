"""Does training ever wait for data? Time of the input pipeline beside the time of a training step.

    python benchmarks/pipeline.py

Uses simulated pictures, drawn in memory, and the settings of the default network. Run it on an idle machine.
"""

import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from shared import default_network, default_settings, seconds, write_result

from segmentation.common import startup  # noqa: F401  # isort: skip
from dataset import Stream, make_dataset, resize_samples
from segmentation.data.augmentation import augmenter
from segmentation.network.losses import training_loss, training_metrics
from segmentation.network.optimizer import convolution_policy, make_optimizer
from segmentation.runs.run_folder import build_network
from tests.phantoms import make_phantom

STEPS, REPEATS = 8, 5


@dataclass(frozen=True)
class PipelineConfig:
    """Where to."""

    output: Path | None = None  # write the figures as JSON too


def main(config: PipelineConfig) -> None:
    """Print a table."""
    settings = default_settings()
    size, batch_size = settings["image_size"], settings["batch_size"]
    pictures = [make_phantom("benign", i) for i in range(32)]
    images, masks = resize_samples([(image, masks[0].astype(np.uint8)) for image, masks in pictures], size)
    network = default_network(lesion_score=False)  # as in step.py
    model = build_network(**network, convolutions=convolution_policy(settings["precision"], gpus=0))
    optimizer = make_optimizer(settings["learning_rate"], settings["ema"], 10, STEPS)
    model.compile(optimizer, training_loss(settings["dice_weight"]), metrics=training_metrics(), jit_compile=False)
    change = augmenter(settings["augmentation"], settings["scanners"])
    stream = iter(make_dataset(images, masks, batch_size, Stream(change=change)))
    batch = next(stream)
    model.train_on_batch(*batch)

    rng = np.random.default_rng(0)
    single, pipeline, step = [], [], []
    for _ in range(REPEATS):  # in turn, so that a slow moment of the machine meets all three
        single.append(seconds(lambda: [change(images[i], masks[i], rng) for i in range(32)]) / 32)
        # More than the pipeline holds ready, so that the time is that of making batches.
        pipeline.append(seconds(lambda: [next(stream) for _ in range(4 * STEPS)]) / (4 * STEPS))
        step.append(seconds(lambda: [model.train_on_batch(*batch) for _ in range(STEPS)]) / STEPS)
    one, made, trained = map(statistics.median, (single, pipeline, step))
    print(f"| {size}x{size}, batches of {batch_size} | median of {REPEATS} |\n|---|---|")
    print(f"| augmented images/s, one thread | {1 / one:.0f} |")
    print(f"| batch from the pipeline | {1000 * made:.1f} ms |")
    print(f"| training step | {1000 * trained:.1f} ms ({batch_size / trained:.1f} images/s) |")
    print(f"| pipeline / step | {100 * made / trained:.1f} % |")
    if config.output:
        figures = {"augmented_per_second": 1 / one, "batch_seconds": made, "step_seconds": trained}
        write_result(config.output, ("tensorflow", "keras"), **figures)


if __name__ == "__main__":
    main(tyro.cli(PipelineConfig, description=__doc__))
