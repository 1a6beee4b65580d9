"""The configuration: its schema, loading, messages, units, the effective configuration, sharding.

It must not know how a setting is used: names of metric families, for example, are passed to it.
"""
