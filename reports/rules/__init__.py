"""Rules of others for reading answers, in our own words, and a run under them."""
