// A line chart over time as SVG: no library, colours from the page's style sheet.

const [WIDTH, HEIGHT] = [640, 260];
const [LEFT, RIGHT, TOP, BOTTOM] = [58, 12, 10, 34];

// {title, unit, log, seconds: [x, …], series: [{name, color, dashed, values: [y or null, …]}]}
// With `log` the y axis has a decade per step, for what spans several.
export function chart({ title, unit, note, log, seconds, end, series }) {
  const all = series.flatMap(({ values }) => values).filter((value) => value !== null && (!log || value > 0));
  const legend = series
    .map(({ name, color, dashed }) => `<li><i class="${color}${dashed ? ' dashed' : ''}"></i>${name} <b></b></li>`)
    .join('');
  const head = `<figcaption><h2>${title} <small>${unit}</small></h2><p>${note}</p><ul>${legend}</ul></figcaption>`;
  if (all.length === 0) return `<figure>${head}<p class="none">nothing was measured</p></figure>`;

  const ticks = log ? decades(Math.min(...all), Math.max(...all)) : steps(Math.max(...all));
  const [low, high] = [ticks[0], ticks[ticks.length - 1]];
  const scale = (value) => (log ? Math.log(Math.max(value, low) / low) / Math.log(high / low) : value / high);
  const x = (second) => LEFT + (second / end) * (WIDTH - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - scale(value) * (HEIGHT - TOP - BOTTOM);

  const [per, times] = time(end);
  const grid = ticks.map(
    (tick) => `<path class="grid" d="M${LEFT} ${at(y(tick))}H${WIDTH - RIGHT}"/><text class="y" x="${LEFT - 8}" y="${at(y(tick) + 4)}">${label(tick)}</text>`,
  );
  const axis = times.map((second) => `<text class="x" x="${at(x(second))}" y="${HEIGHT - BOTTOM + 18}">${label(second / per.seconds)}${second === 0 ? ` ${per.unit}` : ''}</text>`);
  const lines = series.map(
    ({ color, dashed, values }) => `<path class="line ${color}${dashed ? ' dashed' : ''}" d="${path(seconds.map(x), values.map((value) => (value === null ? null : y(value))))}"/>`,
  );
  const data = JSON.stringify({ x: seconds.map((second) => Number(at(x(second)))), seconds, series: series.map(({ values }) => values) });
  return `<figure data-chart='${data}'>${head}
<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${title}, ${unit}">
${grid.join('')}${axis.join('')}
${lines.join('\n')}
<path class="cursor" d=""/></svg></figure>`;
}

// A gap in the values is a gap in the line; a value alone between two gaps is a dot.
function path(xs, ys) {
  let [d, open] = ['', false];
  ys.forEach((y, i) => {
    if (y !== null) {
      d += `${open ? 'L' : 'M'}${at(xs[i])} ${at(y)}`;
      if (!open && (i + 1 === ys.length || ys[i + 1] === null)) d += 'm-2 0h4';
    }
    open = y !== null;
  });
  return d;
}

// About five round numbers from 0 to above the largest.
function steps(most) {
  const raw = Math.max(most, 4) / 4;
  const magnitude = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * magnitude).find((size) => size >= raw);
  const ticks = [];
  for (let i = 0; i === 0 || ticks[ticks.length - 1] < most; i += 1) ticks.push(Number((i * step).toPrecision(6)));
  return ticks.length > 1 ? ticks : [0, step];
}

// 1, 10, 100, … around all values; with 2 and 5 where one or two decades hold all.
function decades(least, most) {
  const candidates = (factors) => {
    const list = [];
    for (let power = -6; power < 9; power += 1) for (const factor of factors) list.push(Number((factor * 10 ** power).toPrecision(3)));
    const from = list.filter((value) => value <= least).length - 1;
    const to = list.findIndex((value) => value >= most);
    return list.slice(Math.max(from, 0), (to < 0 ? list.length : to) + 1);
  };
  const fine = candidates([1, 2, 5]);
  if (fine.length <= 8) return fine.length > 1 ? fine : [fine[0], fine[0] * 2];
  return candidates([1]);
}

// Whole seconds, minutes or hours, about eight of them.
function time(end) {
  const per = end <= 600 ? { seconds: 1, unit: 's' } : end <= 4 * 3600 ? { seconds: 60, unit: 'min' } : { seconds: 3600, unit: 'h' };
  const step = [1, 2, 5, 10, 15, 30, 60, 120, 240].find((size) => size >= end / per.seconds / 8) || 240;
  const times = [];
  for (let tick = 0; tick * per.seconds <= end; tick += step) times.push(tick * per.seconds);
  return [per, times];
}

function label(value) {
  return String(value).replace(/\B(?=(\d{3})+$)/g, value >= 1000 && Number.isInteger(value) ? ',' : '');
}

function at(coordinate) {
  return coordinate.toFixed(1);
}
