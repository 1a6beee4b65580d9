"""What every package uses: the exception tree, logs, clock, deadlines, worker threads, redaction, chunking.

It must not know anything of clouds, deployments, metrics or HTTP.
"""
