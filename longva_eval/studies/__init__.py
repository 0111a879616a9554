"""What to run, and what it costs."""
