"""How a network is trained: number format, learning rate, weight average."""

import keras
import numpy as np
import pytest

from attention_unet import build_attention_unet
from segmentation.network.optimizer import AveragingAdamW, convolution_policy, make_optimizer, make_schedule

# ---------------------------------------------------------------- bfloat16


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


def test_weights_of_bfloat16_convolutions_are_float32_and_fit_either():
    arguments = {"input_shape": (32, 32, 1), "base_filters": 4, "depth": 1}
    fast = build_attention_unet(**arguments, convolutions="mixed_bfloat16")
    exact = build_attention_unet(**arguments)
    exact.set_weights(fast.get_weights())
    assert fast.get_layer("decoder_1_conv1").compute_dtype == "bfloat16"
    assert exact.get_layer("decoder_1_conv1").compute_dtype == "float32"
    assert {w.dtype for w in fast.weights} == {"float32"} and fast.output.dtype == "float32"
    pictures = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 1)).astype("float32")
    near, true = np.asarray(fast(pictures)), np.asarray(exact(pictures))
    assert np.abs(near - true).max() < 0.05 and not np.array_equal(near, true)


# ---------------------------------------------------------------- optimizer


def test_the_learning_rate_warms_up_and_falls_to_0():
    schedule = make_schedule(0.4, epochs=13, steps=10)
    rates = [float(schedule(step)) for step in (0, 15, 30, 80, 130, 200)]
    assert rates == pytest.approx([0, 0.2, 0.4, 0.2, 0, 0], abs=1e-6)  # three epochs up, then a cosine over ten
    # A run of few epochs warms up in half of them at most, and one of a single epoch not at all.
    assert [float(make_schedule(0.4, 2, 10)(step)) for step in (0, 5, 10)] == pytest.approx([0, 0.2, 0.4])
    assert [float(make_schedule(0.4, 1, 10)(step)) for step in (0, 5, 10)] == pytest.approx([0.4, 0.2, 0])


def test_the_optimizer_does_what_the_settings_say():
    optimizer = make_optimizer(0.4, ema=0.99, epochs=13, steps=100)
    assert (optimizer.weight_decay, optimizer.clipnorm, optimizer.use_ema) == (1e-4, 1.0, True)
    assert optimizer.longest == 0.99
    assert make_optimizer(0.4, 0.99, 13, steps=10).longest == 1 - 1 / 20  # two epochs at most
    off = make_optimizer(0.4, 0.0, 13, 100)
    assert not off.use_ema and off.get_config()["ema_momentum"] == off.longest


def test_the_weight_average_is_short_at_first():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    optimizer = AveragingAdamW(0.1, use_ema=True, ema_momentum=0.25)
    model.compile(optimizer, "mse", jit_compile=False)
    kept = []
    for _ in range(5):
        model.train_on_batch(np.ones((1, 1)), np.ones((1, 1)))
        kept.append((float(model.layers[0].kernel[0, 0]), float(optimizer._model_variables_moving_average[0][0, 0])))
    average = kept[0][0]
    # 2/11, 3/12, then 4/13 is over the limit
    for momentum, (weight, seen) in zip([0.0, 2 / 11, 3 / 12, 0.25, 0.25], kept, strict=True):
        average = momentum * average + (1 - momentum) * weight
        assert seen == pytest.approx(average, abs=1e-6)
