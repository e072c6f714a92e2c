"""Fixtures for all rooms."""

from testbed.fleet import fleet
from testbed.postgres import postgres
from testbed.swift import bucket, s3

__all__ = ["bucket", "fleet", "postgres", "s3"]
