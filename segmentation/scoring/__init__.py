"""From the network's probabilities to masks, scores, confidence intervals and tables."""
