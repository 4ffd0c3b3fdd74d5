// The client: likes, counts and their changes of one service. Usable without the element.
// How a like is kept and sent: outbox.ts. Requests: http.ts. The stream: live.ts.

import { connect, failure, type Http, type LikeError, type TokenSource } from './http.js';
import { openStream } from './live.js';
import { type Accepted, type Outbox, openOutbox } from './outbox.js';
import { batches, check } from './rules.js';

export type { LikeError, Reason, TokenSource } from './http.js';
export type { Accepted };

export interface ClientOptions {
  /** URL of the service, with its path if it has one: `https://shop.example/likes`. */
  api: string;
  /** A token, or a function that returns one and is called again after a `401`. */
  token?: TokenSource;
  /** `same-origin` or `include` where a gateway knows the caller by a cookie; `omit` (default) with tokens. */
  credentials?: RequestCredentials | undefined;
  /** The user's id, if the token isn't a JWT whose `sub` has it. Without it likes aren't kept across reloads. */
  user?: string | null | undefined;
  /** How long the service remembers keys (its `DEDUP_WINDOW`), in milliseconds; 48 hours by default. */
  dedupWindow?: number;
}

/** What the service knows about a product. */
export interface Likes {
  productId: string;
  count: number;
  /** Null: never liked. */
  updatedAt: string | null;
  /** Absent for anonymous callers. */
  liked?: boolean;
}

/** What to show for a product: what the service knows, and over it what the user wants. */
export interface View {
  productId: string;
  /** Null: unknown. */
  count: number | null;
  liked: boolean;
  /** The service hasn't acknowledged the user's last click yet. */
  pending: boolean;
}

export interface TopProduct {
  productId: string;
  count: number;
}

export interface MyLikes {
  items: { productId: string; likedAt: string }[];
  /** The cursor of the next page; null or absent on the last one. */
  next?: string | null;
}

export interface LikeEventDetail {
  productId: string;
  liked: boolean;
  /** Names the click. */
  key: string;
  receipt: string | undefined;
  /** With `error` events. */
  error: LikeError | undefined;
}

interface Known {
  count: number | null;
  liked?: boolean | undefined;
  updatedAt: string;
  /** The number of the read that this is from; 0: none yet. */
  read: number;
  /** When it was read, in milliseconds. */
  at: number;
}

interface Watcher {
  ids: readonly string[];
  callback: (view: View) => void;
  live: boolean;
  target: EventTarget | undefined;
}

interface Batch {
  ids: Set<string>;
  done: Promise<Map<string, Likes>>;
}

/** Reads that are asked for within this time share a request. */
const GATHER = 20;
/** The pause before products that couldn't be read are read again. */
const READ_AGAIN = 60_000;
/** A stream may be behind a read by its interval. */
const STREAM_DELAY = 10_000;
const WINDOW = 48 * 3600 * 1000;

const isCount = (count: unknown) => Number.isFinite(count) && (count as number) >= 0;

/**
 * Likes, counts and their changes.
 *
 * Events: `like` and `unlike` (acknowledged), `counted`, `error` (given up); their `detail` is a
 * {@link LikeEventDetail}.
 */
export class LikeClient extends EventTarget {
  readonly api: string;
  readonly #http: Http;
  readonly #outbox: Outbox;
  readonly #stream: (delay?: number) => void;
  readonly #known = new Map<string, Known>();
  readonly #watchers = new Set<Watcher>();
  readonly #closed = new AbortController();
  #user: string | null;
  #batch: Batch | undefined;
  #reads = 0;
  /** Reads up to this one were of another user. */
  #others = 0;

  constructor({ api, token, credentials = 'omit', user = null, dedupWindow = WINDOW }: ClientOptions) {
    super();
    this.api = new URL(api, globalThis.document?.baseURI).href.replace(/[?#].*|\/+$/g, '');
    this.#user = user;
    this.#http = connect(
      this.api,
      credentials,
      () => this.#user,
      (other) => this.#identify(other),
    );
    this.#outbox = openOutbox(this.#http, dedupWindow, {
      changed: (id) => this.#notify(id),
      read: (id) => this.#read(id),
      happened: (type, { productId, liked, key, receipt, target }, error) => {
        if (error) console.warn(`like-button: like of ${productId}:`, error);
        const detail: LikeEventDetail = { productId, liked, key, receipt, error };
        // After a reload nothing was clicked: the first button of the product reports.
        const shown = target ?? [...this.#watchers].find(({ ids }) => ids.includes(productId))?.target;
        // An error that bubbles would be one of the page.
        for (const each of [this, shown])
          each?.dispatchEvent(new CustomEvent(type, { detail, bubbles: !error, composed: true }));
      },
    });
    this.#stream = openStream(
      this.api,
      () => new Set([...this.#watchers].flatMap(({ ids, live }) => (live ? ids : []))),
      (data) => this.#received(data),
    );
    this.#http.set(token ?? null);
    this.#listen();
  }

  /** Another token, or none when the user signs out. */
  set token(source: TokenSource) {
    this.#http.set(source);
  }

  /** The user's id where no token names it. */
  set user(user: string | null) {
    if (user === this.#user) return;
    this.#user = user;
    this.#identify(true);
  }

  /** No one is signed in, as far as is known: a like would be refused. */
  get anonymous(): boolean {
    return this.#http.anonymous();
  }

  /**
   * Likes a product. Resolves when the service has acknowledged the like: it will be counted.
   * @throws {LikeError}
   */
  like(productId: string): Promise<Accepted> {
    return this.set(productId, true);
  }

  /** Takes a like back, see `like`. */
  unlike(productId: string): Promise<Accepted> {
    return this.set(productId, false);
  }

  /** `like` or `unlike`; `target` receives the events too. */
  set(productId: string, liked: boolean, target?: EventTarget): Promise<Accepted> {
    check([productId]);
    if (this.anonymous) {
      this.#http.renew(false); // for the next click
      return Promise.reject(failure('auth'));
    }
    return this.#outbox.want(productId, liked, target);
  }

  /**
   * Reads counts, in the order of `productIds`. Reads of the same moment share requests.
   * @throws {LikeError}
   */
  async counts(productIds: readonly string[]): Promise<Likes[]> {
    check(productIds);
    return Promise.all(productIds.map((id) => this.#read(id)));
  }

  /** The caller's liked products, newest first. What isn't counted yet is included. */
  async myLikes({ limit = 50, cursor = '' } = {}): Promise<MyLikes> {
    const page: MyLikes = await this.#page(
      `me/likes?limit=${limit}${cursor && `&cursor=${encodeURIComponent(cursor)}`}`,
      false,
    );
    const items = page.items.filter(({ productId }) => !this.#outbox.get(productId));
    for (const { productId, liked, at } of cursor ? [] : this.#outbox.all()) {
      if (liked) items.unshift({ productId, likedAt: new Date(at).toISOString() });
    }
    return { ...page, items };
  }

  /** The products with the most likes gained in a window, or with the most likes. */
  async top({ window = '24h' as '1h' | '24h' | '7d' | 'all', limit = 10 } = {}): Promise<TopProduct[]> {
    return (await this.#page<{ items: TopProduct[] }>(`likes/top?window=${window}&limit=${limit}`, true)).items;
  }

  #page<T>(path: string, open: boolean): Promise<T> {
    return this.#http.ask(`/v1/${path}`, { open }, (body) => Array.isArray(body.items) && (body as T));
  }

  /** What to show for a product now, without a request. */
  view(productId: string): View {
    check([productId]);
    const { count = null, liked: before = false } = this.#known.get(productId) ?? {};
    const desired = this.#outbox.get(productId);
    const liked = desired?.liked ?? before;
    return {
      productId,
      count: count === null ? null : Math.max(0, count + +liked - +before),
      liked,
      pending: !!desired && !desired.receipt,
    };
  }

  /**
   * Calls back with what to show, now and after each change, until the returned function is called.
   * Others' likes arrive by one stream for all watched products, unless `live` is false. `target`
   * receives events of likes that were clicked before the page was loaded.
   */
  watch(
    productIds: readonly string[],
    callback: Watcher['callback'],
    options: { live?: boolean; target?: EventTarget } = {},
  ): () => void {
    const watcher: Watcher = { ids: productIds, callback, live: true, target: undefined, ...options };
    for (const id of productIds) callback(this.view(id));
    this.#watchers.add(watcher);
    this.#fill();
    this.#stream();
    return () => {
      this.#watchers.delete(watcher);
      this.#stream();
    };
  }

  /** Values that a server has rendered into the page: shown until the first read. */
  seed(productId: string, count: number | null, liked: boolean): void {
    if (this.#known.get(productId)?.read) return;
    this.#known.set(productId, { count, liked, updatedAt: '', read: 0, at: 0 });
    this.#notify(productId);
  }

  /** Ends its stream and its listeners. */
  close(): void {
    this.#closed.abort();
    this.#watchers.clear();
    this.#stream(0);
  }

  #listen(): void {
    const on = (target: EventTarget | undefined, type: string, listener: (event: never) => void) =>
      target?.addEventListener?.(type, listener as EventListener, this.#closed);
    const back = () => {
      this.#stream(0);
      this.#fill();
    };
    on(globalThis.document, 'visibilitychange', back);
    on(globalThis as never, 'online', back);
    on(globalThis as never, 'pagehide', () => this.#outbox.flush());
    on(globalThis as never, 'storage', this.#outbox.load);
  }

  /** The token has changed. Another user sees other likes as their own. */
  #identify(other: boolean): void {
    this.#others = this.#reads;
    if (other) this.#outbox.forget();
    for (const [id, known] of this.#known) {
      known.read = 0;
      if (other) known.liked = undefined;
      this.#notify(id);
    }
    this.#outbox.load();
    this.#fill();
  }

  #notify(productId: string): void {
    for (const { ids, callback } of this.#watchers) if (ids.includes(productId)) callback(this.view(productId));
  }

  /** Reads what is watched and hasn't been read. */
  #fill(): void {
    for (const id of [...this.#watchers].flatMap(({ ids }) => ids)) {
      if (!this.#known.get(id)?.read) this.#read(id).catch(() => setTimeout(() => this.#fill(), READ_AGAIN));
    }
  }

  async #read(productId: string): Promise<Likes> {
    if (!this.#batch) {
      const ids = new Set<string>();
      this.#batch = { ids, done: this.#readAll(ids) };
    }
    this.#batch.ids.add(productId);
    return (await this.#batch.done).get(productId)!;
  }

  async #readAll(all: Set<string>): Promise<Map<string, Likes>> {
    await new Promise((resolve) => setTimeout(resolve, GATHER));
    await this.#http.ready();
    this.#batch = undefined;
    const read = ++this.#reads;
    const found = new Map<string, Likes>();
    const lists = batches(all).map(async (ids) => {
      await this.#http.ask(`/v1/likes?ids=${ids}`, { open: true }, (body: Likes[]) => {
        for (const likes of body) if (isCount(likes.count)) found.set(likes.productId, likes);
        return ids.every((id) => found.has(id));
      });
      for (const id of ids) this.#learn(found.get(id)!, read);
    });
    try {
      await Promise.all(lists);
    } catch (error) {
      console.warn(`like-button: no counts from ${this.api}:`, error);
      throw error;
    }
    return found;
  }

  #learn({ productId, count, liked, updatedAt }: Likes, read: number): void {
    const known = this.#known.get(productId);
    // An answer for another user, or one that was overtaken.
    if (read <= this.#others || (known && known.read > read)) return;
    this.#known.set(productId, {
      count,
      liked: liked ?? known?.liked,
      updatedAt: updatedAt ?? '',
      read,
      at: Date.now(),
    });
    this.#notify(productId);
  }

  #received(data: string): void {
    try {
      const { productId, count, updatedAt: at }: Likes = JSON.parse(data);
      const updatedAt = at ?? '';
      const known = this.#known.get(productId);
      // A count of the stream may or may not include what the user wants: the read after it will tell.
      if (!isCount(count) || this.#outbox.get(productId)) return;
      // Nor does a stream that is behind the last read bring its count back.
      if (known && updatedAt < known.updatedAt && Math.abs(Date.now() - known.at) < STREAM_DELAY) return;
      this.#known.set(productId, { read: 0, at: 0, ...known, count, updatedAt });
      this.#notify(productId);
    } catch {
      // Not an event of the service.
    }
  }
}
