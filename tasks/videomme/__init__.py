"""Video-MME."""
