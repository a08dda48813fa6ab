"""The data folder and the files in it."""
