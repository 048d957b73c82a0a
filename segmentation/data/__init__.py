"""The samples of a training: where they lie, near-copies, splits, augmentation."""
