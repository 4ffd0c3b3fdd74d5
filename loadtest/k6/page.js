// report.html: one run as a page to look at. Self-contained: it loads nothing.
import { chart } from './chart.js';

export function page(report) {
  const { profile, about, started, machine, verdict, figures, rules } = report;
  const day = started.replace(/\..*/, '').replace('T', ' ');
  const age = figures.event_to_count_seconds;
  const took = figures.latency_ms;
  const tiles = [
    ['acknowledged', `${thousands(figures.acknowledged_per_second)}/s`, 'over the whole run'],
    ['latency, median', took ? `${took.p50} ms` : '–', took ? `99 %: ${took.p99} ms, longest ${took.max} ms` : ''],
    ['event to count, 95 %', age.p95 === null ? '–' : `${age.p95} s`, age.p50 === null ? '' : `median ${age.p50} s, 99 % ${age.p99} s`],
    ['lag at most', figures.lag_records_max === null ? '–' : thousands(figures.lag_records_max), 'records waiting to be counted'],
    ['repeats', thousands(figures.repeated), 'same Idempotency-Key, same event'],
    ['sent again', thousands(figures.sent_again), `${thousands(figures.refused)} refused, ${thousands(figures.unsent)} never sent`],
  ];
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Like counter, ${profile} of ${day} UTC: ${verdict.passed ? 'passed' : 'failed'}</title>
<style>${STYLE}</style>
<main>
<header>
<h1>Like counter under load: ${escape(profile)}</h1>
<p>${escape(about)}</p>
<p class="meta"><time datetime="${started}">${day} UTC</time> · ${escape(machine)}</p>
</header>
<section class="verdict ${verdict.exact ? 'good' : 'bad'}">
<p><strong>${verdict.text}</strong></p>
<p>Requests: <b>${thousands(figures.acknowledged)}</b> acknowledged ${same(figures.acknowledged, figures.counted)} <b>${thousands(figures.counted)}</b> counted.
Likes they add up to: <b>${thousands(figures.likes_wished)}</b> ${same(figures.likes_wished, figures.likes_counted)} <b>${thousands(figures.likes_counted)}</b> in the API's counts,
${thousands(figures.pairs_read_back)} (user, product) pairs read back, ${thousands(figures.lost)} not as acknowledged.</p>
<p>${verdict.passed ? 'Every rule is kept.' : `<strong class="no">${rules.filter(({ ok }) => !ok).length} of ${rules.length} rules broken</strong>, see below.`}</p>
</section>
<section class="tiles">${tiles.map(([name, value, note]) => `<div><span>${name}</span><b>${value}</b><small>${note}</small></div>`).join('')}</section>
<section class="charts">${charts(report).join('\n')}</section>
<section>
<h2>What would fail the run</h2>
<table><thead><tr><th>figure</th><th>what it is</th><th>rule</th><th class="n">measured</th><th>kept</th></tr></thead>
<tbody>${rules.map(row).join('')}</tbody></table>
<h2>What was asked for</h2>
<table><tbody>${Object.entries(report.settings)
    .map(([name, value]) => `<tr><td>${name.replace(/_/g, ' ')}</td><td class="n">${value === null ? '–' : thousands(value)}</td></tr>`)
    .join('')}</tbody></table>
<p class="meta">One point every ${report.series.step_seconds} s. The same figures: report.json.</p>
</section>
</main>
<script>${SCRIPT}</script>
</html>
`;
}

function charts({ settings, series: { step_seconds: step, points } }) {
  const seconds = points.map(({ second }) => second);
  const common = { seconds, end: seconds[seconds.length - 1] + step };
  const pick = (name) => points.map((point) => point[name]);
  const spread = (name) =>
    ['p50', 'p95', 'p99'].map((q, i) => ({
      name: ['median', '95 %', '99 %'][i],
      color: ['c1', 'c2', 'c3'][i],
      values: points.map((point) => (point[name] === null ? null : point[name][q])),
    }));
  const rates = [
    { name: 'planned', color: 'c0', dashed: true, values: pick('planned_per_second') },
    { name: 'acknowledged', color: 'c1', values: pick('acknowledged_per_second') },
    { name: 'sent again', color: 'c3', values: pick('sent_again_per_second') },
  ];
  const reading = settings.reads_per_second > 0;
  if (reading) rates.push({ name: 'reads', color: 'c4', values: pick('reads_per_second') });
  const list = [
    chart({ ...common, title: 'Rate', unit: 'requests per second', note: 'It doesn\'t wait for the answers: a slow server gets no relief.', series: rates }),
    chart({ ...common, title: 'Latency', unit: 'ms, logarithmic', note: 'From the request to the 202, which the broker has answered for.', log: true, series: spread('latency_ms') }),
    chart({ ...common, title: 'Lag', unit: 'records', note: 'In the log and not counted yet, as like-aggregator says once a second.', series: [{ name: 'records', color: 'c1', values: pick('lag_records') }] }),
    chart({ ...common, title: 'Event to count', unit: 's, logarithmic', note: 'From the record in the log to the committed count, by like-aggregator\'s histogram.', log: true, series: spread('event_to_count_seconds') }),
  ];
  if (reading) {
    list.push(chart({ ...common, title: 'Latency of reads', unit: 'ms, logarithmic', note: 'One product or twenty, for a user or for nobody.', log: true, series: spread('read_latency_ms') }));
  }
  return list;
}

const MEANING = {
  acknowledged: 'requests answered 202',
  unaccounted: 'acknowledged requests whose effect isn\'t there',
  uncounted: 'likes by what was acknowledged, less the API\'s count: the worst product',
  lost: 'receipts and (user, product) pairs that aren\'t as acknowledged',
  refused: 'answers that no retry makes better',
  wrong_answers: 'answers that contradict the request or an earlier one',
  products_read: 'products whose counts were read back',
  dropped_iterations: 'requests never sent, because all VUs were waiting',
  retries: 'part of the attempts that were not acknowledged',
  unwatched: 'seconds in which /metrics could not be read',
  latency: 'milliseconds from request to acknowledgement',
  counted_p95: 'seconds from record to committed count, 95 % of events',
  read_latency: 'milliseconds of a read',
  failed_reads: 'part of the reads that failed',
};

function row({ metric, rule, value, ok }) {
  const measured = value === null ? '–' : thousands(value);
  return `<tr><td>${escape(metric)}</td><td>${MEANING[metric] || ''}</td><td><code>${escape(rule)}</code></td><td class="n">${measured}</td><td class="${ok ? 'yes' : 'no'}">${ok ? '✓ kept' : '✗ broken'}</td></tr>`;
}

function same(a, b) {
  return a === b ? '=' : '≠';
}

function thousands(value) {
  const [whole, rest] = String(value).split('.');
  return whole.replace(/\B(?=(\d{3})+$)/g, ',') + (rest ? `.${rest}` : '');
}

function escape(text) {
  return String(text).replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;').replace(/"/g, '&quot;');
}

const STYLE = `
:root { color-scheme: light dark; --paper: #f7f7f5; --card: #fff; --ink: #1d1f23; --soft: #63676f; --rule: #e3e3df;
  --good: #14713a; --goodbg: #e4f4ea; --bad: #b3261e; --badbg: #fce9e7;
  --c0: #8b9099; --c1: #2563c9; --c2: #b86a00; --c3: #b8245f; --c4: #16826b; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171a; --card: #1e2125; --ink: #e8e9eb; --soft: #a0a5ad; --rule: #33373d;
  --good: #7fd8a0; --goodbg: #17301f; --bad: #ff9d94; --badbg: #3a1c1a;
  --c0: #7f858f; --c1: #74a7ff; --c2: #f0a848; --c3: #ff7fae; --c4: #56c9ac; } }
* { box-sizing: border-box; margin: 0; }
body { background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 20px 48px; display: grid; gap: 20px; }
h1 { font-size: 27px; line-height: 1.25; } h2 { font-size: 16px; } small { font-size: 13px; color: var(--soft); font-weight: 400; }
.meta { color: var(--soft); font-size: 14px; }
.verdict { border-radius: 10px; padding: 16px 20px; border-left: 5px solid; }
.verdict strong { font-size: 19px; } .verdict p:last-child strong { font-size: inherit; }
.good { background: var(--goodbg); border-color: var(--good); } .bad { background: var(--badbg); border-color: var(--bad); }
.good strong { color: var(--good); } .bad strong, .verdict strong.no { color: var(--bad); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; }
.tiles div, figure { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 14px 16px; }
.tiles span, .tiles small { display: block; } .tiles span { font-size: 13px; color: var(--soft); } .tiles b { font-size: 23px; font-weight: 600; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: 16px; }
figcaption p { font-size: 13px; color: var(--soft); }
figcaption ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: 2px 18px; font-size: 13px; margin: 6px 0 2px; }
figcaption b { font-variant-numeric: tabular-nums; }
i { display: inline-block; width: 18px; border-top: 3px solid; vertical-align: middle; margin-right: 6px; } i.dashed { border-top-style: dashed; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 12px; font-variant-numeric: tabular-nums; } text.y { text-anchor: end; } text.x { text-anchor: middle; }
.grid { stroke: var(--rule); } .line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.cursor { stroke: var(--soft); stroke-dasharray: 2 3; } path.dashed { stroke-dasharray: 6 5; stroke-width: 1.6; }
${[0, 1, 2, 3, 4].map((c) => `path.c${c} { stroke: var(--c${c}); } i.c${c} { border-color: var(--c${c}); }`).join(' ')}
.none { color: var(--soft); padding: 40px 0; text-align: center; }
section > h2 { margin: 12px 0 6px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; background: var(--card); border: 1px solid var(--rule); }
th, td { text-align: left; padding: 6px 12px; border-top: 1px solid var(--rule); vertical-align: top; } th { color: var(--soft); font-weight: 500; }
.n { text-align: right; font-variant-numeric: tabular-nums; } code { font: 13px ui-monospace, monospace; white-space: nowrap; }
.yes { color: var(--good); white-space: nowrap; } .no { color: var(--bad); font-weight: 600; white-space: nowrap; }
section { overflow-x: auto; }`;

// The values under the pointer, in the legend.
const SCRIPT = `
for (const figure of document.querySelectorAll('figure[data-chart]')) {
  const { x, series } = JSON.parse(figure.dataset.chart);
  const svg = figure.querySelector('svg'), cursor = figure.querySelector('.cursor'), shown = figure.querySelectorAll('figcaption b');
  svg.addEventListener('pointermove', (event) => {
    const box = svg.getBoundingClientRect(), at = (event.clientX - box.left) * 640 / box.width;
    let i = 0;
    x.forEach((position, j) => { if (Math.abs(position - at) < Math.abs(x[i] - at)) i = j; });
    cursor.setAttribute('d', 'M' + x[i] + ' 10V226');
    series.forEach((values, j) => { shown[j].textContent = values[i] === null ? '–' : values[i].toLocaleString('en'); });
  });
  svg.addEventListener('pointerleave', () => { cursor.setAttribute('d', ''); shown.forEach((b) => { b.textContent = ''; }); });
}`;
