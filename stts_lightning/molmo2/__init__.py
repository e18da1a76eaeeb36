"""The host: the only place that knows transformers' Molmo2."""
