"""The page in the browser that demo.py serves."""
