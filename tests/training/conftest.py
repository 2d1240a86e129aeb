"""Fixtures for tests that train."""

from uninterrupted_run import standard_promotion, uninterrupted

__all__ = ["standard_promotion", "uninterrupted"]
