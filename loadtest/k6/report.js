// The figures of a run, as the text at its end and as report.json. The charts of report.html are k6's
// web dashboard.

export function report(data, plan, env) {
  const figures = figuresOf(data, plan, env);
  const json = `${JSON.stringify(figures, null, 2)}\n`;
  return {
    stdout: text(figures),
    [`${env.OUT}/report.json`]: json,
    [`${env.OUT}/${plan.name}-${env.RUN}.json`]: json,
  };
}

function figuresOf(data, plan, env) {
  const values = (metric) => (data.metrics[metric] ? data.metrics[metric].values : {});
  const count = (metric) => values(metric).count || 0;
  const value = (metric) => values(metric).value || null; // a gauge that was never set is 0
  const spread = (metric, digits) => {
    const { med, 'p(95)': p95, 'p(99)': p99, max, count: samples } = values(metric);
    if (!samples) return null;
    return { p50: round(med, digits), p95: round(p95, digits), p99: round(p99, digits), max: round(max, digits) };
  };

  const rules = rulesOf(data);
  const compared = count('checked') > 0; // not if the run was interrupted
  const exact =
    compared &&
    count('acknowledged') > 0 &&
    count('accounted') === count('acknowledged') &&
    rules.every(({ metric, ok }) => ok || !['unaccounted', 'uncounted', 'lost', 'products_read'].includes(metric));
  return {
    profile: plan.name,
    about: plan.about,
    run: env.RUN,
    started: new Date(Date.now() - data.state.testRunDurationMs).toISOString(),
    machine: env.MACHINE || 'unknown machine',
    verdict: { text: exact ? 'acknowledged = counted' : compared ? 'NOT EXACT' : 'NOT COMPARED', exact, passed: rules.every(({ ok }) => ok) },
    settings: {
      rate_per_second: plan.rate, seconds: plan.seconds, requests_in_flight_at_most: plan.vus,
      users: plan.vus * plan.usersPerVu, products: plan.products, likes_percent: plan.likesPercent,
      repeats_percent: plan.repeatsPercent, hot_product_percent: plan.hotPercent || null, reads_per_second: plan.readRate,
    },
    figures: {
      acknowledged: count('acknowledged'),
      counted: count('accounted'),
      repeated: count('repeated'),
      retried: values('retries').passes || 0,
      refused: count('refused'),
      wrong_answers: count('wrong_answers'),
      unsent: count('dropped_iterations'),
      pairs_read_back: count('checked'),
      lost: count('lost'),
      likes_acknowledged: count('likers'),
      likes_counted: count('counted'),
      reads: count('read_latency'),
      acknowledged_per_second: round((count('acknowledged')) / plan.seconds, 1),
      latency_ms: spread('latency', 2),
      read_latency_ms: spread('read_latency', 2),
      event_to_count_seconds: { p50: round(value('counted_p50'), 3), p95: round(value('counted_p95'), 3), p99: round(value('counted_p99'), 3) },
      lag_records_max: count('lag') ? values('lag').max : null,
      unwatched: count('unwatched'),
    },
    rules,
  };
}

// The thresholds and the values compared with them; those of single products as one.
function rulesOf(data) {
  const rules = [];
  for (const [name, { thresholds, values }] of Object.entries(data.metrics)) {
    const metric = name.replace(/\{product:.*\}$/, '');
    for (const [rule, { ok }] of Object.entries(thresholds || {})) {
      const found = values[rule.match(/^[^<>=!]+/)[0].trim()];
      const same = metric !== name && rules.find((other) => other.metric === metric);
      if (!same) {
        rules.push({ metric, rule, value: found === undefined ? null : round(found, 3), ok });
      } else {
        same.ok = same.ok && ok;
        if (Math.abs(found || 0) > Math.abs(same.value || 0)) same.value = found;
      }
    }
  }
  const order = ['acknowledged', 'unaccounted', 'uncounted', 'lost', 'refused', 'wrong_answers', 'products_read'];
  const place = ({ metric }) => (order.includes(metric) ? order.indexOf(metric) : order.length);
  return rules.sort((a, b) => place(a) - place(b));
}

function text({ profile, about, settings: s, figures: f, rules, verdict }) {
  const ms = (took) => (took ? `median ${took.p50} ms, 95 % ${took.p95} ms, 99 % ${took.p99} ms, longest ${took.max} ms` : '-');
  const age = f.event_to_count_seconds;
  const sign = (same) => (same ? '=' : 'BUT');
  const lines = [
    '',
    `${profile}: ${about}`,
    `  ${s.seconds} s, up to ${s.rate_per_second} requests/s, ${s.users} users, ${s.products} products, ${s.requests_in_flight_at_most} in flight at most`,
    `  requests          ${f.acknowledged} acknowledged (${f.repeated} of them repeats), ${f.acknowledged_per_second}/s`,
    `  trouble           ${f.retried} retried, ${f.refused} refused, ${f.unsent} unsent because all VUs waited`,
    `  latency           ${ms(f.latency_ms)}`,
    ...(f.reads > 0 ? [`  reads             ${f.reads}: ${ms(f.read_latency_ms)}`] : []),
    `  event to count    ${age.p50 === null ? '-' : `median ${age.p50} s, 95 % ${age.p95} s, 99 % ${age.p99} s`}; lag at most ${f.lag_records_max} records`,
    `  read back         ${f.pairs_read_back} (user, product) pairs, ${f.lost} differ from what was acknowledged`,
    `  likes             ${f.likes_acknowledged} acknowledged ${sign(f.likes_acknowledged === f.likes_counted)} ${f.likes_counted} by the API's counts`,
    `  requests          acknowledged ${f.acknowledged} ${sign(f.acknowledged === f.counted)} counted ${f.counted}`,
    ...rules.filter(({ ok }) => !ok).map(({ metric, rule, value }) => `  FAILED            ${metric}: ${rule}, it is ${value}`),
    verdict.text,
    verdict.passed ? 'every rule is kept' : 'FAILED',
    '',
    '',
  ];
  return lines.join('\n');
}

function round(number, digits) {
  if (number === null || number === undefined) return null;
  return Number(number.toFixed(digits));
}
