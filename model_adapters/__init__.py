"""lmms-eval model classes, one file a model."""
