"""What stands between the scripts and the two modules that stand alone, dataset.py and attention_unet.py."""

from segmentation import surroundings  # noqa: F401  # isort: skip  # before anything that reads the environment
from segmentation import layouts  # noqa: F401  # whatever is imported of this package, dataset.py reads any layout
