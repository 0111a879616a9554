"""Rows of results as tables."""
