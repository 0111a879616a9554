"""What is read, and in which order. Imports no torch."""
