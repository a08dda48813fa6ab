"""Trainers of voices and vocoders, and what they need: losses, optimisation, memory, processes."""
