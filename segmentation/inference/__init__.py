"""A trained network at work: pictures of one's own, other programs that run it."""
