// How a click is sent: keys, order, repeats, and their end.

import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import { beforeEach, test } from 'node:test';
import type { LikeEventDetail } from '../../src/client.js';
import { newWorld, sub, type World } from './world.js';

let world: World;
beforeEach(() => {
  world = newWorld();
});

function events(client: EventTarget): string[] {
  const seen: string[] = [];
  for (const type of ['like', 'unlike', 'counted', 'error']) {
    client.addEventListener(type, (event) => {
      const { productId, error } = (event as CustomEvent<LikeEventDetail>).detail;
      seen.push([type, productId, error?.reason].filter(Boolean).join(' '));
    });
  }
  return seen;
}

test('like is sent once, acknowledged and counted', async () => {
  const client = world.client();
  const seen = events(client);
  let accepted: unknown;
  client.like('p1').then((answer) => (accepted = answer));
  assert.deepEqual([client.view('p1').liked, client.view('p1').pending], [true, true], 'shown at once');
  assert.equal(world.items.size, 1, 'stored before it is sent');
  assert.equal(world.calls.length, 0);
  await world.pass();
  assert.deepEqual(accepted, { productId: 'p1', liked: true, receipt: '1-0-1' });
  await world.pass(1000);
  const [put] = world.writes();
  assert.equal(`${put!.method} ${put!.path}`, 'PUT /v1/products/p1/like');
  assert.match(put!.key!, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  assert.equal(Number.parseInt(put!.key!.replace('-', '').slice(0, 12), 16), put!.at, 'its time leads');
  assert.equal(put!.token, sub('ada'));
  assert.equal(put!.keepalive, true);
  assert.equal(world.calls.find(({ path }) => path.startsWith('/v1/receipts/'))?.prefer, 'wait=10');
  assert.deepEqual(seen, ['like p1', 'counted p1']);
  assert.deepEqual(client.view('p1'), { productId: 'p1', count: 1, liked: true, pending: false });
  assert.equal(world.writes().length, 1);
  assert.equal(world.items.size, 0, 'removed once it is counted');
});

test('unlike is a DELETE with a key of its own', async () => {
  const client = world.client();
  await Promise.all([client.like('p1'), world.pass()]);
  await Promise.all([client.unlike('p1'), world.pass()]);
  assert.deepEqual(
    world.writes().map(({ method }) => method),
    ['PUT', 'DELETE'],
  );
  assert.notEqual(world.writes()[0]!.key, world.writes()[1]!.key);
});

for (const [name, fail] of Object.entries({
  'status 503': () => ({ status: 503 }),
  'status 504': () => ({ status: 504 }),
  'status 429': () => ({ status: 429 }),
  'a lost connection': () => {
    throw new TypeError('Failed to fetch');
  },
  'an answer that is not JSON': () => ({ status: 202, body: new SyntaxError('<html>') }),
  'an answer without a receipt': () => ({ status: 202, body: { receipt: 7 } }),
})) {
  test(`${name}: repeated with the same key and growing pauses`, async () => {
    const client = world.client();
    const seen = events(client);
    world.answer = ({ method }) => (method === 'PUT' && world.writes().length < 5 ? fail() : undefined);
    client.like('p1');
    await world.pass(20_000);
    const puts = world.writes();
    assert.equal(puts.length, 5);
    assert.equal(new Set(puts.map(({ key }) => key)).size, 1);
    const pauses = puts.slice(1).map(({ at }, i) => at - puts[i]!.at);
    for (const [i, pause] of pauses.entries()) {
      assert.ok(pause >= 250 * 2 ** i && pause <= 500 * 2 ** i, `pauses ${pauses}`);
    }
    assert.deepEqual(seen, ['like p1', 'counted p1']);
  });
}

test('repeats differ between browsers', async () => {
  const pauses = new Set<number>();
  for (let i = 0; i < 5; i++) {
    world = newWorld();
    const client = world.client();
    world.answer = ({ method }) => (method === 'PUT' ? { status: 503 } : undefined);
    client.like('p1');
    await world.pass(600);
    pauses.add(world.writes()[1]!.at - world.writes()[0]!.at);
  }
  assert.ok(pauses.size > 1);
});

test('repeats end: the button goes back', async () => {
  const client = world.client();
  const seen = events(client);
  world.answer = ({ method }) => (method === 'PUT' ? { status: 503, body: { detail: 'Kafka' } } : undefined);
  const failed = assert.rejects(client.like('p1'), { reason: 'gave-up', status: 503 });
  await world.pass(10 * 60_000);
  await failed;
  assert.equal(world.writes().length, 8);
  assert.deepEqual(seen, ['error p1 gave-up']);
  assert.equal(client.view('p1').liked, false);
  assert.equal(world.items.size, 0);
  assert.equal(world.reads().length, 1, 'what the service has is read');
  assert.match(world.warnings.join(), /503 Kafka/);
});

test('what may have been counted is shown after repeats end', async () => {
  const client = world.client();
  world.answer = ({ method }) => {
    if (method !== 'PUT') return undefined;
    world.counts.set('p1', 1);
    world.likers.set('p1', new Set(['ada']));
    return { status: 504 };
  };
  client.like('p1');
  await world.pass(10 * 60_000);
  assert.deepEqual(client.view('p1'), { productId: 'p1', count: 1, liked: true, pending: false });
});

test('Retry-After is honoured', async () => {
  const client = world.client();
  world.answer = ({ method }) =>
    method === 'PUT' && world.writes().length === 1 ? { status: 429, retryAfter: 7 } : undefined;
  client.like('p1');
  await world.pass(6_900);
  assert.equal(world.writes().length, 1);
  client.unlike('p1'); // does not jump the queue either
  await world.pass(50);
  assert.equal(world.writes().length, 1);
  await world.pass(1000);
  assert.deepEqual(
    world.writes().map(({ method }) => method),
    ['PUT', 'DELETE'],
  );
});

test('Retry-After beyond a minute is a failure at once', async () => {
  const client = world.client();
  world.answer = () => ({ status: 429, retryAfter: 3600 });
  const failed = assert.rejects(client.like('p1'), { reason: 'gave-up', status: 429 });
  await world.pass();
  await failed;
  assert.equal(client.view('p1').liked, false);
});

for (const status of [400, 403, 404, 413]) {
  test(`status ${status} is final`, async () => {
    const client = world.client();
    const seen = events(client);
    world.answer = ({ method }) => (method === 'PUT' ? { status } : undefined);
    const failed = assert.rejects(client.like('p1'), { reason: 'refused', status });
    await world.pass(60_000);
    await failed;
    assert.equal(world.writes().length, 1);
    assert.deepEqual(seen, ['error p1 refused']);
  });
}

test('newer desired state cancels the repeats of the older one', async () => {
  const client = world.client();
  world.answer = ({ method }) => (method === 'PUT' ? { status: 503 } : undefined);
  const superseded = assert.rejects(client.like('p1'), { reason: 'superseded' });
  await world.pass(4_000);
  const before = world.writes().length;
  client.unlike('p1');
  await world.pass();
  await superseded;
  await world.pass(60_000);
  const after = world.writes().slice(before);
  assert.deepEqual(
    after.map(({ method, at }) => [method, at <= world.now - 60_000]),
    [['DELETE', true]],
    'sent at once, and the like no more',
  );
});

for (const locks of [true, false])
  test(`requests of one product never overlap, ${locks ? 'with' : 'without'} Web Locks`, async () => {
    world.locks = locks;
    const client = world.client();
    let open = 0;
    world.counted = false;
    const most: number[] = [];
    world.answer = ({ method }) => {
      if (method === 'GET') return undefined;
      most.push(++open);
      setTimeout(() => open--, 999);
      return { status: 202, body: { receipt: '1-0-1' }, delay: 1000 };
    };
    for (let i = 0; i < 7; i++) {
      client[i % 2 ? 'unlike' : 'like']('p1');
      await world.pass(100);
    }
    await world.pass(10_000);
    assert.equal(Math.max(...most), 1);
    const sent = world.writes().map(({ method }) => method);
    assert.deepEqual([sent[0], sent.at(-1), sent.length], ['PUT', 'PUT', 2], 'what was overtaken is not sent');
    assert.equal(client.view('p1').liked, true);
  });

test('time limit ends a request without an answer', async () => {
  const client = world.client();
  const fetched = globalThis.fetch;
  let aborted = false;
  globalThis.fetch = ((url: string, options: RequestInit) => {
    if (aborted || options.method === 'GET') return fetched(url, options);
    return new Promise((_, reject) =>
      options.signal!.addEventListener('abort', () => {
        aborted = true;
        reject(new Error('aborted'));
      }),
    );
  }) as typeof fetch;
  client.like('p1');
  await world.pass(14_000);
  assert.equal(aborted, false);
  await world.pass(2_000);
  assert.equal(aborted, true);
  assert.equal(world.writes().length, 1);
});

test('offline it waits, and is sent when the connection is back', async () => {
  const client = world.client();
  const seen = events(client);
  world.online = false;
  client.like('p1');
  await world.pass(3600_000);
  assert.equal(world.writes().length, 0);
  assert.equal(client.view('p1').liked, true);
  world.online = true;
  world.window.dispatchEvent(new Event('online'));
  await world.pass(1000);
  assert.deepEqual(seen, ['like p1', 'counted p1']);
});

test('a page that is left sends what waits for its next attempt', async () => {
  const client = world.client();
  world.answer = ({ method }) => (method === 'PUT' && world.writes().length < 4 ? { status: 503 } : undefined);
  client.like('p1');
  await world.pass(100);
  world.window.dispatchEvent(new Event('pagehide'));
  assert.equal(world.writes().length, 2);
  assert.equal(world.writes()[0]!.key, world.writes()[1]!.key);
  assert.equal(world.writes()[1]!.keepalive, true);
});

test('a page that is left keeps Retry-After, and what is under way', async () => {
  const client = world.client();
  world.answer = ({ path }) =>
    path.includes('p1') ? { status: 503, retryAfter: 5 } : { status: 202, body: {}, delay: 5000 };
  client.like('p1');
  client.like('p2');
  await world.pass(100);
  world.window.dispatchEvent(new Event('pagehide'));
  assert.equal(world.writes().length, 2);
});

for (const status of ['dead_letter', 'lost']) {
  test(`receipt that says ${status} is a failure`, async () => {
    const client = world.client();
    const seen = events(client);
    world.answer = ({ path }) => (path.startsWith('/v1/receipts') ? { body: { status } } : undefined);
    client.like('p1');
    world.counts.clear();
    await world.pass(60_000);
    assert.deepEqual(seen, ['like p1', 'error p1 refused']);
  });
}

test('receipt that stays pending is asked with growing pauses', async () => {
  const client = world.client();
  world.counted = false;
  client.like('p1');
  await world.pass(60_000);
  const asked = world.calls.filter(({ path }) => path.startsWith('/v1/receipts'));
  assert.ok(asked.length > 3 && asked.length < 12, `${asked.length} in a minute`);
  assert.deepEqual([client.view('p1').liked, client.view('p1').pending], [true, false]);
  assert.equal(world.items.size, 1);
});

test('without a token nothing is sent', async () => {
  const client = world.client({ token: null });
  assert.equal(client.anonymous, true);
  await assert.rejects(client.like('p1'), { reason: 'auth' });
  await world.pass(1000);
  assert.equal(world.writes().length, 0);
  assert.equal(client.view('p1').liked, false);
});

test('token function is asked again after a 401', async () => {
  const asked: boolean[] = [];
  const client = world.client({
    token: async (refused) => {
      asked.push(refused);
      return sub(refused ? 'ada' : 'ada') + (refused ? '-new' : '-old');
    },
  });
  world.answer = ({ token, method }) => (token?.endsWith('-old') && method === 'PUT' ? { status: 401 } : undefined);
  client.like('p1');
  client.like('p2');
  await world.pass(1000);
  assert.deepEqual(asked, [false, true], 'once for both');
  assert.equal(
    new Set(
      world
        .writes()
        .filter(({ path }) => path.includes('p1'))
        .map(({ key }) => key),
    ).size,
    1,
  );
  assert.equal(world.likers.get('p1')?.has('ada'), true);
});

test('token that stays refused is a failure', async () => {
  const client = world.client({ token: () => sub('ada') });
  const seen = events(client);
  world.answer = ({ method }) => (method === 'PUT' ? { status: 401, body: { detail: 'expired' } } : undefined);
  await world.pass();
  const failed = assert.rejects(client.like('p1'), { reason: 'auth', status: 401 });
  await world.pass(1000);
  await failed;
  assert.deepEqual(seen, ['error p1 auth']);
  assert.equal(client.view('p1').liked, false);
});

test('function that has no token is asked again by the next click', async () => {
  let signedIn = false;
  const client = world.client({ token: () => (signedIn ? sub('ada') : null) });
  client.counts(['p1']);
  await world.pass(100);
  await assert.rejects(client.like('p1'), { reason: 'auth' });
  signedIn = true;
  await assert.rejects(client.like('p1'), { reason: 'auth' });
  await world.pass();
  await Promise.all([client.like('p1'), world.pass()]);
  assert.equal(world.likers.get('p1')?.has('ada'), true);
});

test('like of one user is never sent as another', async () => {
  const client = world.client();
  world.online = false;
  const left = assert.rejects(client.like('p1'), { reason: 'superseded' });
  await world.pass();
  client.token = sub('bob');
  await left;
  assert.equal(client.view('p1').liked, false);
  world.online = true;
  world.window.dispatchEvent(new Event('online'));
  await world.pass(60_000);
  assert.equal(world.writes().length, 0);
  assert.equal(world.items.size, 1, 'it waits for them');
  client.token = sub('ada');
  await world.pass(1000);
  assert.deepEqual([...world.likers.get('p1')!], ['ada']);
});

test('token function that returns another user sends nothing of the first', async () => {
  const client = world.client({ token: (refused) => sub(refused ? 'bob' : 'ada') });
  await world.pass();
  world.answer = ({ method, token }) => (method === 'PUT' && token === sub('ada') ? { status: 401 } : undefined);
  client.like('p1');
  await world.pass(60_000);
  assert.deepEqual(
    world.writes().map(({ token }) => token),
    [sub('ada')],
  );
});

test('a like of a refused token is not sent as the user of the cookie', async () => {
  const client = world.client({ credentials: 'include' });
  world.answer = ({ method, token }) => (method === 'PUT' && token ? { status: 401 } : undefined);
  client.like('p1');
  await world.pass(60_000);
  assert.deepEqual(
    world.writes().map(({ token }) => token),
    [sub('ada')],
  );
});

test('opaque tokens: another one is another user', async () => {
  const client = world.client({ token: 'opaque-1' });
  world.answer = () => ({ status: 503 });
  client.like('p1');
  await world.pass();
  client.token = 'opaque-2';
  await world.pass(60_000);
  assert.deepEqual([...new Set(world.writes().map(({ token }) => token))], ['opaque-1']);
  assert.equal(world.items.size, 0, 'nor is it stored: whose would it be?');
});

test('bad product ids are refused with the rule', async () => {
  const client = world.client();
  for (const id of [null as never, '', '.', '..', 'a b', 'a/b', 'ä', 'x'.repeat(129)]) {
    assert.throws(() => client.like(id), /product id .* must match/, id);
    await assert.rejects(client.counts([id]), TypeError);
    assert.throws(() => client.watch([id], () => {}), TypeError);
  }
  for (const id of ['a', 'A.b_c~d:e-f', '...', 'x'.repeat(128)]) client.view(id);
  assert.equal(world.calls.length, 0);
});

test('clock before 1970 still gives a key', async () => {
  world.now = -5;
  const client = world.client();
  client.like('p1');
  await world.pass(100);
  assert.match(world.writes()[0]!.key!, /^[\w-]{20,40}$/);
});

test('pauses leave no listener behind', async () => {
  const client = world.client();
  const before = getEventListeners(world.window, 'online').length;
  world.answer = ({ method }) => (method === 'PUT' && world.writes().length < 5 ? { status: 503 } : undefined);
  client.like('p1');
  await world.pass(60_000);
  assert.equal(getEventListeners(world.window, 'online').length, before);
});
