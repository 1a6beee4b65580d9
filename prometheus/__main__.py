"""`python -m prometheus` renews prometheusrule.yaml and the table of docs/alerting.md.

With a folder it writes rules and manifest there instead, with links to addresses of your own.
"""

import argparse
from pathlib import Path

from prometheus import FOLDER, GRAFANA, MANIFEST, PAGE, RULES, RUNBOOKS, manifest, page, rules


def main() -> None:
    """Write the rules with links to the addresses given."""
    parser = argparse.ArgumentParser(prog="python -m prometheus", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="where to write rules.yml and prometheusrule.yaml")
    parser.add_argument(
        "--runbooks", default=RUNBOOKS, help="the address of the folder docs/runbooks (default: %(default)s)"
    )
    parser.add_argument("--grafana", default=GRAFANA, help="Grafana's root address (default: %(default)s)")
    options = parser.parse_args()
    if options.folder is None and (options.runbooks, options.grafana) != (RUNBOOKS, GRAFANA):
        parser.error("other addresses need a folder: the files of this one keep the placeholders")
    folder = options.folder or FOLDER
    text = rules(runbooks=options.runbooks, grafana=options.grafana)
    folder.mkdir(parents=True, exist_ok=True)
    if folder == FOLDER:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        (folder / RULES.name).write_text(text, encoding="utf-8")
    (folder / MANIFEST.name).write_text(manifest(text), encoding="utf-8")


if __name__ == "__main__":
    main()
