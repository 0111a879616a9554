"""LongVA evaluation."""
