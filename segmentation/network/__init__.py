"""The network and its training: pretrained encoders, losses and metrics, the optimizer."""
