// Counts: few requests, live, and sensible whatever the service or the page does.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { click, fresh, type Site, seen, shown, until } from './site.js';

export function readingTests(site: () => Site): void {
  test('500 buttons make a handful of requests, for those in view', async () => {
    const [s, id] = [site(), fresh()];
    const buttons = Array.from(
      { length: 500 },
      (_, i) => `<p><like-button live product-id="${id}-${i}"></like-button></p>`,
    );
    const page = await s.open(buttons.join(''));
    await until('the first are read', async () => (await shown(page, `${id}-0`)).count === '0');
    assert.equal(s.reads().length, 1);
    const read = s.reads()[0]!.url.split(',').length;
    assert.ok(read >= 5 && read < 40, `${read} are in view`);
    assert.equal((await shown(page, `${id}-499`)).count, '–');
    await page.locator('like-button').last().scrollIntoViewIfNeeded();
    await until('the last are read', async () => (await shown(page, `${id}-499`)).count === '0');
    assert.ok(s.reads().length <= 3, `${s.reads().length} reads`);
    await until('one stream', () => s.streams === 1);
    for (let i = 0; i < 500; i += 10) await page.locator('like-button').nth(i).scrollIntoViewIfNeeded();
    await until('all are read', async () => (await shown(page, `${id}-250`)).count === '0');
    assert.ok(s.requests.length < 60, `${s.requests.length} requests for 500 buttons that were all in view`);
    await until('one stream', () => s.streams === 1);
  });

  test('100 buttons that come into view together are one read and one stream', async () => {
    const [s, id] = [site(), fresh()];
    const buttons = Array.from({ length: 100 }, (_, i) => `<like-button live product-id="${id}-${i}"></like-button>`);
    const page = await s.open(buttons.join(''));
    await until('they are read', async () => (await shown(page, `${id}-99`)).count === '0');
    await until('one stream', () => s.streams === 1);
    assert.equal(s.requests.length, 2);
  });

  test('two pages side by side: the other one\u2019s count changes live', async () => {
    const [s, id] = [site(), fresh()];
    const button = (user: string) => `<like-button live product-id="${id}" token="${s.token(user)}"></like-button>`;
    const [ada, bob] = [await s.open(button('ada')), await s.open(button('bob'))];
    await until('both have streams', () => s.streams === 2);
    await click(ada, id);
    await until('bob sees it', async () => (await shown(bob, id)).count === '1');
    assert.equal((await shown(bob, id)).pressed, false);
    await click(bob, id);
    await until('ada sees it', async () => (await shown(ada, id)).count === '2');
    assert.deepEqual([(await shown(ada, id)).pressed, (await shown(bob, id)).pressed], [true, true]);
  });

  test('own click does not flicker', async () => {
    const [s, id] = [site(), fresh()];
    const page = await s.open(`<like-button live product-id="${id}" token="${s.token('ada')}"></like-button>`);
    await until('a stream', () => s.streams === 1);
    await page.evaluate(() => {
      const root = document.querySelector('like-button')!.shadowRoot!;
      const counts: string[] = ((globalThis as unknown as { counts: string[] }).counts = []);
      new MutationObserver(() => counts.push(root.querySelector('[part=count]')!.textContent!)).observe(root, {
        subtree: true,
        childList: true,
        characterData: true,
      });
    });
    await click(page, id);
    await until('it is counted', async () => (await seen(page)).includes(`counted ${id}`));
    await s.like(id, 'bob');
    await until('others\u2019 likes come', async () => (await shown(page, id)).count === '2');
    const counts = (await page.evaluate('counts')) as string[];
    assert.deepEqual(
      counts.filter((count, i) => count !== counts[i - 1]),
      ['1', '2'],
    );
  });

  test('stream closes while the page is hidden, and comes back', async () => {
    const [s, id] = [site(), fresh()];
    const page = await s.open(`<like-button live product-id="${id}"></like-button>`);
    await until('a stream', () => s.streams === 1);
    const hide = (hidden: boolean) =>
      page.evaluate((hidden) => {
        Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
        document.dispatchEvent(new Event('visibilitychange'));
      }, hidden);
    await hide(true);
    await until('it is closed', () => s.streams === 0);
    await s.like(id, 'bob');
    await hide(false);
    await until('it is back', async () => (await shown(page, id)).count === '1');
  });

  test('stream comes back after refusals', async () => {
    const [s, id] = [site(), fresh()];
    s.fault = ({ url }) =>
      url.includes('stream') && s.requests.filter((r) => r.url.includes('stream')).length < 4
        ? { status: 503 }
        : undefined;
    await s.open(`<like-button live product-id="${id}"></like-button>`);
    await until('a stream', () => s.streams === 1);
    assert.equal(s.requests.filter(({ url }) => url.includes('stream')).length, 4);
  });

  test('server-rendered values are shown before any answer', async () => {
    const [s, id] = [site(), fresh()];
    s.fault = () => ({ delay: 1500 });
    const page = await s.open(`<like-button product-id="${id}" count="1234" liked>♥ 1234</like-button>`);
    assert.deepEqual(await shown(page, id).then(({ pressed, count }) => [pressed, count]), [true, '1.2K']);
    await until('the answer replaces them', async () => (await shown(page, id)).count === '0');
  });

  test('unknown is a dash, never 0', async () => {
    const [s, id] = [site(), fresh()];
    s.fault = () => ({ status: 503 });
    const page = await s.open(
      `<like-button product-id="${id}"></like-button><like-button product-id="${id}x" count="many"></like-button>`,
    );
    await until('it is tried', () => s.reads().length > 1);
    for (const each of [id, `${id}x`]) {
      const { count, label, title } = await shown(page, each);
      assert.deepEqual([count, label, title], ['–', 'Like', '']);
    }
  });

  for (const [name, body] of Object.entries({
    'a web page': '<!doctype html><h1>Sign in to the Wi-Fi</h1>',
    'an empty object': '{}',
    null: 'null',
    'text for a count': '[{"productId":"ID","count":"<b>"}]',
    'too large a count': '[{"productId":"ID","count":1e999}]',
  })) {
    test(`garbage (${name}) leaves a dash and no exception`, async () => {
      const [s, id] = [site(), fresh()];
      s.fault = () => ({ status: 200, body: body.replace('ID', id) });
      const page = await s.open(`<like-button live product-id="${id}" token="${s.token('ada')}"></like-button>`);
      await until('it is repeated', () => s.reads().length > 2);
      assert.equal((await shown(page, id)).count, '–');
      await click(page, id);
      await until('the like is repeated', () => s.writes().length > 1);
      assert.deepEqual(
        page.log.filter((line) => line.includes('uncaught')),
        [],
      );
    });
  }

  test('a count of 10^15 is compact, and exact in the label', async () => {
    const [s, id] = [site(), fresh()];
    s.fault = () => ({ status: 200, body: JSON.stringify([{ productId: id, count: 1e15, updatedAt: null }]) });
    const page = await s.open(`<like-button product-id="${id}"></like-button>`);
    await until('it is shown', async () => (await shown(page, id)).count === '1000T');
    assert.equal((await shown(page, id)).label, 'Like, 1000T, 1,000,000,000,000,000 likes');
  });

  test('numbers and plurals follow the language', async () => {
    const [s, id] = [site(), fresh()];
    const words = 'label="Mag ich" label-one="{count} Person" label-other="{count} Personen"';
    const button = (n: number, more = '') =>
      `<like-button product-id="${id}${n}" count="${n}" ${words} ${more}></like-button>`;
    s.fault = () => ({ status: 503 });
    const context = await s.context({ locale: 'de-DE' });
    const page = await s.open(
      `${button(1234567)}${button(1)}<p lang="en">${button(1235)}</p><p lang="no_such!">${button(1236)}</p>`,
      {
        lang: '',
        context,
      },
    );
    assert.deepEqual(await shown(page, `${id}1234567`).then(({ count, label }) => [count, label]), [
      '1,2\u00a0Mio.',
      'Mag ich, 1,2\u00a0Mio., 1.234.567 Personen',
    ]);
    assert.equal((await shown(page, `${id}1`)).label, 'Mag ich, 1 Person');
    assert.equal((await shown(page, `${id}1235`)).count, '1.2K');
    assert.equal((await shown(page, `${id}1236`)).label, 'Mag ich, 1236, 1.236 Personen');
    const polish = 'label-one="{count} osoba" label-few="{count} osoby" label-many="{count} osób"';
    const other = await s.open(
      [1, 3, 5].map((n) => `<like-button product-id="${id}${n}" count="${n}" ${polish}></like-button>`).join(''),
      { lang: 'pl' },
    );
    const labels = await Promise.all([1, 3, 5].map(async (n) => (await shown(other, `${id}${n}`)).title));
    assert.deepEqual(labels, ['1 osoba', '3 osoby', '5 osób']);
  });
}
