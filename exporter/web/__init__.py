"""HTTP: the application, listeners, TLS, web configuration, authentication, responses, systemd's sockets and readiness.

It must not know how data is collected: a scrape sends bytes that are ready.
"""
