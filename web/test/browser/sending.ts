// Clicks: in a real browser, against the real services, on a network that fails.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { click, fresh, type Site, seen, shown, until } from './site.js';

export function sendingTests(site: () => Site): void {
  const open = (id: string, options = {}, attributes = '') =>
    site().open(`<like-button product-id="${id}" token="${site().token('ada')}" ${attributes}></like-button>`, options);

  test('click is shown at once, acknowledged, counted', async () => {
    const [s, id] = [site(), fresh()];
    const page = await open(id);
    await until('the count is read', async () => (await shown(page, id)).count === '0');
    s.fault = ({ method }) => (method === 'PUT' ? { delay: 700 } : undefined);
    await click(page, id);
    const { pressed, count, part, label } = await shown(page, id);
    assert.deepEqual([pressed, count, part, label], [true, '1', 'button liked pending', 'Like, 1 like']);
    await until('it is counted', async () => `${await seen(page)}` === `like ${id},counted ${id}`);
    assert.equal((await s.counted(id, 'ada')).count, 1);
    assert.equal((await shown(page, id)).part, 'button liked');
    await click(page, id);
    await until('it is taken back', async () => (await s.counted(id)).count === 0 && (await seen(page)).length === 4);
    assert.deepEqual(
      s.writes().map(({ method }) => method),
      ['PUT', 'DELETE'],
    );
  });

  for (const [name, fault] of Object.entries({
    '503': { status: 503 },
    '504': 'perhaps',
    '429': { status: 429, retryAfter: 1 },
    'a cut': 'cut',
  } as const)) {
    test(`${name}: repeated with the same key, counted once`, async () => {
      const [s, id] = [site(), fresh()];
      const page = await open(id);
      s.fault = ({ method }) => (method === 'PUT' && s.writes(id).length < 3 ? fault : undefined);
      await click(page, id);
      await until('it is counted', async () => (await seen(page)).includes(`counted ${id}`));
      assert.ok(s.writes(id).length >= 3);
      assert.equal(new Set(s.writes(id).map(({ key }) => key)).size, 1);
      assert.deepEqual(await s.counted(id, 'ada').then(({ count, liked }) => [count, liked]), [1, true]);
    });
  }

  for (const [name, fault, reason] of [
    ['401', { status: 401 }, 'auth'],
    ['429 for an hour', { status: 429, retryAfter: 3600 }, 'gave-up'],
    ['400', { status: 400 }, 'refused'],
  ] as const) {
    test(`${name}: goes back, says so, and is never shown as accepted`, async () => {
      const [s, id] = [site(), fresh()];
      const page = await open(id);
      await until('the count is read', async () => (await shown(page, id)).count === '0');
      s.fault = ({ method }) => (method === 'PUT' ? fault : undefined);
      await click(page, id);
      await until('it fails', async () => (await seen(page)).includes(`error ${id} ${reason}`));
      await until('it says so', async () => (await shown(page, id)).status !== '');
      const { pressed, count, status, part, title } = await shown(page, id);
      const says = reason === 'auth' ? 'Sign in to like this' : 'Your like was not saved';
      assert.deepEqual([pressed, count, status, title, part], [false, '0', says, says, 'button failed']);
      assert.equal((await seen(page)).includes(`like ${id}`), false);
      s.fault = () => undefined;
      if (reason !== 'auth') {
        await click(page, id);
        await until('the next click works', async () => (await seen(page)).includes(`counted ${id}`));
        assert.equal((await shown(page, id)).status, '');
      }
    });
  }

  test('reload right after a click never shows the old state', async () => {
    const [s, id] = [site(), fresh()];
    const record = () => {
      // Every state that the page shows, from its first paint on.
      const states: string[] = ((globalThis as unknown as { states: string[] }).states = []);
      const look = () => {
        const button = document.querySelector('like-button')?.shadowRoot?.querySelector('button');
        if (button) states.push(`${button.ariaPressed}`);
        requestAnimationFrame(look);
      };
      requestAnimationFrame(look);
    };
    const page = await open(id, { init: record });
    await until('the count is read', async () => (await shown(page, id)).count === '0');
    s.fault = ({ method }) => (method === 'PUT' ? { delay: 1500 } : undefined);
    await click(page, id);
    await page.reload();
    await until('it is counted', async () => (await s.counted(id, 'ada')).count === 1);
    await until('it is settled', async () => (await page.evaluate(() => localStorage.length)) === 0);
    const states = (await page.evaluate('states')) as string[];
    assert.ok(states.length > 10, `${states.length} frames`);
    assert.deepEqual([...new Set(states)], ['true']);
    assert.equal(new Set(s.writes(id).map(({ key }) => key)).size, 1);
    assert.equal((await shown(page, id)).count, '1');
    await page.reload();
    await until('read again', async () => (await shown(page, id)).count === '1');
    assert.equal((await shown(page, id)).pressed, true);
  });

  test('page that is left at once has sent its like', async () => {
    const [s, id] = [site(), fresh()];
    const page = await open(id);
    await page.evaluate((id) => {
      document.querySelector<HTMLElement>(`[product-id="${id}"]`)!.shadowRoot!.querySelector('button')!.click();
      location.href = 'about:blank';
    }, id);
    await until('it is counted', async () => (await s.counted(id)).count === 1);
  });

  test('two tabs do not send a like twice', async () => {
    const [s, id] = [site(), fresh()];
    const context = await s.context();
    const one = await open(id, { context });
    s.fault = ({ method }) => (method === 'PUT' && s.writes(id).length < 4 ? { status: 503 } : undefined);
    await click(one, id);
    const two = await open(id, { context });
    await until('the other tab shows it', async () => (await shown(two, id)).pressed);
    await until('it is counted', async () => (await s.counted(id)).count === 1);
    await until('both are settled', () => two.evaluate(() => localStorage.length === 0));
    assert.deepEqual(
      s.writes(id).map(({ status }) => status),
      [503, 503, 503, 202],
    );
    assert.deepEqual([(await shown(two, id)).pressed, (await shown(one, id)).pressed], [true, true]);
    await until('the other tab knows the count', async () => (await shown(two, id)).count === '1');
    // And the other way round, once more.
    await click(two, id);
    await until('the first tab follows', async () => !(await shown(one, id)).pressed);
    await until('it is counted', async () => (await s.counted(id)).count === 0);
    await until('both are settled', () => one.evaluate(() => localStorage.length === 0));
    assert.equal(s.writes(id).length, 5);
  });

  test('offline it waits; back online it is counted', async () => {
    const [s, id] = [site(), fresh()];
    const context = await s.context();
    const page = await open(id, { context });
    await until('the count is read', async () => (await shown(page, id)).count === '0');
    await context.setOffline(true);
    await click(page, id);
    await page.waitForTimeout(1000); // nothing is to happen
    assert.deepEqual([(await shown(page, id)).pressed, await seen(page), s.writes(id).length], [true, [], 0]);
    await context.setOffline(false);
    await until('it is counted', async () => (await seen(page)).includes(`counted ${id}`));
    assert.equal((await s.counted(id)).count, 1);
  });

  test('expired token: the function is asked again', async () => {
    const [s, id] = [site(), fresh()];
    const script = `const tokens = [${JSON.stringify([s.token('ada', -600), s.token('ada')])}].flat(); asked = [];
      LikeButton.configure({ token: async (refused) => { asked.push(refused); return tokens[asked.length - 1]; } });`;
    const page = await s.open(`<like-button product-id="${id}"></like-button><script>var asked</script>`, { script });
    await until('the function is asked', async () => `${await page.evaluate('asked')}` === 'false,true');
    await click(page, id);
    await until('it is counted', async () => (await s.counted(id, 'ada')).liked === true);
    assert.equal(`${await page.evaluate('asked')}`, 'false,true');
    assert.deepEqual(
      s
        .reads(id)
        .slice(0, 2)
        .map(({ status }) => status),
      [401, 200],
    );
  });

  test('without a token a click asks to sign in, and can be taken over', async () => {
    const [s, id] = [site(), fresh()];
    const page = await s.open(`<like-button product-id="${id}"></like-button>`);
    await until('the count is read', async () => (await shown(page, id)).count === '0');
    await click(page, id);
    await until('the event', async () => `${await seen(page)}` === `auth-required ${id}`);
    const { pressed, status } = await shown(page, id);
    assert.deepEqual([pressed, status], [false, 'Sign in to like this']);
    await page.evaluate((token) => {
      document.addEventListener('auth-required', (event) => {
        event.preventDefault();
        document.querySelector('like-button')!.setAttribute('token', token);
      });
    }, s.token('ada'));
    await click(page, id);
    await until('the page signs in', async () => (await seen(page)).length === 2);
    assert.equal((await shown(page, id)).status, '', 'its own business');
    await click(page, id);
    await until('it is counted', async () => (await s.counted(id, 'ada')).liked === true);
    assert.equal(s.writes(id).length, 1);
  });

  test('one user\u2019s waiting like is not sent as the next one', async () => {
    const [s, id] = [site(), fresh()];
    const page = await open(id);
    s.fault = ({ method }) => (method === 'PUT' ? { status: 503 } : undefined);
    await click(page, id);
    await until('it is tried', () => s.writes(id).length);
    await page.evaluate((token) => document.querySelector('like-button')!.setAttribute('token', token), s.token('bob'));
    await until('it is read for them', () => s.reads(id).some(({ user }) => user === 'bob'));
    assert.equal((await shown(page, id)).pressed, false);
    s.fault = () => undefined;
    await page.reload(); // as ada again
    await until('it is counted', async () => (await s.counted(id, 'ada')).liked === true);
    assert.deepEqual([...new Set(s.writes(id).map(({ user }) => user))], ['ada']);
  });

  for (const [name, init] of Object.entries({
    full: () => {
      Storage.prototype.setItem = () => {
        throw new DOMException('full', 'QuotaExceededError');
      };
    },
    forbidden: () => {
      Object.defineProperty(window, 'localStorage', {
        get() {
          throw new DOMException('forbidden', 'SecurityError');
        },
      });
    },
  })) {
    test(`localStorage ${name}: one warning, and it works`, async () => {
      const [s, id] = [site(), fresh()];
      const page = await open(id, { init });
      await click(page, id);
      await until('it is counted', async () => (await seen(page)).includes(`counted ${id}`));
      assert.equal((await s.counted(id)).count, 1);
      assert.equal(page.log.length, 1, `${page.log}`);
      assert.match(page.log[0]!, /not kept across reloads/);
    });
  }

  test('clock that jumps: the like is sent, or given up visibly', async () => {
    const [s, id] = [site(), fresh()];
    const init = () => {
      const real = Date.now;
      Date.now = () => real() + (Number((globalThis as unknown as { jump: number }).jump) || 0);
    };
    const page = await open(id, { init });
    const jump = (hours: number) => page.evaluate(`jump = ${hours * 3600_000}`);
    for (const hours of [-12, 12]) {
      s.fault = ({ method }) => (method !== 'GET' ? { status: 503 } : undefined);
      await click(page, id);
      await until('it is tried', () => s.writes(id).some(({ status }) => status === 503));
      await jump(hours);
      s.fault = () => undefined;
      await until('it is counted', async () => (await seen(page)).at(-1) === `counted ${id}`);
      await page.evaluate('seen.length = 0');
      s.requests = [];
    }
    s.fault = ({ method }) => (method !== 'GET' ? { status: 503 } : undefined);
    await click(page, id);
    await until('it is tried', () => s.writes(id).some(({ status }) => status === 503));
    await jump(24 * 3650);
    await until('it is given up', async () => (await seen(page)).includes(`error ${id} expired`));
    assert.equal((await shown(page, id)).status, 'Your like was not saved');
    assert.deepEqual(
      page.log.filter((line) => line.includes('uncaught')),
      [],
    );
  });
}
