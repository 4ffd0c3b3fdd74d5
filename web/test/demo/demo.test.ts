// The demo page of like-api, and a button behind a gateway, in a real browser against the real services:
// make test-web. Pictures of the page are written to $WEB_SCREENSHOTS.

import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import type { BrowserContextOptions, Page } from 'playwright-core';
import { axe, click, fresh, Site, setting, shown, until } from '../browser/site.js';
import { type Gateway, openGateway } from './gateway.js';

const service = setting('LIKE_API_URL');
let site: Site;
before(async () => {
  site = await Site.start();
});
afterEach(() => site.reset());
after(() => site.stop());

/** Opens the demo. `page.log` has its console and errors, `page.asked` the URLs of its requests. */
async function open(options: BrowserContextOptions = {}): Promise<Page & { log: string[]; asked: string[] }> {
  const context = await site.context({ viewport: { width: 1180, height: 900 }, ...options });
  const page = Object.assign(await context.newPage(), { log: [] as string[], asked: [] as string[] });
  page.on('console', (message) => page.log.push(message.text()));
  page.on('pageerror', (error) => page.log.push(`uncaught: ${error.message}`));
  page.on('request', (request) => page.asked.push(request.url()));
  await page.goto(`${service}/`);
  return page;
}

const read = async (path: string, user?: string) =>
  (await fetch(service + path, user ? { headers: { 'x-user-id': user } } : {})).json();
const text = (page: Page, id: string) => page.locator(`#${id}`).textContent();
const number = async (page: Page, id: string) => Number((await text(page, id))!.replaceAll(/\D/g, ''));

const looks: Record<string, BrowserContextOptions> = {
  desktop: {},
  phone: { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, hasTouch: true, isMobile: true },
  dark: { colorScheme: 'dark' },
  'phone-dark': { viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, isMobile: true, colorScheme: 'dark' },
};
for (const [name, options] of Object.entries(looks)) {
  test(`demo, ${name}: no other host, no warning, axe finds nothing, nothing is cut off`, async () => {
    const page = await open(options);
    await page.locator('[product-id="mug"]').scrollIntoViewIfNeeded();
    await until('counts are read', async () => (await shown(page, 'mug')).count !== '–');
    await page.locator('#history').scrollIntoViewIfNeeded();
    await until('the chart is drawn', () => page.locator('#history canvas').count());
    await page.evaluate(() => scrollTo(0, 0));
    assert.deepEqual(await axe(page), []);
    assert.deepEqual(page.log, []);
    assert.deepEqual([...new Set(page.asked.map((url) => new URL(url).origin))], [service]);
    const cut = await page.evaluate(() => {
      const wide = [...document.querySelectorAll('body *')].filter(
        (element) => element.getBoundingClientRect().right > innerWidth + 1,
      );
      return wide.map(({ outerHTML }) => outerHTML.slice(0, 80));
    });
    assert.deepEqual(cut, []);
    const folder = process.env['WEB_SCREENSHOTS'];
    if (folder) await page.screenshot({ path: `${folder}/demo-${name}.png`, fullPage: true });
  });
}

test('demo: a like counts, for the visitor and for others', async () => {
  const [page, other] = [await open(), await open()];
  const user = (await text(page, 'user'))!;
  const before = (await read('/v1/products/fern/likes', user)).count;
  await click(page, 'fern');
  await until('it is counted', async () => (await read('/v1/products/fern/likes', user)).liked === true);
  assert.equal((await read('/v1/products/fern/likes', user)).count, before + 1);
  await until('the visitor is told', async () => (await text(page, 'mine')) === ' and like 1 thing');
  await other.locator('[product-id="fern"]').scrollIntoViewIfNeeded();
  await until('others see it', async () => (await shown(other, 'fern')).count === `${before + 1}`);
  assert.equal((await shown(other, 'fern')).pressed, false);
  await page.reload();
  await until('it is still theirs', async () => (await shown(page, 'fern')).pressed);
  await page.locator('#switch').click();
  await until('another visitor has not liked it', async () => !(await shown(page, 'fern')).pressed);
  assert.notEqual(await text(page, 'user'), user);
  await until('the list has it', async () => (await page.locator('#top li').allTextContents()).join().includes('fern'));
});

test('demo: a like bomb is counted exactly once, and its numbers are those of the API', async () => {
  const page = await open();
  const ids = await page
    .locator('.card like-button')
    .evaluateAll((all) => all.map((each) => each.getAttribute('product-id')!));
  assert.equal(ids.length, 12);
  const total = async () => {
    const likes = (await read(`/v1/likes?ids=${ids}`, 'somebody')) as { count: number }[];
    return likes.reduce((sum, { count }) => sum + count, 0);
  };
  const [before, numbers] = [await total(), await read('/demo/numbers')];
  const hidden = page.asked.filter((url) => url.endsWith('charts.js')).length;
  await page.getByRole('radio', { name: '1,000' }).check();
  await page.locator('#drop').click();
  await until('it is over', async () => (await text(page, 'story'))!.includes('statements'), 60);
  assert.equal(await total(), before + 1000);
  const after = await read('/demo/numbers');
  const of = (name: string) => after.aggregator[name] - numbers.aggregator[name];
  const [transactions, statements] = [of('transactions'), of('statements')];
  assert.ok(transactions >= 1 && transactions < 200 && statements > 5 * transactions, JSON.stringify(after));
  for (const [id, value] of Object.entries({
    acknowledged: 1000,
    counted: 1000,
    transactions,
    statements,
    share: Math.round(1000 / transactions),
  })) {
    assert.equal(await number(page, id), value, id);
  }
  assert.match((await text(page, 'lag'))!, /^[\d,]+ ms$/);
  const story = `1,000 of 1,000 likes were acknowledged and counted, in ${transactions} transactions with ${statements} SQL statements.`;
  assert.equal(await text(page, 'story'), story);
  assert.match(await page.locator('#rates').evaluate((e) => e.ariaLabel!), /at most: [1-9][\d,]* acknowledged, [1-9]/);
  assert.equal(await page.locator('#rates canvas').count(), 1);
  assert.ok(hidden <= 1 && page.asked.filter((url) => url.endsWith('charts.js')).length === 1, 'charts come once');
  const best = (await read('/v1/likes/top?window=24h&limit=100')).items.find(({ productId }: { productId: string }) =>
    ids.includes(productId),
  );
  const name = await page.locator(`.card:has([product-id="${best.productId}"]) h3`).textContent();
  await until('the list shows it', async () =>
    (await page.locator('#top li').first().textContent())!.startsWith(`${name}${best.gained.toLocaleString()}`),
  );
  // A service at its limit refuses early, and the page sends the likes again.
  assert.deepEqual(
    page.log.filter((line) => !line.includes('503')),
    [],
  );
});

test('demo: a burst that is refused says why', async () => {
  const page = await open();
  await page.route('**/demo/numbers', async (route) => {
    const answer = await route.fetch();
    await route.fulfill({ response: answer, json: { ...(await answer.json()), namesUsers: false } });
  });
  await page.locator('#drop').click();
  await until('it says so', async () => (await text(page, 'story'))!.includes('set BATCH_USER_IDS_FROM'));
  assert.equal(await page.locator('#drop').isEnabled(), true);
});

test('gateway with cookies: the button likes as the user of the session', async () => {
  const id = fresh();
  const gateway: Gateway = await openGateway(service, {
    html: `<like-button product-id="${id}" credentials="same-origin" user="ada" live></like-button>`,
    session: 'ada-1',
    user: 'ada',
  });
  try {
    const page = await (await site.context()).newPage();
    await page.goto(`${gateway.url}/shop`);
    await until('the count is read', async () => (await shown(page, id)).count === '0');
    await click(page, id);
    await until('it is counted', async () => (await read(`/v1/products/${id}/likes`, 'ada')).liked === true);
    await until('it is settled', async () => (await page.evaluate(() => localStorage.length)) === 0);
    await page.reload();
    await until('it is theirs', async () => (await shown(page, id)).pressed);
    gateway.session = undefined; // signed out
    await click(page, id);
    await until('it says so', async () => (await shown(page, id)).status === 'Sign in to like this');
    assert.deepEqual(await shown(page, id).then(({ pressed, count }) => [pressed, count]), [true, '1']);
    assert.equal((await read(`/v1/products/${id}/likes`)).count, 1);
  } finally {
    gateway.close();
  }
});
