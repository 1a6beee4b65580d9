"""Commands, flags, signals, and what a terminal shows.

Nothing imports it but `python -m exporter` and the documentation.
"""
