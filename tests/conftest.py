"""Fixtures for all rooms."""

from tests.fleet import fleet
from tests.postgres import postgres
from tests.swift import bucket, s3

__all__ = ["bucket", "fleet", "postgres", "s3"]
