"""The pure core: records of software deployments, their aggregation, snapshots, completions, names, states.

It must not know any I/O: no event loop, no network, no files, no text format.
"""
