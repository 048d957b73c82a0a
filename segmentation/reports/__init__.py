"""Figures, report.html and TensorBoard of a run."""
