// What is shown: counts, the stream, and the user's own likes over both.

import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';
import type { View } from '../../src/client.js';
import { newWorld, Stream, sub, type World } from './world.js';

let world: World;
beforeEach(() => {
  world = newWorld();
});

const ids = (n: number, length = 0) => Array.from({ length: n }, (_, i) => `p${i}`.padEnd(length, 'x'));

test('reads of one moment share requests of at most 100 products', async () => {
  const client = world.client();
  world.counts.set('p249', 7);
  const all = ids(250);
  const read = Promise.all([client.counts(all.slice(0, 30)), client.counts(all.slice(20))]);
  await world.pass(100);
  const [, rest] = await read;
  assert.deepEqual(
    world.reads().map(({ path }) => path.split(',').length),
    [100, 100, 50],
  );
  assert.deepEqual([rest.length, rest[0]!.productId, rest.at(-1)!.count], [230, 'p20', 7]);
});

test('a request has at most 6,000 characters of ids', async () => {
  const client = world.client();
  client.counts(ids(100, 128));
  await world.pass(100);
  const lengths = world.reads().map(({ path }) => path.split('ids=')[1]!.length);
  assert.deepEqual(lengths.length, 3);
  assert.ok(Math.max(...lengths) <= 6000, `${lengths}`);
});

test('a failed read is repeated, and fails in the end', async () => {
  const client = world.client();
  world.answer = () => (world.calls.length < 3 ? { status: 503 } : undefined);
  const read = client.counts(['p1']);
  await world.pass(5000);
  assert.equal((await read)[0]!.count, 0);
  world.answer = () => ({ status: 503 });
  const failed = assert.rejects(client.counts(['p1']), { reason: 'gave-up', status: 503 });
  await world.pass(10 * 60_000);
  await failed;
});

for (const [name, body] of Object.entries({
  'no JSON': new SyntaxError('<html>'),
  null: null,
  'an object': {},
  'other products': [{ productId: 'p9', count: 1 }],
  'a count that is text': [{ productId: 'p1', count: '5' }],
  'a negative count': [{ productId: 'p1', count: -5 }],
  'a count beyond numbers': [{ productId: 'p1', count: Number.POSITIVE_INFINITY }],
  'items that are null': [null],
})) {
  test(`garbage (${name}) is not shown`, async () => {
    const client = world.client();
    world.answer = () => ({ body });
    const failed = assert.rejects(client.counts(['p1']), { reason: 'gave-up' });
    await world.pass(10 * 60_000);
    await failed;
    assert.equal(client.view('p1').count, null);
    assert.match(world.warnings.join(), /no counts from https:\/\/likes.example/);
  });
}

test('a count of 10^15 is shown exactly', async () => {
  const client = world.client();
  world.counts.set('p1', 1e15);
  client.counts(['p1']);
  await world.pass(100);
  assert.equal(client.view('p1').count, 1_000_000_000_000_000);
});

test('an answer that was overtaken by a later one is not shown', async () => {
  const client = world.client();
  world.answer = ({ path }) => {
    const delay = world.reads().length === 1 ? 5000 : 10;
    return { body: [{ productId: 'p1', count: delay, updatedAt: null }], delay, path } as never;
  };
  client.counts(['p1']);
  await world.pass(100);
  client.counts(['p1']);
  await world.pass(10_000);
  assert.equal(client.view('p1').count, 10);
});

test('watch shows others\u2019 likes as they come, by one stream', async () => {
  const client = world.client();
  const seen: View[] = [];
  client.watch(['p1'], (view) => seen.push(view));
  const stop = client.watch(['p2', 'p1'], () => {});
  await world.pass(300);
  assert.equal(world.streams.length, 1);
  assert.equal(world.streams[0]!.url, 'https://likes.example/v1/likes/stream?ids=p1,p2');
  world.streams[0]!.send({ productId: 'p1', count: 5, updatedAt: '2026-11-26T10:00:05Z' });
  assert.deepEqual(
    seen.map(({ count }) => count),
    [null, 0, 5],
  );
  stop();
  await world.pass(1000);
  assert.equal(world.streams.length, 1, 'the stream has what is wanted');
  client.watch(['p3'], () => {});
  await world.pass(1000);
  assert.deepEqual(world.streams[1]!.ids, ['p1', 'p3']);
  assert.equal(world.streams[0]!.readyState, Stream.CLOSED);
});

test('stream is reopened after refusals, with growing pauses', async () => {
  const client = world.client();
  client.watch(['p1'], () => {});
  await world.pass(300);
  const pauses: number[] = [];
  for (let i = 0; i < 5; i++) {
    const at = world.now;
    world.streams.at(-1)!.refuse();
    while (world.streams.length < i + 2) await world.pass(10);
    pauses.push(world.now - at);
  }
  for (const [i, pause] of pauses.entries())
    assert.ok(pause >= 250 * 2 ** i && pause <= 500 * 2 ** i + 10, `${pauses}`);
  world.streams.at(-1)!.send({ productId: 'p1', count: 5, updatedAt: null });
  const at = world.now;
  world.streams.at(-1)!.refuse();
  while (world.streams.length < 7) await world.pass(10);
  assert.ok(world.now - at <= 510, 'from the start after an event');
});

test('stream is closed while the page is hidden', async () => {
  const client = world.client();
  client.watch(['p1'], () => {});
  await world.pass(300);
  world.document.hidden = true;
  world.document.dispatchEvent(new Event('visibilitychange'));
  assert.equal(world.streams[0]!.readyState, Stream.CLOSED);
  client.watch(['p2'], () => {});
  await world.pass(60_000);
  assert.equal(world.streams.length, 1);
  world.document.hidden = false;
  world.document.dispatchEvent(new Event('visibilitychange'));
  assert.deepEqual(world.streams[1]!.ids, ['p1', 'p2']);
});

test('garbage in the stream is ignored', async () => {
  const client = world.client();
  client.watch(['p1'], () => {});
  await world.pass(300);
  for (const data of ['', '{', 'null', '[]', '{"productId":"p1"}', '{"productId":"p1","count":"x"}'])
    world.streams[0]!.send(data);
  assert.equal(client.view('p1').count, 0);
});

test('own like does not flicker while the stream and the reads differ', async () => {
  const client = world.client();
  world.counts.set('p1', 10);
  const seen: (number | null)[] = [];
  client.watch(['p1'], ({ count }) => {
    if (seen.at(-1) !== count) seen.push(count);
  });
  await world.pass(300);
  const stream = world.streams[0]!;
  const before = new Date(world.now).toISOString();
  world.counted = false;
  client.like('p1');
  await world.pass(100);
  stream.send({ productId: 'p1', count: 10, updatedAt: before }); // without the like
  stream.send({ productId: 'p1', count: 11, updatedAt: new Date(world.now).toISOString() }); // with it
  world.counted = true;
  await world.pass(2000);
  stream.send({ productId: 'p1', count: 10, updatedAt: before }); // behind
  assert.deepEqual(seen, [null, 10, 11]);
  stream.send({ productId: 'p1', count: 12, updatedAt: new Date(world.now + 1).toISOString() });
  assert.deepEqual(seen, [null, 10, 11, 12]);
});

test('a read that includes the like already does not count it twice', async () => {
  const client = world.client();
  world.counts.set('p1', 10);
  client.counts(['p1']);
  await world.pass(100);
  world.counted = false;
  client.like('p1');
  await world.pass(100);
  client.counts(['p1']);
  await world.pass(100);
  assert.deepEqual(client.view('p1'), { productId: 'p1', count: 11, liked: true, pending: false });
});

test('refused token does not hide the counts', async () => {
  const client = world.client({ token: () => 'x.bad.x' });
  world.counts.set('p1', 4);
  world.answer = ({ token }) => (token ? { status: 401 } : undefined);
  client.counts(['p1']);
  await world.pass(1000);
  assert.equal(client.view('p1').count, 4);
});

test('another user sees their own likes', async () => {
  const client = world.client();
  world.likers.set('p1', new Set(['ada']));
  world.counts.set('p1', 1);
  const seen: boolean[] = [];
  client.watch(['p1'], ({ liked }) => seen.push(liked));
  await world.pass(100);
  assert.equal(seen.at(-1), true);
  client.token = sub('bob');
  assert.equal(seen.at(-1), false);
  await world.pass(100);
  client.token = null;
  await world.pass(100);
  assert.equal(seen.at(-1), false);
  assert.deepEqual(
    world.reads().map(({ token }) => token),
    [sub('ada'), sub('bob'), undefined],
  );
});

test('an answer for the user before is not shown to the next', async () => {
  for (const [ada, bob] of [
    [5000, 1],
    [100, 5000],
  ] as const) {
    world = newWorld();
    const client = world.client();
    const liked: boolean[] = [];
    world.answer = ({ token }) => ({
      delay: token === sub('ada') ? ada : bob,
      body: [{ productId: 'p1', count: 1, updatedAt: null, liked: token === sub('ada') }],
    });
    client.watch(['p1'], (view) => liked.push(view.liked));
    await world.pass(100);
    client.token = sub('bob');
    await world.pass(10_000);
    assert.deepEqual(new Set(liked), new Set([false]));
  }
});

test('what could not be read is read again: online, and by and by', async () => {
  const client = world.client();
  world.online = false;
  client.watch(['p1'], () => {});
  await world.pass(1000);
  assert.equal(client.view('p1').count, null);
  world.online = true;
  world.window.dispatchEvent(new Event('online'));
  await world.pass(1000);
  assert.equal(client.view('p1').count, 0);

  world = newWorld();
  const other = world.client();
  world.answer = () => ({ status: 503 });
  other.watch(['p1'], () => {});
  await world.pass(70_000);
  world.answer = () => undefined;
  await world.pass(90_000);
  assert.equal(other.view('p1').count, 0);
});

test('seeded values are shown until the first read', async () => {
  const client = world.client();
  client.seed('p1', 41, true);
  assert.deepEqual(client.view('p1'), { productId: 'p1', count: 41, liked: true, pending: false });
  world.counts.set('p1', 42);
  client.watch(['p1'], () => {});
  await world.pass(100);
  client.seed('p1', 41, true);
  assert.deepEqual(client.view('p1'), { productId: 'p1', count: 42, liked: false, pending: false });
});

test('my likes have what is not counted yet', async () => {
  const client = world.client();
  world.answer = ({ path }) =>
    path.startsWith('/v1/me')
      ? {
          body: {
            items: [
              { productId: 'p1', likedAt: 'x' },
              { productId: 'p2', likedAt: 'x' },
            ],
            next: 'n',
          },
        }
      : undefined;
  world.counted = false;
  client.unlike('p1');
  client.like('p3');
  const page = client.myLikes({ limit: 2 });
  await world.pass(100);
  assert.deepEqual(
    (await page).items.map(({ productId }) => productId),
    ['p3', 'p2'],
  );
  const next = client.myLikes({ cursor: 'a/b' });
  await world.pass(100);
  assert.deepEqual((await next).items.length, 1);
  assert.deepEqual(
    world.calls.filter(({ path }) => path.startsWith('/v1/me')).map(({ path }) => path),
    ['/v1/me/likes?limit=2', '/v1/me/likes?limit=50&cursor=a%2Fb'],
  );
});

test('top products are read by window', async () => {
  const client = world.client({ token: null });
  world.answer = () => ({ body: { window: '1h', items: [{ productId: 'p1', count: 3 }] } });
  const top = client.top({ window: '1h', limit: 5 });
  await world.pass(100);
  assert.deepEqual(await top, [{ productId: 'p1', count: 3 }]);
  assert.equal(world.calls[0]!.path, '/v1/likes/top?window=1h&limit=5');
});

test('closed client keeps no stream and hears no event', async () => {
  const client = world.client();
  client.watch(['p1'], () => {});
  await world.pass(300);
  client.close();
  assert.equal(world.streams[0]!.readyState, Stream.CLOSED);
  world.window.dispatchEvent(new Event('online'));
  await world.pass(60_000);
  assert.equal(world.streams.length, 1);
});
