"""Stages of the tool, one module per command; each meets the others only through files on disk."""
