// A browser and a service of which a test decides everything: the time, the answers, the storage.

import { type ClientOptions, LikeClient } from '../../src/client.js';

export interface Call {
  method: string;
  path: string;
  key: string | undefined;
  token: string | undefined;
  prefer: string | undefined;
  at: number;
  keepalive: boolean;
}

export interface Answer {
  status?: number;
  retryAfter?: number;
  body?: unknown;
  /** Answer at this time of the world. */
  delay?: number;
}

export class Stream extends EventTarget {
  static readonly CLOSED = 2;
  readyState = 0;
  onmessage: ((event: { data: string }) => void) | undefined;
  onerror: (() => void) | undefined;
  constructor(readonly url: string) {
    super();
    world.streams.push(this);
  }
  get ids(): string[] {
    return this.url.split('ids=')[1]!.split(',');
  }
  send(data: unknown): void {
    this.onmessage?.({ data: typeof data === 'string' ? data : JSON.stringify(data) });
  }
  refuse(): void {
    this.readyState = 2;
    this.onerror?.();
  }
  close(): void {
    this.readyState = 2;
  }
}

const real = { setTimeout, clearTimeout, setImmediate };
export const sub = (user: string): string => `x.${btoa(JSON.stringify({ sub: user })).replace(/=+$/, '')}.x`;

export class World {
  now = Date.parse('2026-11-26T10:00:00Z');
  calls: Call[] = [];
  streams: Stream[] = [];
  items = new Map<string, string>();
  storage: 'works' | 'full' | 'forbidden' = 'works';
  online = true;
  locks = true;
  warnings: string[] = [];
  /** What the service has: counts, and who likes what. */
  counts = new Map<string, number>();
  likers = new Map<string, Set<string>>();
  counted = true;
  /** Answers in place of the service's own. A thrown error is a lost connection. */
  answer: (call: Call) => Answer | undefined = () => undefined;
  readonly window = new EventTarget();
  readonly document = Object.assign(new EventTarget(), { hidden: false, baseURI: 'https://page.example/' });
  #timers = new Map<number, { at: number; run: () => void }>();
  #ids = 0;
  #locks = new Map<string, Promise<unknown>>();

  install(): void {
    const define = (name: string, value: unknown) =>
      Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
    define('fetch', (url: string, options: RequestInit) => this.#fetch(url, options));
    define('setTimeout', (run: () => void, ms = 0) => {
      this.#timers.set(++this.#ids, { at: this.now + ms, run });
      return this.#ids;
    });
    define('clearTimeout', (id: number) => this.#timers.delete(id));
    AbortSignal.timeout = (ms) => {
      const limit = new AbortController();
      setTimeout(() => limit.abort(), ms);
      return limit.signal;
    };
    define('EventSource', Stream);
    define('document', this.document);
    for (const name of ['addEventListener', 'removeEventListener', 'dispatchEvent'] as const) {
      define(name, this.window[name].bind(this.window));
    }
    const world = this;
    const check = () => {
      if (this.storage === 'forbidden') throw new Error('forbidden');
    };
    define(
      'localStorage',
      new Proxy({} as Record<string, unknown>, {
        ownKeys: () => (check(), [...this.items.keys()]),
        getOwnPropertyDescriptor: () => ({ enumerable: true, configurable: true }),
        get: (_, name) =>
          ({
            getItem: (key: string) => (check(), this.items.get(key) ?? null),
            removeItem: (key: string) => (check(), this.items.delete(key)),
            setItem: (key: string, value: string) => {
              check();
              if (this.storage === 'full') throw new Error('quota');
              this.items.set(key, value);
            },
          })[name as 'getItem'],
      }),
    );
    define('navigator', {
      get onLine() {
        return world.online;
      },
      get locks() {
        return world.locks ? locks : undefined;
      },
    });
    const locks = {
      request: (name: string, work: () => Promise<unknown>) => {
        const run = (this.#locks.get(name) ?? Promise.resolve()).then(work);
        this.#locks.set(name, run);
        return run;
      },
    };
    define(
      'CustomEvent',
      class extends Event {
        detail: unknown;
        constructor(type: string, init: CustomEventInit) {
          super(type, init);
          this.detail = init.detail;
        }
      },
    );
    Date.now = () => this.now;
    console.warn = (...args: unknown[]) => this.warnings.push(args.map(String).join(' '));
  }

  client(options: Partial<ClientOptions> = {}): LikeClient {
    return new LikeClient({ api: 'https://likes.example', token: sub('ada'), ...options });
  }

  likes(id: string, user: string | undefined) {
    const liked = user ? { liked: !!this.likers.get(id)?.has(user) } : {};
    return { productId: id, count: this.counts.get(id) ?? 0, updatedAt: new Date(this.now).toISOString(), ...liked };
  }

  writes(): Call[] {
    return this.calls.filter(({ method }) => method !== 'GET');
  }
  reads(): Call[] {
    return this.calls.filter(({ path }) => path.startsWith('/v1/likes?'));
  }

  async #fetch(url: string, options: RequestInit): Promise<unknown> {
    const headers = (options.headers ?? {}) as Record<string, string>;
    const call: Call = {
      method: options.method ?? 'GET',
      path: url.replace('https://likes.example', ''),
      key: headers['idempotency-key'],
      token: headers['authorization']?.replace('Bearer ', ''),
      prefer: headers['prefer'],
      at: this.now,
      keepalive: !!options.keepalive,
    };
    this.calls.push(call);
    if (!this.online) throw new TypeError('Failed to fetch');
    const own = this.answer(call);
    const answer = own ?? this.#serve(call);
    if (answer.delay) await new Promise<void>((done) => setTimeout(done, answer.delay));
    const { status = 200, retryAfter, body } = answer;
    return {
      ok: status < 300,
      status,
      headers: {
        get: (name: string) => (name === 'retry-after' && retryAfter !== undefined ? String(retryAfter) : null),
      },
      json: async () => {
        if (body instanceof Error) throw body;
        return body;
      },
    };
  }

  #serve({ method, path, token }: Call): Answer {
    const user = token ? (JSON.parse(atob(token.split('.')[1]!)).sub as string) : undefined;
    if (method !== 'GET') {
      const id = path.split('/')[3]!;
      const likers = this.likers.get(id) ?? new Set();
      this.likers.set(id, likers);
      const before = likers.size;
      if (method === 'PUT') likers.add(user!);
      else likers.delete(user!);
      this.counts.set(id, (this.counts.get(id) ?? 0) + likers.size - before);
      return {
        status: 202,
        body: { eventId: 'e', productId: id, liked: method === 'PUT', receipt: `1-0-${this.calls.length}` },
      };
    }
    if (path.startsWith('/v1/receipts/')) return { body: { status: this.counted ? 'counted' : 'pending' } };
    return {
      body: path
        .split('ids=')[1]!
        .split(',')
        .map((id) => this.likes(id, user)),
    };
  }

  /** Lets all that is due happen, and then what is due within `ms`. */
  async pass(ms = 0): Promise<void> {
    const end = this.now + ms;
    await this.settle();
    for (;;) {
      const due = [...this.#timers].filter(([, { at }]) => at <= end).sort(([, a], [, b]) => a.at - b.at)[0];
      if (!due) break;
      this.#timers.delete(due[0]);
      this.now = Math.max(this.now, due[1].at);
      due[1].run();
      await this.settle();
    }
    this.now = end;
  }

  async settle(): Promise<void> {
    for (let i = 0; i < 10; i++) await new Promise((done) => real.setImmediate(done));
  }

  /** What another tab would be told about the storage. */
  tellStorage(): void {
    this.window.dispatchEvent(new Event('storage'));
  }
}

export let world: World;
export function newWorld(): World {
  world = new World();
  world.install();
  return world;
}
