"""longva-eval: long-video evaluation for lmms-eval, with LongVA on today's transformers."""

__version__ = "0.1.0"
