"""Metric classes and pure functions. No Lightning."""
