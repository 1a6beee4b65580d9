"""The configuration file: any bytes are a configuration, or a ConfigError that names the file; nothing else."""

import tempfile
from pathlib import Path

from exporter.common.errors import ConfigError
from exporter.config import schema
from exporter.config.effective import configuration as shown

_FOLDER = tempfile.TemporaryDirectory(prefix="fuzz-config-")
FILE = Path(_FOLDER.name, "config.yaml")
LONGEST_LINE = 1000
"""No line of a message is longer; mistakes in a large file are many lines."""
SEEDS = (
    b"refresh: {interval: 60s, timeout: 45s, share: 0.25}\nlimits: {concurrency: 8, response_bytes: 2GiB}\n",
    b"clouds:\n- name: prod\n  cloud: otc\n  projects: [a, {name: b, domain: c}]\n  servers: {ids: [x]}\n",
    b"clouds: [{cloud: a, projects: discover, refresh: {interval: 5s}, servers: {include: ['web-.*']}}]\n",
    b"buckets: {age: [1m, 5m], duration: [5s], deploy_status_code: [0, 1]}\nthresholds: {stuck_after: 1h}\n",
    b"metrics: {include: ['heat_.*'], exclude: [heat_up]}\nnames: false\nshard: {index: 0, total: 2}\n",
    b"a: &a [x, x]\nb: &b [*a, *a]\nrefresh: *b\n",
    b"a: &a {x: 1}\nb: &b {<<: [*a, *a], y: 2}\nrefresh:\n  <<: *b\n",
    b"limits: {concurrency: 0x10, servers: 0o17, configs: 1_000, series: .inf}\nnames: yes\n",
    b"? [a, b]\n: c\n? {d: e}\n: f\n!!python/object:os.system {}\n",
)
WORDS = (
    b"refresh: ", b"interval: ", b"limits: ", b"clouds: ", b"projects: ", b"servers: ", b"include: ", b"ids: ",
    b"shard: ", b"buckets: ", b"metrics: ", b"names: ", b"thresholds: ", b"cloud: ", b"name: ", b"domain: ",
    b"<<: ", b"*a", b"&a ", b"!!binary ", b"!!timestamp ", b"2020-13-45", b"!!set ", b"!!omap ", b"0x", b".nan",
    b"~", b"- ", b"? ", b"%YAML 9.9\n---\n", b"\n  ", b"{", b"}", b"[", b"]", b"'", b'"', b"|\n", b"#", b"discover",
    b"1h", b"2GiB", b"\xef\xbb\xbf", b"1:30",
)  # fmt: skip


def check(data: bytes) -> None:
    """The file with these bytes is read or refused."""
    FILE.write_bytes(data)
    try:
        found = schema.load(FILE)
    except ConfigError as error:
        for line in str(error).splitlines():
            assert line.startswith(f"{FILE}: "), f"{data!r}: {line}"
            assert len(line) < LONGEST_LINE + len(data), f"{data!r}: {line}"
        return
    assert found.clouds
    assert found.digest() == schema.load(FILE).digest()
    again = schema.parse(shown(found), source="what is shown")
    assert again.digest() == found.digest(), f"{data!r}: what is shown is another configuration"
