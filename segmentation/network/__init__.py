"""What is trained: pretrained encoders, the loss, the optimizer."""
