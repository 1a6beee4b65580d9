"""What the sources of the exporter never do, whatever they are about."""

import ast
import importlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.pages import ROOT

SOURCES = sorted([*ROOT.glob("exporter/**/*.py"), *ROOT.glob("deploy/**/*.py")])

FORBIDDEN = {
    "commands": ("subprocess", "pty", "popen2", "commands", "asyncio.create_subprocess_exec",
                 "asyncio.create_subprocess_shell", "os.system", "os.popen", "os.exec", "os.spawn", "os.posix_spawn"),
    "code": ("eval", "exec", "compile", "__import__", "runpy", "code", "importlib.import_module", "ctypes"),
    "objects": ("pickle", "cPickle", "marshal", "shelve", "dill", "jsonpickle"),
    "files": ("tempfile.mktemp", "os.tempnam"),
    "markup": ("xml", "lxml", "jinja2"),
}  # fmt: skip
"""What is never imported or called: names, or the beginning of one, up to a dot or its end."""


def name_of(node: ast.expr) -> str:
    """The dotted name that an expression is, "" for any other."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = name_of(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def used(tree: ast.AST) -> Iterator[str]:
    """What is imported or called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{each.name}" for each in node.names)
        elif isinstance(node, ast.Call):
            yield name_of(node.func)


def offences(text: str) -> set[str]:
    """What a source does and must not."""
    tree = ast.parse(text)
    found = {
        name
        for name in used(tree)
        for words in FORBIDDEN.values()
        for word in words
        if name == word or name.startswith(f"{word}.") or (word.startswith("os.") and name.startswith(word))
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword):
            value = node.value.value if isinstance(node.value, ast.Constant) else None
            if (node.arg, value) in (("shell", True), ("verify", False), ("ssl", False), ("verify_ssl", False)):
                found.add(f"{node.arg}={value}")
            elif node.arg == "allow_redirects" and value is not False:
                found.add("allow_redirects")
        elif isinstance(node, ast.Attribute) and node.attr in ("CERT_NONE", "_create_unverified_context"):
            found.add(node.attr)
        elif isinstance(node, ast.Assign) and any("check_hostname" in ast.dump(each) for each in node.targets):
            found.add("check_hostname")
    return found


EXCUSED = {
    # An entry of clouds.yaml that says `verify: false`.
    "exporter/openstack/network.py": {"CERT_NONE", "check_hostname"},
    "exporter/web/tls.py": {"CERT_NONE"},  # a server that asks its clients for no certificate
    "deploy/image/healthy.py": {"_create_unverified_context"},  # asks the exporter beside it, by its loopback address
}
"""Where something of it is right, and why."""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_dangerous_is_used(path: Path):
    """No source runs commands or code, reads objects back, or leaves TLS unverified, but where that is explained."""
    assert offences(path.read_text()) == EXCUSED.get(path.relative_to(ROOT).as_posix(), set())


DANGEROUS = (
    "import subprocess", "from subprocess import run", "import os\nos.system('ls')", "import os\nos.execv('a', [])",
    "eval('1')", "exec('1')", "import pickle", "from marshal import loads", "f(shell=True)", "import xml.etree",
    "get(url, verify=False)", "session.get(url, ssl=False)", "import ssl\nssl._create_unverified_context()",
    "c.verify_mode = ssl.CERT_NONE", "c.check_hostname = False", "get(url, allow_redirects=True)",
    "import tempfile\ntempfile.mktemp()",
)  # fmt: skip


@pytest.mark.parametrize("text", DANGEROUS)
def test_what_is_dangerous_is_seen(text: str):
    """Each way of doing it is one that the test above finds."""
    assert offences(text)


def test_every_loader_of_yaml_is_a_safe_one():
    """YAML is read by loaders that make plain values alone."""
    loaders = 0
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and name_of(node.func) in ("yaml.load", "yaml.load_all"):
                assert len(node.args) == 2, path
                module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
                assert issubclass(getattr(module, name_of(node.args[1])), yaml.SafeLoader), path
                loaders += 1
    assert loaders == 2


def test_security_rules_are_on():
    """The linter's security rules hold everywhere: each exception is one rule of them, with its reason beside it."""
    text = (ROOT / "pyproject.toml").read_text()
    lint = tomllib.loads(text)["tool"]["ruff"]["lint"]
    excused = {rule for rules in (lint["ignore"], *lint["per-file-ignores"].values()) for rule in rules}
    assert lint["select"] == ["ALL"]
    assert "S" not in excused
    of_security = {rule for rule in excused if re.fullmatch(r"S\d*", rule)}
    assert of_security == {"S101", "S105", "S106", "S108", "S310", "S311", "S603", "S607"}
    for line in text.splitlines():
        if re.search(r'"S\d+"', line):
            assert re.search(r"# \w+", line), line
