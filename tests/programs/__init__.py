"""Real programs that the tests run against: Keystone and Heat, Prometheus and promtool."""
