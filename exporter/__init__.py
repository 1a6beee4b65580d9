"""Prometheus exporter for OpenStack Heat software deployments."""

__version__ = "0.1.0"
