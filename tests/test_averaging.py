"""The weight average, step by step."""

import keras
import numpy as np
import pytest
from averaging import AveragingAdamW


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
