"""The one reader of results, samples and needle folders."""
