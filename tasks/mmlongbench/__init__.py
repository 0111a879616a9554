"""MMLongBench."""
