"""Code shared by the scripts. CONTRIBUTING.md has the map; imports point one way, from the last of these to the first:

common, pictures, importing, data, network, scoring, runs, reports, inference, page.
"""

from segmentation.common import environment  # noqa: F401  # isort: skip  # before anything that reads the environment
