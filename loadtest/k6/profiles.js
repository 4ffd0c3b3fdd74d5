// The profiles, the environment variables that change them (run.sh lists them), and the thresholds
// that fail a run.

// An open model: a slow server gets no relief. `shape` is a list of [part of the rate, part of the
// duration], each reached in a straight line from the one before; without it the rate is constant.
// Limits are in milliseconds and seconds, for a machine of two cores that runs everything, this
// client included: they find what is broken, not what is a little slower.
const PROFILES = {
  smoke: {
    about: 'half a minute of everything, for CI',
    rate: 100, seconds: 30, vus: 40, usersPerVu: 25, products: 20, likesPercent: 70,
    readRate: 20, readVus: 10,
    limits: { p95: 2000, p99: 5000, readP95: 2000, countedP95: 15 },
  },
  burst: {
    about: 'a like bomb: nine tenths of the traffic on one product',
    rate: 1000, seconds: 60, vus: 200, usersPerVu: 100, products: 20, likesPercent: 90, hotPercent: 90,
    readRate: 0, readVus: 0,
    shape: [[0.05, 0], [0.05, 0.1], [1, 0.1], [1, 0.6], [0.05, 0.1], [0.05, 0.1]],
    limits: { p95: 1000, p99: 3000, countedP95: 10 },
  },
  steady: {
    about: 'a busy hour, five minutes of it',
    rate: 300, seconds: 300, vus: 100, usersPerVu: 50, products: 50, likesPercent: 70,
    readRate: 30, readVus: 10,
    limits: { p95: 300, p99: 1500, readP95: 300, countedP95: 3 },
  },
  soak: {
    about: 'two hours, to find slow growth',
    rate: 100, seconds: 7200, vus: 60, usersPerVu: 100, products: 100, likesPercent: 60,
    readRate: 20, readVus: 10,
    limits: { p95: 300, p99: 1500, readP95: 300, countedP95: 3 },
  },
  stampede: {
    about: 'a rising number of reads beside writes',
    rate: 100, seconds: 60, vus: 60, usersPerVu: 50, products: 20, likesPercent: 70, hotPercent: 50,
    readRate: 800, readVus: 150, readShape: [[0.05, 0], [0.05, 0.1], [1, 0.5], [1, 0.4]],
    limits: { p95: 1000, p99: 3000, readP95: 1000, countedP95: 10 },
  },
};

// The maximum duration of a request, retries included.
const GRACE_SECONDS = 8;
const CHECK_SECONDS = 180;
// The part of the planned requests that may go unsent because all VUs wait: with more, the rate is
// not the one that the report names.
const UNSENT = 0.02;
const RETRIED = 0.02;

export function settings(env) {
  const name = env.PROFILE || 'burst';
  const profile = PROFILES[name];
  if (!profile) throw new Error(`PROFILE=${name}: expected one of ${Object.keys(PROFILES).join(', ')}`);
  const chosen = (variable, fallback, least, most) => {
    if (!env[variable]) return fallback;
    const value = Number(env[variable]);
    if (Number.isInteger(value) && value >= least && value <= most) return value;
    throw new Error(`${variable}=${env[variable]}: expected a whole number from ${least} to ${most}`);
  };
  const plan = {
    ...profile,
    name,
    rate: chosen('RATE', profile.rate, 1, 1e6),
    seconds: chosen('DURATION', profile.seconds, 5, 7 * 86400),
    vus: chosen('VUS', profile.vus, 1, 10000),
    usersPerVu: chosen('USERS_PER_VU', profile.usersPerVu, 1, 10000),
    products: chosen('PRODUCTS', profile.products, 1, 100),
    readRate: chosen('READ_RATE', profile.readRate, 0, 1e6),
    // Below the 5 % at which the alert LikesDuplicates fires.
    repeatsPercent: 2,
  };
  plan.readVus = plan.readRate === 0 ? 0 : profile.readVus || 50;
  plan.span = plan.seconds + GRACE_SECONDS;
  return plan;
}

// --- scenarios

export function scenarios(plan) {
  const all = {
    like: { exec: 'like', ...arrivals(plan, plan.rate, plan.shape, plan.vus) },
    watch: {
      executor: 'constant-vus',
      exec: 'watch',
      vus: 1,
      duration: `${plan.span}s`,
      gracefulStop: '0s',
    },
    // All VUs, so that those with users are certainly among them.
    check: {
      executor: 'per-vu-iterations',
      exec: 'check',
      vus: plan.vus + plan.readVus + 1,
      iterations: 1,
      startTime: `${plan.span + 1}s`,
      maxDuration: `${CHECK_SECONDS}s`,
    },
  };
  if (plan.readRate > 0) all.read = { exec: 'read', ...arrivals(plan, plan.readRate, plan.readShape, plan.readVus) };
  return all;
}

function arrivals({ seconds }, rate, shape, vus) {
  const common = { preAllocatedVUs: vus, maxVUs: vus, gracefulStop: `${GRACE_SECONDS}s` };
  if (!shape) return { executor: 'constant-arrival-rate', rate, duration: `${seconds}s`, ...common };
  const stages = shape.map(([part, time]) => ({
    target: Math.max(1, Math.round(part * rate)),
    duration: `${Math.round(time * seconds * 1000)}ms`,
  }));
  return { executor: 'ramping-arrival-rate', startRate: stages[0].target, stages: stages.slice(1), ...common };
}

// The planned rate at a second of the run.
function plannedRate({ seconds }, rate, shape, second) {
  if (second >= seconds) return 0;
  if (!shape) return rate;
  let from = 0;
  for (let i = 1; i < shape.length; i += 1) {
    const to = from + shape[i][1] * seconds;
    if (second < to) {
      const [before, after] = [shape[i - 1][0], shape[i][0]];
      return rate * (before + ((after - before) * (second - from)) / (to - from));
    }
    from = to;
  }
  return rate * shape[shape.length - 1][0];
}

function planned(plan, rate, shape) {
  let requests = 0;
  for (let second = 0; second < plan.seconds; second += 1) requests += plannedRate(plan, rate, shape, second + 0.5);
  return requests;
}

// --- thresholds

export function thresholds(plan, products) {
  const { limits } = plan;
  const wanted = planned(plan, plan.rate, plan.shape) + planned(plan, plan.readRate, plan.readShape);
  const rules = {
    // Exactness, the same in every profile.
    acknowledged: ['count>0'],
    unaccounted: ['count==0'],
    lost: ['count==0'],
    refused: ['count==0'],
    wrong_answers: ['count==0'],
    products_read: [`count==${products.length}`],
    // The run was the one of its profile.
    dropped_iterations: [`count<=${Math.ceil(wanted * UNSENT)}`],
    retries: [`rate<${RETRIED}`],
    unwatched: [`count<=${Math.ceil(plan.span * 0.02)}`],
    // Speed.
    latency: [`p(95)<${limits.p95}`, `p(99)<${limits.p99}`],
    counted_p95: [`value<${limits.countedP95}`],
  };
  if (plan.readRate > 0) {
    rules.read_latency = [`p(95)<${limits.readP95 || limits.p95}`];
    rules.failed_reads = ['rate<0.01'];
  }
  for (const product of products) rules[`uncounted{product:${product}}`] = ['count==0'];
  return rules;
}
