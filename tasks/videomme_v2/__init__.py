"""Video-MME-v2."""
