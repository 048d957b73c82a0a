"""One file to grey pictures of 8 bits, and the millimetres of a pixel."""
