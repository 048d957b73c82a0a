"""How a command starts and stops, checks a value, and writes a file."""
