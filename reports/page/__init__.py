"""One HTML file about runs, with everything in it."""
