"""Adam with an average of the weights that is useful from the first epoch on."""

import keras


class AveragingAdamW(keras.optimizers.AdamW):
    """AdamW whose weight average is short at first: after t steps, momentum is at most (1 + t) / (10 + t).

    The rule of TensorFlow's `ExponentialMovingAverage(num_updates=t)`. A long average from the first step on
    is of weights that no longer fit the batch statistics: validation stays at 0 for up to six epochs.
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
