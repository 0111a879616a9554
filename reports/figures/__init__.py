"""Heatmaps, curves and maps."""
