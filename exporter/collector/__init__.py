"""When to ask and what to publish: discovery, project pollers, schedule, concurrency, names, the publisher, reload.

It must not know HTTP servers or pages for people.
"""
