"""Measurements: never part of the tests, since a time is no promise."""
