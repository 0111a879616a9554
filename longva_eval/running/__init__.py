"""A run that survives: jobs, journal, several processes."""
