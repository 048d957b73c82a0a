"""The folder of a run: created, written, resumed, loaded; trainings in processes of their own."""
