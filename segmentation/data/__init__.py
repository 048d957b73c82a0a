"""From those pairs to a data set: near-copies, splits, augmentation; simulated images where there are no data."""
