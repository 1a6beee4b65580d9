"""From states to text: metric families, text formats, gzip members, the metrics store, the series budget.

It must not know clouds, schedules or HTTP: it makes bytes of values.
"""
