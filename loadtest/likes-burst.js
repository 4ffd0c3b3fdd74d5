// Likes over HTTP at a rate that doesn't depend on the responses, and the proof that every
// acknowledged request is counted.
//
// Many users like and unlike products. Some requests are repeated with their Idempotency-Key, also
// after a newer one: that must change nothing. A request without a 202 is retried with the same key
// until it has one. Others read, and one VU watches like-aggregator.
//
// Each user belongs to one VU, which remembers what was acknowledged, since VUs share no state.
// Afterwards each VU waits until its last receipts are counted and reads back what its users like.
// `unaccounted` gains each acknowledged request and loses it once its receipt is counted and its
// user's like is as requested; `uncounted` gains, per product, the users who like it, and loses what
// the API counts. Both must end at 0, or the run fails with exit status 99. Every run has new
// products. Needs a stack with DEDUP=history.
//
// Started by run.sh; profiles and thresholds are in k6/profiles.js, the report in k6/report.js.
import http from 'k6/http';
import exec from 'k6/execution';
import { sleep } from 'k6';
import { Counter, Gauge, Rate, Trend } from 'k6/metrics';
import { scenarios, settings, thresholds } from './k6/profiles.js';
import { between, quantile, scrape, total } from './k6/watch.js';
import { notCounted, readLikes } from './k6/readback.js';
import { report } from './k6/report.js';

const API = __ENV.LIKE_API_URL;
const AGGREGATOR = __ENV.LIKE_AGGREGATOR_ADMIN_URL;
const RUN = __ENV.RUN;
const USER_HEADER = __ENV.AUTH_USER_HEADER || 'X-User-Id';
// A VU repeats one of this many last requests.
const REPEATABLE = 20;
// A batch takes a fraction of a second: after this long, something is wrong.
const COUNTED_SECONDS = 60;

const plan = settings(__ENV);
const products = Array.from({ length: plan.products }, (_, i) => `burst-${RUN}-${i}`);

const acknowledged = new Counter('acknowledged'); // requests, repeats included
const repeated = new Counter('repeated'); // of those, the deliberate ones
const accounted = new Counter('accounted'); // acknowledged, counted and as requested
const unaccounted = new Counter('unaccounted'); // the difference of the two
const retries = new Rate('retries'); // attempts that were not acknowledged
const refused = new Counter('refused'); // responses that a retry would not change
const wrongAnswers = new Counter('wrong_answers');
const latency = new Trend('latency', true); // of the requests that were acknowledged
const checked = new Counter('checked'); // (user, product) pairs read back
const lost = new Counter('lost'); // receipts and pairs that differ from what was acknowledged
const likers = new Counter('likers'); // users who like a product, by what was acknowledged
const counted = new Counter('counted'); // the same, by what the API counts
const uncounted = new Counter('uncounted'); // their difference, per product
const productsRead = new Counter('products_read');
const readLatency = new Trend('read_latency', true);
const failedReads = new Rate('failed_reads');
const lag = new Trend('lag');
const unwatched = new Counter('unwatched'); // seconds without /metrics
// Seconds from an event's record to its commit.
const age = new Map([50, 95, 99].map((q) => [q, new Gauge(`counted_p${q}`)]));

export const options = {
  scenarios: scenarios(plan),
  thresholds: thresholds(plan, products),
  summaryTrendStats: ['count', 'min', 'med', 'p(95)', 'p(99)', 'max'],
  setupTimeout: '20s',
  teardownTimeout: '60s',
};

export function setup() {
  const before = scrape(AGGREGATOR);
  if (before === null) throw new Error(`${AGGREGATOR}/metrics lacks the metrics of like-aggregator`);
  return { start: Date.now(), before };
}

// --- the state of a VU

const pairs = new Map(); // "user product" -> {liked, requests, log}, as acknowledged last
const recent = []; // acknowledged requests that may be repeated
const receipts = new Map(); // log ("sequence-partition") -> highest offset
let open = null; // sent and not acknowledged yet
let sent = 0;

export function like() {
  settle(); // after an interrupted iteration
  if (recent.length > 0 && percent(plan.repeatsPercent)) {
    const again = recent[Math.floor(Math.random() * recent.length)];
    const answer = send(again);
    if (answer === null) return;
    repeated.add(1);
    if (answer.eventId !== again.eventId) wrong(`a repeat of ${again.key} is event ${answer.eventId}, it was ${again.eventId}`);
    return;
  }
  const vu = exec.vu.idInTest;
  sent += 1;
  open = {
    user: userId(vu, Math.floor(Math.random() * plan.usersPerVu)),
    product: anyProduct(),
    liked: percent(plan.likesPercent),
    key: `${RUN}-${vu}-${sent}`,
  };
  settle();
}

// Sends the open request until it is acknowledged: only then its effect is certain.
function settle() {
  if (open === null) return;
  const answer = send(open);
  if (answer === null) {
    pairs.delete(pairOf(open)); // refused, which fails the run
  } else {
    open.eventId = answer.eventId;
    pairs.get(pairOf(open)).liked = open.liked;
    if (recent.push(open) > REPEATABLE) recent.shift();
  }
  open = null;
}

// The body of the 202, or null if a retry would not change the response.
function send({ user, product, liked, key }) {
  const url = `${API}/v1/products/${product}/like`;
  for (;;) {
    const response = http.request(liked ? 'PUT' : 'DELETE', url, null, {
      headers: { [USER_HEADER]: user, 'Idempotency-Key': key },
      tags: { name: 'like' },
      timeout: '10s',
    });
    if (response.status === 202) {
      latency.add(response.timings.duration);
      retries.add(false);
      const answer = response.json();
      if (answer.productId !== product || answer.liked !== liked) wrong(`${url} said ${response.body}`);
      remember(`${user} ${product}`, answer.receipt);
      return answer;
    }
    // No response, shed, not written, perhaps written: the same key makes a retry safe.
    if (![0, 429, 502, 503, 504].includes(response.status)) {
      refused.add(1);
      console.error(`refused: ${response.status} ${response.body}`);
      return null;
    }
    retries.add(true);
    sleep(Math.min(Number(response.headers['Retry-After']) || 0.2, 5));
  }
}

function remember(pair, receipt) {
  const [, sequence, partition, offset] = receipt.match(/^(\d+)-(\d+)-(\d+)$/);
  const log = `${sequence}-${partition}`;
  receipts.set(log, Math.max(Number(offset), receipts.has(log) ? receipts.get(log) : -1));
  if (!pairs.has(pair)) pairs.set(pair, { requests: 0 });
  const known = pairs.get(pair);
  known.log = log;
  known.requests += 1;
  acknowledged.add(1);
  unaccounted.add(1);
}

// --- meanwhile

export function read() {
  const chance = Math.random();
  const params = { tags: { name: 'read' }, timeout: '10s', headers: {} };
  let url = `${API}/v1/products/${anyProduct()}/likes`;
  if (chance < 0.2) url = `${API}/v1/likes?ids=${products.slice(0, 20).join(',')}`;
  else if (chance < 0.4) params.headers[USER_HEADER] = userId(1, 0);
  const response = http.get(url, params);
  failedReads.add(response.status !== 200);
  if (response.status !== 200) return;
  readLatency.add(response.timings.duration);
  for (const { count } of [response.json()].flat()) {
    if (!(count >= 0 && count <= plan.vus * plan.usersPerVu)) wrong(`${url}: a count of ${count}`);
  }
}

// Every few seconds, until the grace period of the last request is over.
export function watch(data) {
  const every = plan.seconds > 600 ? 60 : 5;
  for (let second = every; ; second += every) {
    sleep(Math.max(0, second - (Date.now() - data.start) / 1000));
    const now = scrape(AGGREGATOR);
    if (now === null) {
      unwatched.add(1);
      continue;
    }
    if (now.lag !== null) lag.add(now.lag);
    const buckets = between(data.before, now);
    if (total(buckets) > 0) for (const [q, gauge] of age) gauge.add(quantile(buckets, q / 100));
    const within = total(buckets) > 0 ? `, 95 % within ${quantile(buckets, 0.95).toFixed(2)} s` : '';
    console.log(`  ${String(second).padStart(4)} s of ${plan.span}: ${total(buckets)} events counted${within}; lag ${now.lag === null ? 'unknown' : now.lag}`);
  }
}

// --- afterwards

export function check() {
  if (exec.vu.idInTest === 1) console.log('  reading back what the users like and what is counted');
  settle();
  const good = new Set();
  // Each VU logs only the first of what may be thousands.
  let told = false;
  const say = (what) => {
    lost.add(1);
    if (!told) console.error(`lost: ${what}`);
    told = true;
  };
  const deadline = Date.now() + COUNTED_SECONDS * 1000;
  for (const [log, offset] of receipts) {
    const status = notCounted(API, `${log}-${offset}`, deadline);
    if (status === null) {
      good.add(log);
    } else {
      say(`receipt ${log}-${offset} says ${status}`);
    }
  }

  const users = new Map();
  for (const [pair, known] of pairs) {
    const [user, product] = pair.split(' ');
    if (!users.has(user)) users.set(user, new Map());
    users.get(user).set(product, known);
  }
  for (const [user, wanted] of users) {
    const found = readLikes(API, [...wanted.keys()], { [USER_HEADER]: user });
    for (const [product, { liked, requests, log }] of wanted) {
      checked.add(1);
      if (liked) {
        likers.add(1);
        uncounted.add(1, { product });
      }
      const likes = found.get(product);
      if (likes === undefined || likes.liked !== liked) {
        say(`${user} ${liked ? 'likes' : 'does not like'} ${product}, the API says ${JSON.stringify(likes)}`);
      } else if (good.has(log)) {
        accounted.add(requests);
        unaccounted.add(-requests);
      }
    }
  }
}

export function teardown() {
  // As a known user: a count for anonymous callers may be a second old.
  for (const [product, { count }] of readLikes(API, products, { [USER_HEADER]: 'reader' })) {
    productsRead.add(1);
    counted.add(count);
    uncounted.add(-count, { product });
  }
}

export function handleSummary(data) {
  return report(data, plan, __ENV);
}

// --- helpers

// Either one hot product or skewed: a quarter of the products gets half of the likes.
function anyProduct() {
  if (plan.hotPercent && percent(plan.hotPercent)) return products[0];
  const skew = plan.hotPercent ? Math.random() : Math.random() ** 2;
  return products[Math.floor(skew * plan.products)];
}

function pairOf({ user, product }) {
  return `${user} ${product}`;
}

// 38 characters, like the subject of an identity provider.
function userId(vu, user) {
  return `auth0|${RUN}-${vu}-${user}-`.padEnd(38, '0');
}

function percent(chance) {
  return Math.random() * 100 < chance;
}

function wrong(what) {
  wrongAnswers.add(1);
  console.error(`wrong answer: ${what}`);
}
