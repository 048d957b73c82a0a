"""The optimizer, its learning-rate schedule, and the dtype policy of the convolutions in training."""

from pathlib import Path
from typing import Literal

import keras

Precision = Literal["auto", "float32", "bfloat16"]
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}
CLIP_NORM = 1.0  # of each variable's gradient: one outlier batch cannot spoil Adam's running averages
WEIGHT_DECAY = 1e-4  # decoupled (AdamW): a default training shrinks each weight by about 1/10,000


def convolution_policy(precision: Precision, gpus: int, cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Keras dtype policy for the 3x3 convolutions in training.

    It depends on the CPU's flags and not on a timing, so that two trainings on one machine give the same network.

    Args:
        precision: "auto" is bfloat16 on a CPU that multiplies it in hardware, else float32.
        gpus: number of GPUs; with any, "auto" is float32 (TensorFlow uses TF32 there by itself).
        cpuinfo: Linux's list of CPU flags; on other systems "auto" is float32.

    Returns:
        "mixed_bfloat16" or "float32".
    """
    if precision == "auto":
        flags = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
        precision = "bfloat16" if flags & BFLOAT16_FLAGS and not gpus else "float32"
    return "mixed_bfloat16" if precision == "bfloat16" else "float32"


# ---------------------------------------------------------------- optimizer


class AveragingAdamW(keras.optimizers.AdamW):
    """AdamW with a weight average that is short at first: after t steps, its momentum is at most (1 + t) / (10 + t).

    This is the rule of TensorFlow's `ExponentialMovingAverage(num_updates=t)`. With a constant momentum, the averaged
    weights do not fit the batch statistics at first, and validation Dice stays at 0 for up to six epochs.
    """

    @property
    def ema_momentum(self):
        """Momentum of this step; `_update_model_variables_moving_average` reads it."""
        steps = keras.ops.cast(self.iterations, "float32")
        return keras.ops.minimum(self.longest, (1 + steps) / (10 + steps))

    @ema_momentum.setter
    def ema_momentum(self, value: float):
        self.longest = value

    def get_config(self):
        return {**super().get_config(), "ema_momentum": self.longest}


def make_schedule(learning_rate: float, epochs: int, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Linear warm-up to the peak over at most three epochs of `steps` each, then a cosine decay to 0."""
    warmup = min(3, epochs // 2) * steps
    return keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else learning_rate,
        max(epochs * steps - warmup, 1),
        warmup_target=learning_rate if warmup else None,
        warmup_steps=warmup,
    )


def make_optimizer(learning_rate: float, ema: float, epochs: int, steps: int) -> keras.optimizers.Optimizer:
    """AdamW with `make_schedule`, gradient clipping, and weight averaging (EMA) unless `ema` is 0."""
    # An average over more than two epochs would lag too far behind in a short training on few images.
    average = dict(use_ema=True, ema_momentum=min(ema, 1 - 1 / (2 * steps))) if ema else {}
    schedule = make_schedule(learning_rate, epochs, steps)
    return AveragingAdamW(schedule, weight_decay=WEIGHT_DECAY, clipnorm=CLIP_NORM, **average)
