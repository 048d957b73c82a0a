"""How fast is a training step, and a prediction? The default network beside PyTorch, MONAI and the pilot network.

    python benchmarks/step.py                               # without PyTorch and MONAI
    pip install torch==2.13.0 monai && python benchmarks/step.py --output step.json

The pilot network is the one that the project began with. Every configuration is a process of its own, which waits
while another is measured; they take turns, so that a slow moment of the machine meets all of them. Run it on an idle
machine; each takes up to 3 GiB.
"""

import json
import resource
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import tyro
from shared import Worker, default_network, default_settings, rate, write_result

# name: (library, image size, batch, precision, compiled, network); without a size, the default network's
CONFIGURATIONS = {
    "default": ("keras", None, 8, "auto", False, "default"),
    "default, float32": ("keras", None, 8, "float32", False, "default"),
    "default, PyTorch": ("torch", None, 8, "float32", False, "default"),
    "default, PyTorch bfloat16": ("torch", None, 8, "bfloat16", False, "default"),
    "default, PyTorch compiled": ("torch", None, 8, "float32", True, "default"),
    "default, PyTorch bfloat16 compiled": ("torch", None, 8, "bfloat16", True, "default"),
    "paper": ("keras", 128, 8, "auto", False, "paper"),
    "paper, PyTorch bfloat16 compiled": ("torch", 128, 8, "bfloat16", True, "paper"),
    "pilot": ("keras", 256, 8, "float32", False, "pilot"),
    "pilot, bfloat16": ("keras", 256, 8, "bfloat16", False, "pilot"),
    "MONAI AttentionUnet": ("torch", None, 8, "float32", False, "monai"),
    "MONAI AttentionUnet, bfloat16 compiled": ("torch", None, 8, "bfloat16", True, "monai"),
}
PAPER = {"encoder": "none", "base_filters": 16}  # of the preset of train_model.py


@dataclass(frozen=True)
class StepConfig:
    """What to measure."""

    repeats: int = 5  # turns of each configuration; the median is reported
    seconds: float = 4.0  # length of one turn
    only: tuple[str, ...] = ()  # names of configurations; without it all that are installed
    output: Path | None = None  # write the figures as JSON too


def main(config: StepConfig) -> None:
    """Print a table."""
    names = [n for n in config.only or CONFIGURATIONS if runs_here(n)]
    with ThreadPoolExecutor(2) as pool:  # building and compiling take longer than measuring
        workers = dict(zip(names, pool.map(partial(Worker, __file__), names), strict=True))
    rates = {name: {"train": [], "predict": [], "ceiling": []} for name in names}
    for _ in range(config.repeats):
        for name, worker in workers.items():
            for what in rates[name]:
                seconds = config.seconds / 4 if what == "ceiling" else config.seconds
                rates[name][what].append(worker.ask(what, seconds))
    rows = {}
    for name, worker in workers.items():
        facts = worker.ask("facts", 0)
        row = {what: statistics.median(values) for what, values in rates[name].items()}
        row["train_spread"] = [min(rates[name]["train"]), max(rates[name]["train"])]
        rows[name] = {**facts, **row}
        worker.close()
    print(table(rows))
    if config.output:
        write_result(config.output, ("tensorflow", "keras", "torch", "monai"), rows=rows)


def runs_here(name: str) -> bool:
    """Whether the library of a configuration is installed; says so if not."""
    library, *_, network = CONFIGURATIONS[name]
    needed = [p for p, used in (("torch", library == "torch"), ("monai", network == "monai")) if used]
    for package in needed:
        if not find_spec(package):
            print(f"left out: {name} ({package} is not installed)", file=sys.stderr)
            return False
    return True


def table(rows: dict) -> str:
    """Markdown."""
    lines = [
        "| configuration | size | parameters, M | GMAC | training images/s | least to most | GFLOP/s, of the matrix "
        "product | prediction images/s | peak MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        achieved = 6 * row["gmac"] * row["train"]  # forward and backward are three times two operations
        low, high = row["train_spread"]
        share = 100 * achieved / row["ceiling"]
        lines.append(
            f"| {name} | {row['size']} | {row['parameters'] / 1e6:.2f} | {row['gmac']:.2f} | {row['train']:.1f} | "
            f"{low:.1f} to {high:.1f} | {achieved:.0f}, {share:.0f} % of {row['ceiling']:.0f} | "
            f"{row['predict']:.1f} | {row['peak']:.0f} |"
        )
    return "\n".join(lines)


# ---------------------------------------------------------------- one process a configuration


def work(name: str) -> None:
    """The worker's side: build, then answer on standard output.

    It answers with images/s of "train" or "predict", GFLOP/s of "ceiling", or "facts" of the network.
    """
    library, size, batch, precision, compiled, network = CONFIGURATIONS[name]
    from segmentation.common import startup  # noqa: F401  # PyTorch's too: multiply-adds are counted on the Keras network

    size = size or default_settings()["image_size"]
    build = build_keras if library == "keras" else build_torch
    calls, facts = build(size, batch, precision, compiled, network)
    for _ in range(2):
        calls["train"](), calls["predict"]()
    facts |= {"size": size, "gmac": giga_multiply_adds(network, size)}
    for line in sys.stdin:
        what, seconds = json.loads(line)
        if what == "facts":
            # ru_maxrss is in KiB on Linux, in bytes on macOS
            scale = 2**20 if sys.platform == "darwin" else 2**10
            answer = facts | {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale}
        else:
            per_call = calls["operations"] / 1e9 if what == "ceiling" else batch
            answer = per_call * rate(calls[what], seconds)
        print(json.dumps(answer), flush=True)


def keras_network(network: str, size: int, convolutions: str | None = None):
    """The default network, the paper's own, or the pilot."""
    from segmentation.runs.run_folder import build_network

    if network == "pilot":
        return build_pilot(size)
    changes = PAPER if network == "paper" else {}
    # Without the lesion score, which the networks that it is compared with do not have.
    arguments = default_network(input_shape=(size, size, 1), lesion_score=False, **changes)
    return build_network(**arguments, convolutions=convolutions)


def build_pilot(size: int, base_filters: int = 16, depth: int = 4):
    """What the project began with: full-resolution gates on every skip, a 3x3 convolution after upsampling, and
    Keras' own batch normalisation."""
    import keras
    from keras import layers

    def convolution(x, filters: int):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))

    def gate(x, g):
        inter = x.shape[-1] // 2
        q = layers.ReLU()(layers.Add()([layers.Conv2D(inter, 1)(x), layers.Conv2D(inter, 1)(g)]))
        return layers.Multiply()([x, layers.Conv2D(1, 1, activation="sigmoid", dtype="float32")(q)])

    inputs = keras.Input((size, size, 1))
    x, skips = layers.Rescaling(1 / 255)(inputs), []
    for level in range(depth):
        x = convolution(convolution(x, base_filters * 2**level), base_filters * 2**level)
        skips.append(x)
        x = layers.MaxPooling2D(2)(x)
    x = convolution(convolution(x, base_filters * 2**depth), base_filters * 2**depth)
    for level in reversed(range(depth)):
        x = convolution(layers.UpSampling2D(2, interpolation="bilinear")(x), base_filters * 2**level)
        x = layers.Concatenate()([gate(skips[level], x), x])
        x = convolution(convolution(x, base_filters * 2**level), base_filters * 2**level)
    return keras.Model(inputs, layers.Conv2D(1, 1, activation="sigmoid", dtype="float32")(x))


def giga_multiply_adds(network: str, size: int) -> float:
    """Multiply-adds of one forward image in billions, counted on the Keras network; 0 for MONAI's."""
    if network == "monai":
        return 0.0
    from attention_unet import multiply_adds

    return multiply_adds(keras_network(network, size)) / 1e9


def build_keras(size: int, batch: int, precision: str, compiled: bool, network: str):
    """Calls of a Keras network."""
    import keras
    import tensorflow as tf

    from segmentation.network.losses import training_loss, training_metrics
    from segmentation.network.optimizer import convolution_policy, make_optimizer

    bfloat16 = precision == "bfloat16"
    keras.mixed_precision.set_global_policy("mixed_bfloat16" if bfloat16 else "float32")
    model = keras_network(network, size, convolution_policy("auto", 0) if precision == "auto" else None)
    settings = default_settings()
    optimizer = make_optimizer(settings["learning_rate"], settings["ema"], 10, 70)
    loss = training_loss(settings["dice_weight"])
    model.compile(optimizer, loss, metrics=training_metrics(), jit_compile=compiled)
    x = np.random.default_rng(0).uniform(0, 255, (batch, size, size, 1)).astype(np.float32)
    y = (x > 200).astype(np.float32)
    side = 2048
    a = tf.random.normal((side, side), dtype=tf.bfloat16 if bfloat16 else tf.float32)
    calls = {
        "train": lambda: model.train_on_batch(x, y),
        "predict": lambda: model.predict_on_batch(x),
        "ceiling": lambda: (a @ a)[0, 0].numpy(),
        "operations": 2 * side**3,
    }
    return calls, {"parameters": model.count_params()}


def build_torch(size: int, batch: int, precision: str, compiled: bool, network: str):
    """Calls of a PyTorch network, trained with the same loss, optimizer, clipping and weight averaging."""
    import torch
    from torch_attention_unet import AttentionUNet, Trainer, build_monai

    if network == "monai":
        model = build_monai()
    else:
        arguments = PAPER if network == "paper" else default_network()
        model = AttentionUNet(arguments["base_filters"], arguments["encoder"])
    bfloat16 = precision == "bfloat16"
    trainer = Trainer(model, lambda step: 1e-3, 0.99, bfloat16, compiled)
    x = torch.rand(batch, 1, size, size).mul(255)
    y = (x > 200).float()
    side = 2048
    a = torch.randn(side, side, dtype=torch.bfloat16 if bfloat16 else torch.float32)
    calls = {
        "train": lambda: trainer.train(x, y),
        "predict": lambda: float(trainer.predict(x).sum()),
        "ceiling": lambda: float((a @ a)[0, 0]),
        "operations": 2 * side**3,
    }
    return calls, {"parameters": sum(p.numel() for p in model.parameters())}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2])
    else:
        main(tyro.cli(StepConfig, description=__doc__))
