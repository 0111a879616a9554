"""Training of the embedded LongVA-tiny models. Not part of the installed package."""
