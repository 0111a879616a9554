"""The only place that tells lmms-eval about us and changes what it does."""
