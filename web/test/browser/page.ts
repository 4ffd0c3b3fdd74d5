// The element in its page: for people who use a keyboard or a screen reader, for strict pages and
// for frameworks. Pictures of it are written to $WEB_SCREENSHOTS.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { BrowserContextOptions } from 'playwright-core';
import { axe, click, fresh, type Site, seen, shown, until } from './site.js';

export function pageTests(site: () => Site): void {
  /** Buttons in all their states. */
  const states = (id: string) => `
    <style>body { font: 16px system-ui, sans-serif; margin: 16px; background: Canvas; color: CanvasText } :root { color-scheme: light dark } p { margin: 8px 0 }</style>
    <p><like-button product-id="${id}-none"></like-button> unknown</p>
    <p><like-button product-id="${id}-0" count="0"></like-button> nobody</p>
    <p><like-button product-id="${id}-1" count="1234" liked></like-button> liked</p>
    <p><like-button product-id="${id}-2" count="1234567"></like-button> not liked</p>
    <p><like-button product-id="${id}-3" count="1000000000000000" liked></like-button> many</p>
    <p><like-button product-id="${id}-4" count="7" disabled></like-button> disabled</p>
    <p><like-button product-id="${id}-5" count="7" id="failed"></like-button> failed</p>
    <p><like-button product-id="${id}-6" count="7" id="focus"></like-button> focused</p>`;

  const looks: Record<string, BrowserContextOptions & { lang?: string; dir?: string }> = {
    desktop: { viewport: { width: 800, height: 520 } },
    phone: { viewport: { width: 360, height: 560 }, deviceScaleFactor: 2, hasTouch: true, isMobile: true },
    dark: { viewport: { width: 800, height: 520 }, colorScheme: 'dark' },
    rtl: { viewport: { width: 800, height: 520 }, locale: 'ar-EG', lang: 'ar', dir: 'rtl' },
    'forced-colors': { viewport: { width: 800, height: 520 }, forcedColors: 'active' },
    'forced-colors-dark': { viewport: { width: 800, height: 520 }, forcedColors: 'active', colorScheme: 'dark' },
  };
  for (const [name, { lang = 'en', dir = 'ltr', ...options }] of Object.entries(looks)) {
    test(`${name}: axe finds nothing, nothing is cut off`, async () => {
      const [s, id] = [site(), fresh()];
      s.fault = () => ({ status: 503 });
      const page = await s.open(`<div dir="${dir}">${states(id)}</div>`, { context: await s.context(options), lang });
      await page.locator('#failed').click();
      await until('it fails', async () => (await seen(page)).length === 1);
      await page.locator('#focus').focus();
      await page.keyboard.press('Shift+Tab');
      await page.keyboard.press('Tab');
      assert.deepEqual(await axe(page), []);
      const boxes = await page.locator('like-button').evaluateAll((buttons) =>
        buttons.map((element) => {
          const button = element.shadowRoot!.querySelector('button')!;
          const [box, heart, number] = [button, ...button.querySelectorAll('svg, span')].map((e) =>
            e!.getBoundingClientRect(),
          ) as DOMRect[];
          return {
            height: box!.height,
            width: box!.width,
            cut: button.scrollWidth > button.clientWidth,
            heartFirst: heart!.left < number!.left,
          };
        }),
      );
      for (const box of boxes) {
        assert.ok(box.height >= 44 && box.width >= 44 && !box.cut, JSON.stringify(box));
        assert.equal(box.heartFirst, dir === 'ltr');
      }
      const folder = process.env['WEB_SCREENSHOTS'];
      if (folder) await page.screenshot({ path: `${folder}/${name}.png` });
    });
  }

  test('colours have the contrast that reading needs', async () => {
    const [s, id] = [site(), fresh()];
    for (const colorScheme of ['light', 'dark'] as const) {
      const page = await s.open(states(id), { context: await s.context({ colorScheme }) });
      const ratio = await page.evaluate(() => {
        const liked = document.querySelector('like-button[liked]')!.shadowRoot!.querySelector('button')!;
        const canvas = document.createElement('canvas').getContext('2d')!;
        const light = (color: string) => {
          canvas.fillStyle = color;
          canvas.fillRect(0, 0, 1, 1);
          const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((c) =>
            c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4,
          ) as [number, number, number];
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const pair = [
          light(getComputedStyle(liked).color),
          light(getComputedStyle(document.body).backgroundColor),
        ].sort((a, b) => b - a);
        return (pair[0]! + 0.05) / (pair[1]! + 0.05);
      });
      assert.ok(ratio >= 4.5, `${colorScheme}: ${ratio}`);
    }
  });

  test('nothing moves, so there is no motion to reduce', async () => {
    const [s, id] = [site(), fresh()];
    const page = await s.open(`<like-button product-id="${id}"></like-button>`);
    await page.locator('like-button').hover();
    await page.mouse.down();
    assert.deepEqual(
      await page.evaluate(() => document.querySelector('like-button')!.shadowRoot!.getAnimations().length),
      0,
    );
    await page.mouse.up();
  });

  test('keyboard alone: Tab, Space, Enter, and a visible ring', async () => {
    const [s, id] = [site(), fresh()];
    const page = await s.open(`<like-button product-id="${id}" token="${s.token('ada')}"></like-button>`);
    await page.keyboard.press('Tab');
    const ring = await page.evaluate(() => {
      const style = getComputedStyle(document.activeElement!.shadowRoot!.activeElement!);
      return [style.outlineStyle, style.outlineWidth, style.outlineColor === style.color];
    });
    assert.deepEqual(ring, ['solid', '3px', true], 'as visible as the text');
    await page.keyboard.press('Space');
    await until('it is counted', async () => (await seen(page)).includes(`counted ${id}`));
    await page.keyboard.press('Enter');
    await until('it is taken back', async () => (await seen(page)).includes(`unlike ${id}`));
    assert.equal((await shown(page, id)).pressed, false);
  });

  test('screen reader gets a toggle button with the count, and failures', async () => {
    const [s, id] = [site(), fresh()];
    const page = await s.open(`<like-button product-id="${id}" count="1234" liked></like-button>`);
    const session = await page.context().newCDPSession(page);
    const { nodes } = (await session.send('Accessibility.getFullAXTree')) as {
      nodes: {
        role?: { value: string };
        name?: { value: string };
        properties?: { name: string; value: { value: unknown } }[];
      }[];
    };
    const button = nodes.find(({ role }) => role?.value === 'button')!;
    assert.match(button.name!.value, /^Like, (1.2K, 1,234|0) likes$/);
    assert.ok(button.properties!.some(({ name }) => name === 'pressed'));
    assert.ok(nodes.some(({ role }) => role?.value === 'status'));
  });

  test('strict Content-Security-Policy and trusted types on another origin', async () => {
    const [s, id] = [site(), fresh()];
    const csp = `default-src 'none'; script-src ${s.api}; connect-src ${s.api}; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'`;
    const page = await s.open(`<like-button live product-id="${id}" token="${s.token('ada')}"></like-button>`, { csp });
    await until('a stream', () => s.streams === 1);
    await click(page, id);
    await until('it is counted', async () => (await s.counted(id, 'ada')).liked === true);
    assert.deepEqual(page.log, []);
    const height = await page.locator('like-button').evaluate((element) => element.getBoundingClientRect().height);
    assert.ok(height >= 44, 'its styles apply');
  });

  test('HTML in labels and counts is text', async () => {
    const [s, id] = [site(), fresh()];
    const html = `&lt;img src=x onerror=&quot;seen.push('ran')&quot;&gt;`;
    const page = await s.open(
      `<like-button product-id="${id}" label="${html}" label-other="${html}{count}" label-auth="${html}" count="${html}"></like-button>`,
    );
    await until('the count is read', async () => (await shown(page, id)).count === '0');
    await click(page, id);
    await until('it says so', async () => (await shown(page, id)).status.startsWith('<img'));
    assert.match((await shown(page, id)).label, /^<img.*, <img.*0$/);
    assert.deepEqual(await seen(page), [`auth-required ${id}`]);
    assert.equal(await page.locator('img').count(), 0);
  });

  test('bad product id or address: a warning and a button that is off', async () => {
    const [s, id] = [site(), fresh()];
    const page = await s.open(`
      <like-button product-id="a b"></like-button><like-button></like-button>
      <like-button product-id="${id}" api="http://"></like-button>
      <like-button product-id="${id}2" api="http://127.0.0.1:9/nothing" token="${s.token('ada')}"></like-button>`);
    await until('warnings', () => page.log.filter((line) => line.includes('like-button: product id')).length === 2);
    assert.deepEqual(await shown(page, 'a b').then(({ count, disabled }) => [count, disabled]), ['–', true]);
    assert.deepEqual(await shown(page, id).then(({ count, disabled }) => [count, disabled]), ['–', true]);
    assert.deepEqual(await shown(page, `${id}2`).then(({ count, disabled }) => [count, disabled]), ['–', false]);
    await until(
      'the address is named',
      () => page.log.some((line) => line.includes('no counts from http://127.0.0.1:9/nothing')),
      30,
    );
    await page.evaluate((id) => document.querySelector('like-button')!.setAttribute('product-id', id), fresh());
    assert.equal(
      await page
        .locator('like-button')
        .first()
        .evaluate((e) => e.shadowRoot!.querySelector('button')!.disabled),
      false,
    );
    assert.deepEqual(
      page.log.filter((line) => line.includes('uncaught')),
      [],
    );
  });

  test('properties set before the element is defined are kept', async () => {
    const [s, id] = [site(), fresh()];
    const page = await s.open(`<script>
      const early = document.createElement('like-button');
      Object.assign(early, { productId: '${id}', token: () => '${s.token('ada')}', live: true, count: 3, liked: true });
      document.currentScript.after(early);</script>`);
    await until('the count is read', async () => (await shown(page, id)).count === '0');
    await click(page, id);
    await until('it is counted', async () => (await s.counted(id, 'ada')).liked === true);
    const properties = await page.evaluate(() => {
      const { productId, live, count, liked, disabled } = document.querySelector('like-button')!;
      return { productId, live, count, liked, disabled };
    });
    assert.deepEqual(properties, { productId: id, live: true, count: 1, liked: true, disabled: false });
  });

  test('a button that moves to another product forgets the first', async () => {
    const [s, id] = [site(), fresh()];
    await s.like(`${id}a`, 'bob');
    const page = await s.open(`<like-button product-id="${id}a"></like-button>`);
    await until('the first', async () => (await shown(page, `${id}a`)).count === '1');
    await page.evaluate((id) => document.querySelector('like-button')!.setAttribute('product-id', id), `${id}b`);
    await until('the second', async () => (await shown(page, `${id}b`)).count === '0');
    await page.evaluate(() => document.querySelector('like-button')!.remove());
  });

  test('client alone: like, counts, watch, my likes, top', async () => {
    const [s, id, user] = [site(), fresh(), fresh()];
    const script = `const client = new LikeClient({ api: '${s.api}', token: '${s.token(user)}' });
      const views = []; client.watch(['${id}'], (view) => views.push(view.count));
      const counted = new Promise((resolve) => client.addEventListener('counted', resolve));
      const pending = client.like('${id}');
      mine = [(await client.myLikes()).items.map(({ productId }) => productId)];
      const accepted = await pending;
      await counted;
      mine.push((await client.myLikes({ limit: 1 })).items.map(({ productId }) => productId));
      done = [accepted.liked, (await client.counts(['${id}', '${id}x'])).map(({ count }) => count), views.at(-1)];
      best = await client.top({ window: 'all', limit: 100 });`;
    const page = await s.open('<script>var done, mine, best</script>', { script });
    await until('it is counted', () => page.evaluate('Array.isArray(best)'));
    assert.deepEqual(await page.evaluate('done'), [true, [1, 0], 1]);
    assert.deepEqual(await page.evaluate('mine'), [[id], [id]], 'before it is counted, and after');
    const top = (await page.evaluate('best')) as { productId: string; count: number }[];
    assert.ok(top.length && top.every(({ count }, i) => count >= 1 && count <= (top[i - 1]?.count ?? count)), `${top}`);
  });
}
