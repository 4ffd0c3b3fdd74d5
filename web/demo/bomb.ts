// The like bomb: sends a burst of likes of made-up users, a hundred in a request, and shows what both services
// say about it as it happens.

import type { Chart, Sample } from './charts.js';
import { api, type Numbers, numbers } from './numbers.js';

/** A few requests at once: a browser opens six connections to a host, and the page needs some for itself. */
const SENDERS = 3;
const PER_REQUEST = 100;
/** Milliseconds between two looks at the numbers. */
const INTERVAL = 200;
/** The longest that a burst, and then its last count, is waited for. */
const PATIENCE = 60_000;

interface Like {
  productId: string;
  liked: true;
  userId: string;
  key: string;
}

const find = (id: string): HTMLElement => document.getElementById(id)!;
const show = (id: string, value: number | null, unit = '') => {
  find(id).textContent = value === null ? '–' : Math.round(value).toLocaleString() + unit;
};
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** A crowd with favourites: of each two likes that are left, one goes to the next product. */
function crowd(products: string[], size: number): Like[] {
  const run = `${Date.now().toString(36)}${Math.random().toString(36).slice(2, 6)}`;
  const order = [...products].sort(() => Math.random() - 0.5);
  return Array.from({ length: size }, (_, i) => {
    const favourite = Math.min(Math.floor(-Math.log2(1 - Math.random()) * 1.5), order.length - 1);
    return { productId: order[favourite]!, liked: true, userId: `crowd-${run}-${i}`, key: `${run}-${i}` };
  });
}

/** Sends all likes, again with the same keys where the service asks for it. Returns how many it has acknowledged. */
async function send(likes: Like[]): Promise<number> {
  const end = Date.now() + PATIENCE;
  let acknowledged = 0;
  async function sender(): Promise<void> {
    while (likes.length && Date.now() < end) {
      const some = likes.splice(0, PER_REQUEST);
      const answer = await fetch(`${api}v1/likes`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ likes: some }),
      }).catch(() => undefined);
      if (!answer?.ok) {
        likes.push(...some);
        await pause(1000 * Number(answer?.headers.get('retry-after') ?? 1));
        continue;
      }
      const { results } = (await answer.json()) as { results: { problem?: { status: number; detail: string } }[] };
      for (const [i, { problem }] of results.entries()) {
        if (!problem) acknowledged++;
        else if (problem.status >= 500 || problem.status === 429) likes.push(some[i]!);
        else throw new Error(problem.detail);
      }
      if (results.some(({ problem }) => problem)) await pause(500);
    }
  }
  await Promise.all(Array.from({ length: SENDERS }, sender));
  return acknowledged;
}

let charts: Promise<{ rates: Chart; lags: Chart }> | undefined;
async function makeCharts(): Promise<{ rates: Chart; lags: Chart }> {
  const { rates, lags } = await import('./charts.js');
  return { rates: rates(find('rates')), lags: lags(find('lags')) };
}

/** What has happened between two looks. */
function between(before: Numbers, now: Numbers, seconds: number, at: number): Sample {
  const [old, aggregator] = [before.aggregator, now.aggregator];
  const counted = aggregator && old ? aggregator.counted - old.counted : null;
  return {
    at,
    acknowledged: (now.acknowledged - before.acknowledged) / seconds,
    counted: counted === null ? null : counted / seconds,
    lag: counted ? ((aggregator!.age - old!.age) / counted) * 1000 : null,
  };
}

export async function burst(products: string[], size: number): Promise<void> {
  const first = await numbers();
  if (!first.namesUsers)
    throw new Error('like-api lets this address name no users: set BATCH_USER_IDS_FROM to its network');
  find('story').textContent = `${size.toLocaleString()} people are on their way …`;
  const { rates, lags } = await (charts ??= makeCharts());

  const [begin, samples] = [performance.now(), [] as Sample[]];
  let acknowledged: number | undefined;
  let failure: Error | undefined;
  const sent = send(crowd(products, size)).then(
    (number) => (acknowledged = number),
    (error: Error) => (failure = error),
  );
  let [before, last, quiet] = [first, begin, 0];
  // A second longer than the burst, so that the curves come down.
  while (quiet < 1000 / INTERVAL && !failure && performance.now() - begin < 2 * PATIENCE) {
    await pause(INTERVAL);
    const now = await numbers();
    const time = performance.now();
    samples.push(between(before, now, (time - last) / 1000, (time - begin) / 1000));
    [before, last] = [now, time];
    draw(first, now, samples, rates, lags);
    const counted = now.aggregator ? now.aggregator.counted - first.aggregator!.counted : size;
    if (acknowledged !== undefined && counted >= acknowledged) quiet++;
  }
  await sent;
  if (failure) throw failure;
  tell(first, before, size, acknowledged ?? 0);
}

function draw(first: Numbers, now: Numbers, samples: Sample[], rates: Chart, lags: Chart): void {
  const [old, aggregator] = [first.aggregator, now.aggregator];
  const of = (name: 'counted' | 'transactions' | 'statements' | 'age') =>
    aggregator && old ? aggregator[name] - old[name] : null;
  const [counted, transactions] = [of('counted'), of('transactions')];
  show('acknowledged', now.acknowledged - first.acknowledged);
  show('counted', counted);
  show('lag', counted ? (of('age')! / counted) * 1000 : null, ' ms');
  show('transactions', transactions);
  show('statements', of('statements'));
  show('share', transactions ? counted! / transactions : null);
  const column = (name: keyof Sample) => samples.map((sample) => sample[name]);
  const at = column('at') as number[];
  rates.draw([at, column('acknowledged'), column('counted')]);
  lags.draw([at, column('lag')]);
  const most = (name: keyof Sample) => Math.round(Math.max(0, ...column(name).map(Number))).toLocaleString();
  find('rates').ariaLabel =
    `Likes per second, at most: ${most('acknowledged')} acknowledged, ${most('counted')} counted`;
  find('lags').ariaLabel = `Lag, at most: ${most('lag')} milliseconds`;
}

/** The story of the burst, in a sentence. */
function tell(first: Numbers, last: Numbers, size: number, acknowledged: number): void {
  const story = find('story');
  const number = (value: number) => Object.assign(document.createElement('b'), { textContent: value.toLocaleString() });
  story.replaceChildren(number(acknowledged), ` of ${size.toLocaleString()} likes were acknowledged`);
  const [old, aggregator] = [first.aggregator, last.aggregator];
  if (!aggregator || !old) {
    story.append('. DEMO_AGGREGATOR_URL would show what they cost the database.');
    return;
  }
  const [transactions, statements] = [
    aggregator.transactions - old.transactions,
    aggregator.statements - old.statements,
  ];
  const counted = aggregator.counted - old.counted;
  story.append(
    counted < acknowledged ? `, and ${counted.toLocaleString()} are counted so far, in ` : ' and counted, in ',
    number(transactions),
    ' transactions with ',
    number(statements),
    ' SQL statements.',
  );
}
