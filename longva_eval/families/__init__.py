"""Model families: how each is loaded, sees, and is asked."""
