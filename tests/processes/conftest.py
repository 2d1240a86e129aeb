"""Fixtures for tests that train in several processes."""

from uninterrupted_run import standard_promotion, uninterrupted

__all__ = ["standard_promotion", "uninterrupted"]
