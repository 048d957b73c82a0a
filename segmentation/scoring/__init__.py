"""The network's probabilities to masks, scores, intervals and tables."""
