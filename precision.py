"""Which number format this machine convolves fastest in."""

from pathlib import Path
from typing import Literal

Precision = Literal["auto", "float32", "bfloat16"]
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


def convolution_policy(precision: Precision, gpus: int, cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Keras dtype policy for the 3x3 convolutions in training.

    What the processor says of itself, and not a timing: two starts on one machine must give the same network.

    Args:
        precision: "auto" is bfloat16 on a CPU that multiplies it in hardware, else float32.
        gpus: how many GPUs train; with one, "auto" is float32 (TensorFlow uses TF32 there by itself).
        cpuinfo: where Linux lists what the processor can do; elsewhere "auto" is float32.

    Returns:
        "mixed_bfloat16" or "float32".
    """
    if precision == "auto":
        flags = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
        precision = "bfloat16" if flags & BFLOAT16_FLAGS and not gpus else "float32"
    return "mixed_bfloat16" if precision == "bfloat16" else "float32"
