"""Tables and figures from result files. Nothing here imports torch."""
