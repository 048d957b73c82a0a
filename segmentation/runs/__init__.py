"""The folder of a run: begun, written, resumed, loaded, trained in a process of its own."""
