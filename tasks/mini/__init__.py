"""The mini benchmark."""
