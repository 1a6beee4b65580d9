"""`python -m grafana` writes the dashboards, and the tables of docs/grafana.md."""

from grafana import PAGE, files, page

for path, text in files().items():
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
PAGE.write_text(page(), encoding="utf-8")
