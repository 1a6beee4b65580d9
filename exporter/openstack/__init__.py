"""The only code that talks to clouds: clouds.yaml, tokens, catalog, HTTP client, Heat, response decoder, TLS, DNS.

It must not know schedules, metrics or pages: it returns records and raises errors of one tree.
"""
