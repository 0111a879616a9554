"""lmms-eval tasks, one folder a benchmark. lmms-eval reads the YAML files by path."""
