// What survives a reload, and what other tabs share.

import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';
import type { LikeClient, LikeEventDetail } from '../../src/client.js';
import { newWorld, sub, type World } from './world.js';

let world: World;
beforeEach(() => {
  world = newWorld();
});

const errors = (client: LikeClient): string[] => {
  const seen: string[] = [];
  client.addEventListener('error', (event) => {
    const { productId, error } = (event as CustomEvent<LikeEventDetail>).detail;
    seen.push(`${productId} ${error?.reason}`);
  });
  return seen;
};

/** An item as an earlier page has left it. */
function left(productId: string, { user = 'ada', at = world.now, ...more } = {}): void {
  const desired = { user, productId, liked: true, key: `key-of-${productId}`, at, ...more };
  world.items.set(`like-button https://likes.example ${user} ${productId}`, JSON.stringify(desired));
}

test('reload right after a click shows the new state and sends the same key', async () => {
  const first = world.client();
  world.answer = () => {
    throw new TypeError('the page is gone');
  };
  first.like('p1');
  await world.pass();
  const key = world.writes()[0]!.key;
  const items = world.items;
  world = newWorld();
  world.items = items;
  world.counts.set('p1', 5);
  const client = world.client();
  assert.equal(client.view('p1').liked, true);
  const seen: boolean[] = [];
  client.watch(['p1'], ({ liked }) => seen.push(liked));
  await world.pass(1000);
  assert.deepEqual(new Set(seen), new Set([true]));
  assert.deepEqual(
    world.writes().map((call) => call.key),
    [key],
  );
  assert.equal(client.view('p1').count, 6);
  assert.equal(world.items.size, 0);
});

test('an acknowledged like is not sent again, only waited for', async () => {
  left('p1', { receipt: '1-0-7' } as object);
  world.client();
  await world.pass(1000);
  assert.equal(world.writes().length, 0);
  assert.equal(world.calls[0]!.path, '/v1/receipts/1-0-7');
  assert.equal(world.items.size, 0);
});

test('what another user has left stays theirs', async () => {
  left('p1', { user: 'bob' });
  const client = world.client();
  await world.pass(60_000);
  assert.equal(client.view('p1').liked, false);
  assert.equal(world.writes().length, 0);
  assert.equal(world.items.size, 1);
  client.token = sub('bob');
  await world.pass(1000);
  assert.deepEqual([...world.likers.get('p1')!], ['bob']);
});

test('token function: what was left is sent once the user is known', async () => {
  left('p1');
  world.client({ token: async () => sub('ada') }).watch(['p2'], () => {});
  await world.pass(1000);
  assert.deepEqual([...world.likers.get('p1')!], ['ada']);
});

test('click before the token function has answered is stored as that user\u2019s', async () => {
  const client = world.client({
    token: () => new Promise((done) => setTimeout(() => done(sub('ada')), 500)),
  });
  world.counted = false;
  client.like('p1');
  assert.equal(client.view('p1').liked, true);
  assert.equal(world.items.size, 0);
  await world.pass(1000);
  assert.deepEqual([...world.items.keys()], ['like-button https://likes.example ada p1']);
  assert.equal(world.writes().length, 1);
});

test('older than the window: given up visibly', async () => {
  left('old', { at: world.now - 48 * 3600_000 - 1 });
  left('ahead', { at: world.now + 48 * 3600_000 + 1 });
  left('young', { at: world.now - 48 * 3600_000 + 1000 });
  left('of-bob', { user: 'bob', at: 1 });
  const client = world.client({ token: null });
  assert.equal(world.items.size, 3, 'what was left long ago goes quietly');
  const seen = errors(client);
  client.token = sub('ada');
  await world.pass(1000);
  assert.deepEqual(seen.sort(), ['ahead expired', 'old expired']);
  assert.deepEqual([...world.likers.keys()], ['young']);
  assert.equal(world.items.size, 0);
});

test('offline for longer than the window: given up visibly, not sent', async () => {
  const client = world.client();
  const seen = errors(client);
  world.online = false;
  client.like('p1');
  await world.pass(49 * 3600_000);
  world.online = true;
  world.window.dispatchEvent(new Event('online'));
  await world.pass(60_000);
  assert.deepEqual(seen, ['p1 expired']);
  assert.equal(world.writes().length, 0);
  assert.equal(world.items.size, 0);
});

test('more than 200 waiting: the oldest is given up visibly', async () => {
  const client = world.client();
  const seen = errors(client);
  world.online = false;
  for (let i = 0; i <= 200; i++) client.like(`p${i}`);
  await world.pass(100);
  assert.deepEqual(seen, ['p0 too-many']);
  assert.equal(client.view('p0').liked, false);
  assert.equal(world.items.size, 200);
});

for (const storage of ['full', 'forbidden'] as const) {
  test(`localStorage ${storage}: works as long as the page, with one warning`, async () => {
    world.storage = storage;
    const client = world.client();
    await Promise.all([client.like('p1'), world.pass(1000)]);
    await Promise.all([client.unlike('p1'), world.pass(1000)]);
    assert.equal(world.likers.get('p1')!.size, 0);
    assert.equal(world.writes().length, 2);
    assert.equal(world.warnings.length, 1);
  });
}

test('garbage in localStorage is ignored', async () => {
  for (const [i, value] of [
    '',
    '{',
    'null',
    '[]',
    '7',
    '{"user":"ada"}',
    '{"user":"bob","productId":"p1","key":"k","at":1}',
  ].entries()) {
    world.items.set(`like-button https://likes.example ada p${i}`, value);
  }
  world.items.set('other', 'thing');
  world.client();
  await world.pass(1000);
  assert.equal(world.writes().length, 0);
  assert.equal(world.items.size, 8);
});

test('two tabs do not send a like twice', async () => {
  const [one, two] = [world.client(), world.client()];
  const states: boolean[] = [];
  two.watch(['p1'], ({ liked }) => states.push(liked));
  await world.pass(100);
  world.answer = ({ method }) => (method === 'PUT' && world.writes().length < 4 ? { status: 503 } : undefined);
  one.like('p1');
  world.tellStorage();
  assert.equal(states.at(-1), true, 'the other tab shows it');
  await world.pass(2000);
  world.answer = () => undefined;
  await world.pass(2000);
  world.tellStorage();
  await world.pass(10_000);
  assert.equal(world.likers.get('p1')?.size, 1);
  assert.equal(new Set(world.writes().map(({ key }) => key)).size, 1);
  assert.equal(world.writes().length, 4, 'no more than one tab alone');
  assert.equal(two.view('p1').count, 1);
  assert.deepEqual(new Set(states.slice(states.indexOf(true))), new Set([true]), 'and never goes back');
  assert.equal(world.items.size, 0);
});

test('tab that is closed leaves its like to the other one', async () => {
  left('p1');
  const client = world.client();
  await world.pass(1000);
  assert.equal(client.view('p1').liked, true);
  assert.equal(world.writes()[0]!.key, 'key-of-p1');
});

test('newer click of another tab replaces the older one of this', async () => {
  const [one, two] = [world.client(), world.client()];
  world.online = false;
  one.like('p1');
  world.tellStorage();
  await world.pass(1000);
  two.unlike('p1');
  world.tellStorage();
  assert.equal(one.view('p1').liked, false);
  world.online = true;
  world.window.dispatchEvent(new Event('online'));
  await world.pass(10_000);
  assert.deepEqual(
    world.writes().map(({ method }) => method),
    ['DELETE'],
  );
});
