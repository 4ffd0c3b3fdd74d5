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
VARIABLES = {"$__rate_interval": "10s", "$namespace": ".*"}
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


COLOURS = ["#3b86c8", "#e07b39", "#4a9d5b", "#c2504a", "#8467b8", "#97705a", "#cf7fb4", "#7d7d7d"]
COLUMNS, ACROSS, DOWN = 2, 440, 208  # of panels; their distances in pixels
LEFT, RIGHT, TOP, BOTTOM = 58, 416, 32, 124  # of the axes in a panel
STYLE = (
    "text{font:10px sans-serif;fill:#333}.title{font-weight:bold;font-size:12px}.axis{font-size:9px;fill:#666}"
    ".y{text-anchor:end}.x{text-anchor:middle}.panel{fill:#fff;stroke:#d5d5d5}.grid{stroke:#e6e6e6}"
    "polyline{fill:none;stroke-width:1.5}"
)


def scale(unit, largest):
    """Returns the factor and the name of the unit in which the axis is labelled, its step, and its top."""
    factor, name = {"s": (1, " s"), "bytes": (2**-20, " MiB"), "short": (1, "")}.get(unit, (1, "/s"))
    if unit == "s" and largest < 1:
        factor, name = 1000, " ms"
    largest = largest * factor or 1
    power = 10 ** math.floor(math.log10(largest / 4))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if 4 * step >= largest)
    return factor, name, step, math.ceil(largest / step) * step


def draw_panel(panel, lines, seconds):
    largest = max((value for _, points in lines for _, value in points), default=0)
    factor, unit, step, top = scale(panel["fieldConfig"]["defaults"]["unit"], largest)

    def x(second):
        return LEFT + (RIGHT - LEFT) * second / seconds

    def y(value):
        return BOTTOM - (BOTTOM - TOP) * value / top

    yield f'<rect width="428" height="196" rx="3" class="panel"/><text x="10" y="19" class="title">{html.escape(panel["title"])}</text>'
    for tick in range(round(top / step) + 1):
        yield f'<path d="M{LEFT} {y(tick * step):.1f}H{RIGHT}" class="grid"/>'
        yield f'<text x="{LEFT - 5}" y="{y(tick * step) + 3:.1f}" class="axis y">{tick * step:g}{unit}</text>'
    for second in range(0, seconds + 1, 10):
        yield f'<path d="M{x(second):.1f} {TOP}V{BOTTOM}" class="grid"/>'
        yield f'<text x="{x(second):.1f}" y="{BOTTOM + 12}" class="axis x">{second} s</text>'
    # The largest first.
    lines.sort(key=lambda line: -max(value for _, value in line[1]))
    for place, (label, points) in enumerate(lines[: len(COLOURS)]):
        path = " ".join(f"{x(at):.1f},{y(value * factor):.1f}" for at, value in points)
        left, base = 12 + place % 2 * 210, BOTTOM + 29 + place // 2 * 12
        yield f'<polyline points="{path}" stroke="{COLOURS[place]}"/>'
        yield f'<path d="M{left} {base - 3}h10" stroke="{COLOURS[place]}" stroke-width="3"/>'
        label = label if len(label) <= 36 else label[:35] + "…"
        yield f'<text x="{left + 14}" y="{base}">{html.escape(label)}</text>'


def draw(url, seconds, file):
    start = time.time() - seconds
    out = []
    count = 0
    for count, panel in enumerate(panels()):
        lines = []
        for target in panel["targets"]:
            for series in last_minutes(url, target["expr"], seconds):
                label = re.sub(r"{{(\w+)}}", lambda name: series["metric"].get(name[1], ""), target["legendFormat"])
                points = [(float(at) - start, float(value)) for at, value in series["values"] if math.isfinite(float(value))]
                if points:
                    lines.append((label.strip(), points))
        left, upper = 12 + count % COLUMNS * ACROSS, 12 + count // COLUMNS * DOWN
        out += [f'<g transform="translate({left} {upper})">', *draw_panel(panel, lines, seconds), "</g>"]
    width, height = 12 + COLUMNS * ACROSS, 12 + (count // COLUMNS + 1) * DOWN
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"><style>{STYLE}</style>'
    Path(file).write_text("\n".join([head, f'<rect width="{width}" height="{height}" fill="#f3f4f5"/>', *out, "</svg>\n"]))


match sys.argv[1:]:
    case ["check", url]:
        check(url)
    case ["draw", url, seconds, file]:
        draw(url, int(seconds), file)
    case _:
        sys.exit(__doc__)
