"""Fixtures for all rooms."""

from tests.swift import bucket, s3

__all__ = ["bucket", "s3"]
