"""Layers, checkpoints and position settings: from a folder to a loaded model."""
