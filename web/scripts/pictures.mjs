// `make pictures`: photographs the demo at URL (the first argument) while a like bomb is counted, and the button in its
// states, into a folder (the second).
import { writeFile } from 'node:fs/promises';
import { chromium } from 'playwright-core';

const [url, folder] = process.argv.slice(2);
/** Milliseconds between two frames, if the machine is fast enough. */
const FRAME = 150;
/** How long the last frame stays. */
const END = 4000;

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--force-color-profile=srgb'],
});
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function demo() {
  const page = await browser.newPage({ viewport: { width: 1120, height: 800 }, locale: 'en-US' });
  await page.goto(url);
  for (const product of ['mug', 'fern', 'clock']) await page.locator(`[product-id="${product}"]`).click();
  await page.evaluate(() => scrollTo(0, 150));
  // The likes of a crowd before, so that the lists have something to tell.
  const story = page.locator('#story');
  const over = async () => (await story.textContent()).includes('statements');
  const drop = async (size) => {
    await page.getByRole('radio', { name: size }).check();
    await page.locator('#drop').click();
    while (await over()) await pause(10);
  };
  await drop('1,000');
  while (!(await over())) await pause(100);
  // Renewed every five seconds.
  await page.locator('#top li').first().waitFor();

  const frames = [];
  const take = async () => {
    const path = `${folder}/${String(frames.length).padStart(3, '0')}.png`;
    frames.push({ path, at: performance.now() });
    await page.screenshot({ path });
  };
  await take();
  await drop('20,000');
  while (!(await over())) {
    const next = performance.now() + FRAME;
    await take();
    await pause(next - performance.now());
  }
  await take();
  const shown = frames.map(({ at }, i) => Math.round((frames[i + 1]?.at ?? at + END) - at));
  const lines = frames.flatMap(({ path }, i) => ['-d', `${shown[i]}`, path]);
  await writeFile(`${folder}/arguments`, `${lines.join('\n')}\n`);
  console.log(`  ${frames.length} frames; ${await story.textContent()}`);
}

/** The button in its states, in light and dark. */
async function button() {
  const page = await browser.newPage({ viewport: { width: 900, height: 400 }, deviceScaleFactor: 2, locale: 'en-US' });
  await page.goto(url);
  await page.route('**/v1/products/failed/like', (route) => route.fulfill({ status: 400, body: '{}' }));
  await page.route('**/v1/products/waiting/like', () => {});
  await page.route('**/v1/likes?**', (route) => {
    const counts = { plain: 41, liked: 1234, waiting: 7, failed: 7, focus: 1_234_567, off: 12 };
    const ids = new URL(route.request().url()).searchParams.get('ids').split(',');
    const answer = ids.map((id) => ({ productId: id, count: counts[id], updatedAt: null, liked: id === 'liked' }));
    return route.fulfill({ json: answer });
  });
  await page.evaluate(() => {
    const states = {
      plain: 'not liked',
      liked: 'liked',
      waiting: 'just clicked',
      failed: 'not saved',
      focus: 'by keyboard',
      off: 'disabled',
      none: 'unknown',
    };
    const panel = (scheme) => {
      const section = document.createElement('section');
      section.className = scheme;
      for (const [id, name] of Object.entries(states)) {
        const cell = section.appendChild(document.createElement('div'));
        const like = document.createElement('like-button');
        like.productId = id;
        like.disabled = id === 'off';
        if (id === 'none') like.api = 'http://127.0.0.1:9'; // nothing answers there
        cell.append(like, Object.assign(document.createElement('p'), { textContent: name }));
      }
      return section;
    };
    const style = new CSSStyleSheet();
    style.replaceSync(`
      body { max-width: none; padding: 0; }
      section { display: flex; padding: 24px 12px 18px; background: var(--page); color: var(--ink); }
      .light { color-scheme: light; } .dark { color-scheme: dark; }
      div { flex: 1; display: grid; justify-items: center; gap: 10px; }
      p { font-size: 14px; color: var(--soft); }
    `);
    document.adoptedStyleSheets = [style];
    document.body.replaceChildren(panel('light'), panel('dark'));
  });
  await page.locator('.dark [product-id="focus"]').getByText('1.2M').waitFor();
  for (const scheme of ['light', 'dark']) {
    await page.locator(`.${scheme} [product-id="failed"]`).click();
  }
  await page.locator('.light [product-id="waiting"]').click();
  await page.mouse.move(0, 0);
  await page.locator('.light [product-id="focus"] button').focus();
  await page.keyboard.press('Shift+Tab');
  await page.keyboard.press('Tab');
  await page.locator('.dark [part~="failed"]').waitFor();
  const box = await page.locator('body').boundingBox();
  await page.screenshot({ path: `${folder}/button.png`, clip: { ...box, x: 0, y: 0, width: 900 } });
}

try {
  await demo();
  await button();
} finally {
  await browser.close();
}
