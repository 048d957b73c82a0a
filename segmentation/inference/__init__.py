"""Prediction on the user's own pictures, and export of a network to other programs."""
