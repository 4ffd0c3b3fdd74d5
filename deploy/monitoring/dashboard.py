#!/usr/bin/env python3
"""Runs the queries of dashboard.json and the rules of alerts.yml against a Prometheus that scrapes the services.

  dashboard.py check URL               fails if a query has no result, a rule names an unknown metric, or an alert fires
  dashboard.py draw URL SECONDS FILE   draws the dashboard's panels over the last SECONDS as SVG

The drawing is this program's, from the results of the same queries; it is no picture of Grafana."""

import html
import json
import math
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
# What Grafana would put there: the rate's window spans several scrapes.
VARIABLES = {"$__rate_interval": "15s", "$namespace": ".*"}
NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(url, path, **parameters):
    query = urllib.parse.urlencode(parameters)
    try:
        with NO_PROXY.open(f"{url}/api/v1/{path}?{query}", timeout=30) as answer:
            return json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        sys.exit(f"{path} {parameters}: {error.read().decode()}")


def last_minutes(url, query, seconds=120):
    end = time.time()
    return ask(url, "query_range", query=query, start=end - seconds, end=end, step=max(1, seconds // 120))["result"]


def panels():
    for panel in json.loads((HERE / "dashboard.json").read_text())["panels"]:
        for target in panel["targets"]:
            for variable, value in VARIABLES.items():
                target["expr"] = target["expr"].replace(variable, value)
        yield panel


def check(url):
    wrong = []
    queries = 0
    for panel in panels():
        for target in panel["targets"]:
            queries += 1
            found = last_minutes(url, target["expr"])
            if not any(math.isfinite(float(value)) for series in found for _, value in series["values"]):
                wrong.append(f"panel '{panel['title']}': {'not a number' if found else 'no result'}: {target['expr']}")
    known = set(ask(url, "label/__name__/values"))
    rules = [rule for group in ask(url, "rules")["groups"] for rule in group["rules"]]
    for rule in rules:
        if rule["health"] != "ok":
            wrong.append(f"rule {rule['name']}: {rule.get('lastError') or rule['health']}")
        without_labels = re.sub(r"\{.*?\}|\b(by|on|ignoring) \(.*?\)", "", rule["query"])
        for name in re.findall(r"\b(?:likes|http|messaging|db)_\w+", without_labels):
            if name not in known:
                wrong.append(f"rule {rule['name']}: no service has the metric {name}")
        # A debug build on a busy machine may be slow.
        if rule["alerts"] and not rule["name"].endswith(("Slow", "Late")):
            wrong.append(f"rule {rule['name']}: pending or firing: {rule['alerts']}")
    if queries < 30 or len(rules) < 30:
        wrong.append(f"only {queries} queries and {len(rules)} rules")
    print(f"dashboard: {queries} queries, {len(rules)} rules, {len(wrong)} wrong", *wrong, sep="\n  ")
    sys.exit(1 if wrong else 0)


COLOURS = ["#4c9ed9", "#e0873e", "#5aa864", "#c65d57", "#8f76c0", "#a0795c", "#d48ec0", "#8a8a8a", "#b3ab45", "#4dbccb"]
WIDTH, HEIGHT, COLUMNS = 400, 200, 3


def shown(value, unit):
    if unit == "s":
        return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"
    if unit == "bytes":
        return f"{value / 2**20:.3g} MiB"
    return f"{value:.3g}"


def draw(url, seconds, file):
    start = time.time() - seconds
    out = []
    count = 0
    for count, panel in enumerate(panels()):
        lines = []
        for target in panel["targets"]:
            for series in last_minutes(url, target["expr"], seconds):
                label = re.sub(r"{{(\w+)}}", lambda name: series["metric"].get(name[1], ""), target["legendFormat"])
                points = [(float(at), float(value)) for at, value in series["values"] if math.isfinite(float(value))]
                if points:
                    lines.append((label, points))
        unit = panel["fieldConfig"]["defaults"]["unit"]
        top = max((value for _, points in lines for _, value in points), default=0) or 1
        # The largest first: the legend has room for eight.
        lines.sort(key=lambda line: -max(value for _, value in line[1]))
        left, upper = 12 + count % COLUMNS * WIDTH, 12 + count // COLUMNS * HEIGHT
        out.append(f'<g transform="translate({left} {upper})"><rect width="388" height="188" rx="3" class="panel"/>')
        out.append(f'<text x="10" y="18" class="title">{html.escape(panel["title"])}</text>')
        for part in (0, 0.5, 1):
            y = 125 - 90 * part
            out.append(f'<path d="M60 {y}H378" class="grid"/><text x="54" y="{y + 3}" class="axis">{shown(top * part, unit)}</text>')
        for place, (label, points) in enumerate(lines[:8]):
            path = " ".join(f"{60 + 318 * (at - start) / seconds:.1f},{125 - 90 * value / top:.1f}" for at, value in points)
            x, y = 14 + place % 2 * 188, 143 + place // 2 * 12
            colour = COLOURS[place]
            out.append(f'<polyline points="{path}" stroke="{colour}"/><path d="M{x} {y - 3}h10" stroke="{colour}" stroke-width="3"/>')
            out.append(f'<text x="{x + 14}" y="{y}">{html.escape(label[:29])}</text>')
        out.append("</g>")
    height = 12 + (count // COLUMNS + 1) * HEIGHT
    style = (
        "text{font:10px sans-serif;fill:#444}.title{font-weight:bold;font-size:12px}.axis{text-anchor:end;font-size:9px}"
        ".panel{fill:#fff;stroke:#ddd}.grid{stroke:#eee}polyline{fill:none;stroke-width:1.3}"
    )
    width = 12 + COLUMNS * WIDTH
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"><style>{style}</style>'
    Path(file).write_text(head + f'<rect width="{width}" height="{height}" fill="#f4f5f5"/>' + "\n".join(out) + "</svg>\n")


match sys.argv[1:]:
    case ["check", url]:
        check(url)
    case ["draw", url, seconds, file]:
        draw(url, int(seconds), file)
    case _:
        sys.exit(__doc__)
