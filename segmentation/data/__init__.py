"""Those pairs to near-copies, a split, and augmented training images; simulated pictures where there are none."""
