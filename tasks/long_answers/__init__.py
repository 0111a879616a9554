"""Long answers on videos of known events."""
