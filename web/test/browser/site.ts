// A shop's page on one origin, and in front of the real like-api, on another origin, a proxy that
// can cut, slow down and fake answers. The service's address and secret are in the environment
// (web/test.sh).

import { createHmac, randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type Browser, type BrowserContext, type BrowserContextOptions, chromium, type Page } from 'playwright-core';

export function setting(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: make test-web sets it`);
  return value;
}

/** What the proxy does in place of forwarding. `perhaps` forwards it and answers 504. */
export type Fault =
  | { status: number; retryAfter?: number; body?: string }
  | { delay: number }
  | 'cut'
  | 'perhaps'
  | undefined;

export interface Request {
  method: string;
  url: string;
  key: string | undefined;
  user: string | undefined;
  /** That of the answer; undefined while it is awaited, 0 after a cut. */
  status: number | undefined;
}

export async function until(what: string, condition: () => unknown | Promise<unknown>, seconds = 15): Promise<void> {
  const end = Date.now() + seconds * 1000;
  while (!(await condition())) {
    if (Date.now() > end) throw new Error(`not within ${seconds} s: ${what}`);
    await new Promise((done) => setTimeout(done, 25));
  }
}

export class Site {
  readonly service = setting('LIKE_API_URL');
  requests: Request[] = [];
  fault: (request: Request) => Fault = () => undefined;
  /** Open streams. */
  streams = 0;
  browser!: Browser;
  shop!: string;
  api!: string;
  #servers: Server[] = [];
  #pages = new Map<string, { html: string; csp: string | undefined }>();
  #contexts: BrowserContext[] = [];

  static async start(): Promise<Site> {
    const site = new Site();
    const page = new URL(setting('WEB_PAGE_ORIGIN'));
    site.shop = page.origin;
    await site.#listen((request, response) => site.#page(request, response), page.hostname, Number(page.port));
    const port = await site.#listen((request, response) => site.#proxy(request, response), '127.0.0.1', 0);
    site.api = `http://127.0.0.1:${port}`;
    site.browser = await chromium.launch({
      executablePath: process.env['CHROMIUM'] ?? '/usr/bin/chromium',
      args: ['--no-sandbox', '--disable-gpu', '--force-color-profile=srgb'],
    });
    return site;
  }

  async stop(): Promise<void> {
    await this.browser.close();
    for (const server of this.#servers) {
      server.closeAllConnections();
      server.close();
    }
  }

  /** Between two tests. */
  async reset(): Promise<void> {
    this.fault = () => undefined;
    for (const context of this.#contexts.splice(0)) await context.close();
    this.requests = [];
  }

  #listen(
    handle: (request: IncomingMessage, response: ServerResponse) => unknown,
    host: string,
    port: number,
  ): Promise<number> {
    const server = createServer((request, response) => {
      Promise.resolve(handle(request, response)).catch((error) => response.destroy(error));
    });
    this.#servers.push(server);
    return new Promise((resolve, reject) => {
      server.on('error', reject);
      server.listen(port, host, () => resolve((server.address() as AddressInfo).port));
    });
  }

  #page({ url = '' }: IncomingMessage, response: ServerResponse): void {
    const page = this.#pages.get(url);
    if (!page) {
      response.writeHead(404).end();
      return;
    }
    response.setHeader('content-type', 'text/html; charset=utf-8');
    if (page.csp) response.setHeader('content-security-policy', page.csp);
    response.end(page.html);
  }

  async #proxy(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method = '', url = '', headers } = incoming;
    const cors = () => {
      response.setHeader('access-control-allow-origin', '*');
      response.setHeader('access-control-expose-headers', 'retry-after');
    };
    if (/^\/(like-button|client)\.js$/.test(url)) {
      cors();
      response.setHeader('content-type', 'text/javascript');
      response.end(await readFile(`dist${url}`));
      return;
    }
    const request: Request = {
      method,
      url,
      key: headers['idempotency-key'] as string | undefined,
      user: userOf(headers.authorization),
      status: undefined,
    };
    if (method !== 'OPTIONS') this.requests.push(request);
    const fault = method === 'OPTIONS' ? undefined : this.fault(request);
    if (fault === 'cut') {
      request.status = 0;
      response.destroy();
      return;
    }
    if (typeof fault === 'object' && 'status' in fault) {
      cors();
      request.status = fault.status;
      response.statusCode = fault.status;
      if (fault.retryAfter) response.setHeader('retry-after', fault.retryAfter);
      response.end(fault.body ?? JSON.stringify({ title: 'A fault', detail: 'of a test' }));
      return;
    }
    if (typeof fault === 'object') await new Promise((done) => setTimeout(done, fault.delay));
    const gone = new AbortController();
    const stream = url.includes('/likes/stream');
    // A like goes on to the service even if its page is gone.
    if (method === 'GET') response.on('close', () => gone.abort());
    const sent = Object.entries(headers).filter(
      ([name]) => !/^(host|connection|accept-encoding|keep-alive)$/.test(name),
    );
    try {
      const answer = await fetch(this.service + url, {
        method,
        headers: sent as [string, string][],
        signal: gone.signal,
      });
      if (fault === 'perhaps') {
        cors();
        request.status = response.statusCode = 504;
        response.end('{}');
        return;
      }
      answer.headers.forEach((value, name) => {
        if (!/^(transfer-encoding|connection|content-length)$/.test(name)) response.setHeader(name, value);
      });
      request.status = response.statusCode = answer.status;
      response.flushHeaders();
      if (stream) this.streams++;
      // Node.js can iterate it; the types of the DOM don't know.
      for await (const chunk of answer.body as unknown as AsyncIterable<Uint8Array>) response.write(chunk);
      response.end();
    } catch (error) {
      if (!gone.signal.aborted) throw error;
    } finally {
      if (stream && request.status === 200) this.streams--;
    }
  }

  /** A token that the service accepts for `seconds`. */
  token(user: string, seconds = 600): string {
    const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
    const claims = {
      sub: user,
      iss: setting('JWT_ISSUER'),
      aud: setting('JWT_AUDIENCE'),
      exp: Math.floor(Date.now() / 1000) + seconds,
    };
    const signed = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`;
    return `${signed}.${createHmac('sha256', setting('JWT_SECRET')).update(signed).digest('base64url')}`;
  }

  async context(options: BrowserContextOptions = {}): Promise<BrowserContext> {
    const context = await this.browser.newContext({ locale: 'en-US', ...options });
    context.setDefaultTimeout(15_000);
    this.#contexts.push(context);
    return context;
  }

  /**
   * Opens a page with this body. `page.log` has its console and errors. Events of buttons are in
   * the page's `seen`.
   */
  async open(
    body: string,
    { context, csp, head = '', lang = 'en', script = '', init }: OpenOptions = {},
  ): Promise<Page & { log: string[] }> {
    const path = `/${randomUUID()}`;
    const inline = csp
      ? ''
      : `<script>seen = [];
          for (const type of ['like', 'unlike', 'counted', 'error', 'auth-required'])
            document.addEventListener(type, ({ type, detail }) =>
              seen.push([type, detail?.productId, detail?.error?.reason].filter(Boolean).join(' ')), true);
        </script>`;
    const html = `<!doctype html><html ${lang && `lang="${lang}"`}><head><meta charset="utf-8"><title>Shop</title>
      <meta name="viewport" content="width=device-width">${inline}
      <script type="module" src="${this.api}/like-button.js"></script>
      ${script && `<script type="module">import { LikeButton } from '${this.api}/like-button.js'; import { LikeClient } from '${this.api}/client.js'; ${script}</script>`}
      ${head}</head><body><main><h1>Shop</h1>${body}</main></body></html>`;
    this.#pages.set(path, { html, csp });
    const page = (await (context ?? (await this.context())).newPage()) as Page & { log: string[] };
    page.log = [];
    page.on('console', (message) => page.log.push(message.text()));
    page.on('pageerror', (error) => page.log.push(`uncaught: ${error.message}`));
    if (init) await page.addInitScript(init);
    await page.goto(this.shop + path);
    return page;
  }

  writes(id = ''): Request[] {
    return this.requests.filter(({ method, url }) => method !== 'GET' && url.includes(id));
  }
  reads(id = ''): Request[] {
    return this.requests.filter(({ url }) => url.startsWith('/v1/likes?') && url.includes(id));
  }

  /** What the service says, past the proxy. */
  async counted(id: string, user?: string): Promise<{ count: number; liked?: boolean }> {
    const headers: Record<string, string> = user ? { authorization: `Bearer ${this.token(user)}` } : {};
    const answer = await fetch(`${this.service}/v1/products/${id}/likes`, { headers });
    return (await answer.json()) as { count: number };
  }

  /** Another user's like, past the proxy. */
  async like(id: string, user: string): Promise<void> {
    const headers = { authorization: `Bearer ${this.token(user)}` };
    const answer = await fetch(`${this.service}/v1/products/${id}/like`, { method: 'PUT', headers });
    if (answer.status !== 202) throw new Error(`a like was refused: ${answer.status}`);
    const { receipt } = (await answer.json()) as { receipt: string };
    await fetch(`${this.service}/v1/receipts/${receipt}`, { headers: { prefer: 'wait=10' } });
  }
}

export interface OpenOptions {
  context?: BrowserContext;
  csp?: string;
  head?: string;
  lang?: string;
  script?: string;
  init?: string | (() => void);
}

function userOf(authorization: string | undefined): string | undefined {
  const claims = authorization?.split('.')[1];
  return claims && (JSON.parse(Buffer.from(claims, 'base64url').toString()) as { sub: string }).sub;
}

/** A product id of its own for each test. */
export const fresh = (): string => `w-${randomUUID().slice(0, 13)}`;

/** What axe-core finds wrong. */
export async function axe(page: Page): Promise<string[]> {
  await page.evaluate(await readFile('node_modules/axe-core/axe.min.js', 'utf8'));
  const found = (await page.evaluate('axe.run()')) as { violations: { id: string; nodes: { html: string }[] }[] };
  return found.violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html)}`);
}

export interface Shown {
  pressed: boolean;
  count: string;
  label: string;
  title: string;
  part: string;
  status: string;
  disabled: boolean;
}

export const shown = (page: Page, id: string): Promise<Shown> =>
  page
    .locator(`like-button[product-id="${id}"]`)
    .first()
    .evaluate((element) => {
      const root = element.shadowRoot!;
      const button = root.querySelector('button')!;
      return {
        pressed: button.ariaPressed === 'true',
        count: root.querySelector('[part=count]')!.textContent!,
        label: button.ariaLabel!,
        title: button.title,
        part: button.getAttribute('part')!,
        status: root.querySelector('[part=status]')!.textContent!,
        disabled: button.disabled,
      };
    });

export const click = (page: Page, id: string): Promise<void> =>
  page.locator(`like-button[product-id="${id}"]`).first().click();
export const seen = (page: Page): Promise<string[]> => page.evaluate('seen') as Promise<string[]>;
