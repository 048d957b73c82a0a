"""bfloat16 is taken where the processor has it, and changes little."""

import numpy as np
import pytest
from precision import convolution_policy

from attention_unet import build_attention_unet


@pytest.mark.parametrize(
    ("precision", "gpus", "flags", "policy"),
    [
        ("auto", 0, "flags : avx512f avx512_bf16 vaes", "mixed_bfloat16"),
        ("auto", 0, "flags : amx_bf16", "mixed_bfloat16"),
        ("auto", 0, "flags : avx2 avx512f", "float32"),
        ("auto", 1, "flags : avx512_bf16", "float32"),
        ("auto", 0, None, "float32"),
        ("float32", 0, "flags : avx512_bf16", "float32"),
        ("bfloat16", 0, "flags : avx2", "mixed_bfloat16"),
    ],
)
def test_policy_follows_the_processor(tmp_path, precision, gpus, flags, policy):
    cpuinfo = tmp_path / "cpuinfo"
    if flags is not None:
        cpuinfo.write_text(f"processor : 0\n{flags}\n")
    assert convolution_policy(precision, gpus, cpuinfo) == policy


@pytest.mark.parametrize("encoder", ["none", "efficientnet_lite0"])
def test_weights_of_bfloat16_convolutions_are_float32_and_fit_either(encoder):
    arguments = {"input_shape": (64, 64, 1), "base_filters": 4, "encoder": encoder}
    fast = build_attention_unet(**arguments, convolutions="mixed_bfloat16")
    exact = build_attention_unet(**arguments)
    exact.set_weights(fast.get_weights())
    assert fast.get_layer("decoder_1_conv1").compute_dtype == "bfloat16"
    assert exact.get_layer("decoder_1_conv1").compute_dtype == "float32"
    assert {w.dtype for w in fast.weights} == {"float32"} and fast.output.dtype == "float32"
    pictures = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 1)).astype("float32")
    near, true = fast.predict(pictures, verbose=0), exact.predict(pictures, verbose=0)
    assert np.abs(near - true).max() < 0.05 and not np.array_equal(near, true)
