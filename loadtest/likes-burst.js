// A burst of likes over HTTP, and the proof that every acknowledged one is counted.
//
// Many users like and unlike few products, at a rate that doesn't wait for the answers (an open
// model: a slow server gets no relief). Some requests are sent again with their Idempotency-Key,
// also after a newer wish: that must change nothing. Whatever isn't acknowledged by a 202 is sent
// again with the same key until it is.
//
// Each user belongs to one VU, which remembers what was acknowledged, since VUs share nothing.
// Afterwards each VU waits until its last receipts are counted and reads back what its users
// like: `lost` counts the differences. For the counts each VU adds to `uncounted`, per product,
// its users who like it, and teardown takes off what the API counts: 0 remains, or the run fails
// with exit status 99. Products are new in every run. Needs a stack with DEDUP=history.
//
// Started by run.sh, which says what the settings are.
import http from 'k6/http';
import exec from 'k6/execution';
import { sleep } from 'k6';
import { Counter, Trend } from 'k6/metrics';

const API = __ENV.LIKE_API_URL;
const RUN = __ENV.RUN;
const RATE = number('RATE', 1, 1e6);
const SECONDS = number('SECONDS', 1, 86400);
const VUS = number('VUS', 1, 10000);
const PRODUCTS = number('PRODUCTS', 1, 100);
const USERS_PER_VU = number('USERS_PER_VU', 1, 10000);
const USER_HEADER = __ENV.AUTH_USER_HEADER || 'X-User-Id';

// Of 100 requests: likes, the rest are unlikes; and repeats of an acknowledged request.
const LIKES_PERCENT = 70;
const REPEATS_PERCENT = 5;
// What a VU may repeat: one of its last requests.
const REPEATABLE = 20;
// How long a request may take to its end, retries included, once the burst is over.
const GRACE_SECONDS = 8;
const CHECK_SECONDS = 120;
// After that long something is wrong: a batch takes a fraction of a second.
const COUNTED_SECONDS = 60;

const products = Array.from({ length: PRODUCTS }, (_, i) => `burst-${RUN}-${i}`);

const acknowledged = new Counter('acknowledged'); // wishes, each once
const repeated = new Counter('repeated');
const retried = new Counter('retried');
const refused = new Counter('refused'); // answers that no retry makes better
const latency = new Trend('latency', true); // of the requests that were acknowledged
const checked = new Counter('checked'); // (user, product) pairs read back
const lost = new Counter('lost'); // pairs that are not as acknowledged
const likers = new Counter('likers'); // users who like a product, by what was acknowledged
const counted = new Counter('counted'); // the same, by what the API counts
const uncounted = new Counter('uncounted'); // their difference, per product
const productsRead = new Counter('products_read');

const perProduct = {};
for (const product of products) perProduct[`uncounted{product:${product}}`] = ['count==0'];

export const options = {
  scenarios: {
    burst: {
      executor: 'constant-arrival-rate',
      exec: 'burst',
      rate: RATE,
      duration: `${SECONDS}s`,
      preAllocatedVUs: VUS,
      maxVUs: VUS,
      gracefulStop: `${GRACE_SECONDS}s`,
    },
    // As many VUs as in the burst, when all of those are free again: the same ones.
    check: {
      executor: 'per-vu-iterations',
      exec: 'check',
      vus: VUS,
      iterations: 1,
      startTime: `${SECONDS + GRACE_SECONDS + 1}s`,
      maxDuration: `${CHECK_SECONDS}s`,
    },
  },
  thresholds: Object.assign(
    {
      acknowledged: ['count>0'],
      refused: ['count==0'],
      checked: ['count>0'],
      lost: ['count==0'],
      products_read: [`count==${PRODUCTS}`],
    },
    perProduct,
  ),
  summaryTrendStats: ['min', 'med', 'p(95)', 'p(99)', 'max'],
  teardownTimeout: '60s',
};

// --- what a VU remembers

const wishes = new Map(); // "user product" -> liked, as acknowledged last
const recent = []; // acknowledged requests that may be repeated
const receipts = new Map(); // "sequence-partition" -> highest offset
let open = null; // sent, and not acknowledged yet
let sent = 0;

export function burst() {
  settle(); // what an interrupted iteration has left
  if (recent.length > 0 && percent(REPEATS_PERCENT)) {
    repeated.add(1);
    send(recent[Math.floor(Math.random() * recent.length)]);
    return;
  }
  const vu = exec.vu.idInTest;
  sent += 1;
  open = {
    user: userId(vu, Math.floor(Math.random() * USERS_PER_VU)),
    // Skewed: a quarter of the products gets half of the wishes.
    product: products[Math.floor(Math.random() ** 2 * PRODUCTS)],
    liked: percent(LIKES_PERCENT),
    key: `${RUN}-${vu}-${sent}`,
  };
  settle();
}

// Sends the open request until it is acknowledged: only then is it known what holds.
function settle() {
  if (open === null) return;
  if (send(open)) {
    wishes.set(`${open.user} ${open.product}`, open.liked);
    if (recent.push(open) > REPEATABLE) recent.shift();
    acknowledged.add(1);
  } else {
    wishes.delete(`${open.user} ${open.product}`); // refused: the run fails by that
  }
  open = null;
}

// True once acknowledged, false if the answer is one that stays.
function send({ user, product, liked, key }) {
  const url = `${API}/v1/products/${product}/like`;
  for (;;) {
    const response = http.request(liked ? 'PUT' : 'DELETE', url, null, {
      headers: { [USER_HEADER]: user, 'Idempotency-Key': key },
      tags: { name: 'wish' },
      timeout: '10s',
    });
    if (response.status === 202) {
      latency.add(response.timings.duration);
      const [, sequence, partition, offset] = response.json('receipt').match(/^(\d+)-(\d+)-(\d+)$/);
      const log = `${sequence}-${partition}`;
      receipts.set(log, Math.max(Number(offset), receipts.has(log) ? receipts.get(log) : -1));
      return true;
    }
    // No answer, shed, not written, perhaps written: the same key makes all of them safe to repeat.
    if (![0, 429, 502, 503, 504].includes(response.status)) {
      refused.add(1);
      console.error(`refused: ${response.status} ${response.body}`);
      return false;
    }
    retried.add(1);
    sleep(Math.min(Number(response.headers['Retry-After']) || 0.2, 5));
  }
}

// --- afterwards

export function check() {
  settle();
  for (const [log, offset] of receipts) awaitCounted(`${log}-${offset}`);

  const users = new Map();
  for (const [pair, liked] of wishes) {
    const [user, product] = pair.split(' ');
    if (!users.has(user)) users.set(user, new Map());
    users.get(user).set(product, liked);
  }
  for (const [user, wanted] of users) {
    const found = read(user);
    for (const [product, liked] of wanted) {
      checked.add(1);
      if (liked) {
        likers.add(1);
        uncounted.add(1, { product });
      }
      const likes = found.get(product);
      if (likes === undefined || likes.liked !== liked) {
        lost.add(1);
        console.error(`lost: ${user} ${liked ? 'likes' : 'does not like'} ${product}, the API says ${JSON.stringify(likes)}`);
      }
    }
  }
}

export function teardown() {
  for (const [product, { count }] of read(null)) {
    productsRead.add(1);
    counted.add(count);
    uncounted.add(-count, { product });
  }
}

// A receipt is counted when all before it in its partition are.
function awaitCounted(receipt) {
  const deadline = Date.now() + COUNTED_SECONDS * 1000;
  for (;;) {
    const response = http.get(`${API}/v1/receipts/${receipt}`, { tags: { name: 'receipt' }, timeout: '10s' });
    const status = response.status === 200 ? response.json('status') : null;
    if (status === 'counted') return;
    if (status === 'dead_letter' || status === 'lost' || Date.now() > deadline) {
      lost.add(1);
      console.error(`lost: receipt ${receipt} says ${response.status === 200 ? status : response.body}`);
      return;
    }
    sleep(0.2);
  }
}

// What the API says of all products, for a user or for nobody.
function read(user) {
  const params = { tags: { name: 'read' }, timeout: '10s', headers: user === null ? {} : { [USER_HEADER]: user } };
  for (;;) {
    const response = http.get(`${API}/v1/likes?ids=${products.join(',')}`, params);
    if (response.status === 200) return new Map(response.json().map((likes) => [likes.productId, likes]));
    console.warn(`reading: ${response.status}, again`);
    sleep(1);
  }
}

export function handleSummary(data) {
  const count = (name) => (data.metrics[name] ? data.metrics[name].values.count : 0);
  const took = data.metrics.latency ? data.metrics.latency.values : {};
  const ms = (stat) => (took[stat] === undefined ? '-' : `${took[stat].toFixed(1)} ms`);
  const failed = [];
  for (const [metric, { thresholds, values }] of Object.entries(data.metrics)) {
    for (const [rule, { ok }] of Object.entries(thresholds || {})) {
      if (!ok) failed.push(`  FAILED: ${metric} ${rule}, it is ${values.count}`);
    }
  }
  const [wanted, got] = [count('likers'), count('counted')];
  const text = [
    '',
    `burst of ${SECONDS} s at ${RATE}/s: ${VUS} VUs, ${VUS * USERS_PER_VU} users, ${PRODUCTS} products`,
    `  acknowledged      ${count('acknowledged')} wishes, ${(count('acknowledged') / SECONDS).toFixed(0)}/s`,
    `  repeated          ${count('repeated')}, with their keys`,
    `  retried           ${count('retried')}, refused ${count('refused')}, not sent for want of VUs ${count('dropped_iterations')}`,
    `  latency           median ${ms('med')}, 95 % ${ms('p(95)')}, 99 % ${ms('p(99)')}, longest ${ms('max')}`,
    `  read back         ${count('checked')} (user, product) pairs, ${count('lost')} not as acknowledged`,
    count('checked') === 0
      ? '  likes             not compared'
      : `  likes             acknowledged ${wanted} ${wanted === got ? '=' : 'BUT'} counted ${got}`,
    ...failed,
    failed.length === 0 ? 'every acknowledged wish is counted' : 'FAILED',
    '',
    '',
  ].join('\n');
  const summary = { stdout: text };
  if (__ENV.OUT) summary[__ENV.OUT] = JSON.stringify(data, null, 2);
  return summary;
}

// 38 characters, as an identity provider names its users.
function userId(vu, user) {
  return `auth0|${RUN}-${vu}-${user}-`.padEnd(38, '0');
}

function percent(chance) {
  return Math.random() * 100 < chance;
}

function number(name, least, most) {
  const value = Number(__ENV[name]);
  if (!Number.isInteger(value) || value < least || value > most) {
    throw new Error(`${name}=${__ENV[name]}: expected a whole number from ${least} to ${most}`);
  }
  return value;
}
