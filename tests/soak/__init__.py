"""A soak of the whole system: a simulated cloud in which all sorts of things happen, an exporter, and a judge.

.venv/bin/python -m tests.soak --seconds 3600 --seed 7
"""
