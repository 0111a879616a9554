"""V-NIAH whole: the grid, its media, its controls and its results."""
