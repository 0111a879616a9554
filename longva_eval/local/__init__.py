"""Local copies of data sets, and what this environment can run."""
