// The client, usable without the element. What it has in common with the element: core.ts.

import { type ClientOptions, type Core, type Likes, openCore, type View } from './core.js';
import type { TokenSource } from './http.js';
import { check } from './rules.js';

export type { ClientOptions, LikeEventDetail, Likes, View } from './core.js';
export type { LikeError, Reason, TokenSource } from './http.js';

/** The service has the like and will count it. */
export interface Accepted {
  productId: string;
  liked: boolean;
  receipt: string;
}

export interface TopProduct {
  productId: string;
  /** Likes less unlikes within the window; absent for `all`. */
  gained?: number;
  /** How many people like it; for `all` only. */
  count?: number;
}

export interface MyLikes {
  items: { productId: string; likedAt: string }[];
  /** The cursor of the next page; null or absent on the last one. */
  next?: string | null;
}

/**
 * Likes, counts and their changes.
 *
 * Events: `like` and `unlike` (acknowledged), `counted`, `error` (given up); their `detail` is a
 * {@link LikeEventDetail}.
 */
export class LikeClient extends EventTarget {
  readonly #closed = new AbortController();
  readonly #core: Core;
  readonly #watched = new Set<() => void>();

  constructor(options: ClientOptions) {
    super();
    this.#core = openCore(options, this, this.#closed.signal);
  }

  get api(): string {
    return this.#core._api;
  }

  /** Another token, or none when the user signs out. */
  set token(source: TokenSource) {
    this.#core._http._set(source);
  }

  /** The user's id where no token names it. */
  set user(user: string | null) {
    this.#core._user(user);
  }

  /** No one is signed in, as far as is known: a like would be refused. */
  get anonymous(): boolean {
    return this.#core._http._anonymous();
  }

  /**
   * Likes a product. Resolves when the service has acknowledged the like: it will be counted.
   * @throws {LikeError}
   */
  like(productId: string): Promise<Accepted> {
    return this.#set(productId, true);
  }

  /** Takes a like back, see `like`. */
  unlike(productId: string): Promise<Accepted> {
    return this.#set(productId, false);
  }

  #set(productId: string, liked: boolean): Promise<Accepted> {
    check([productId]);
    const promise = new Promise<Accepted>((resolve, reject) =>
      this.#core._like(productId, liked, (error, receipt) =>
        error ? reject(error) : resolve({ productId, liked, receipt: receipt! }),
      ),
    );
    promise.catch(() => {}); // the `error` event tells
    return promise;
  }

  /**
   * Reads counts, in the order of `productIds`. Reads of the same moment share requests.
   * @throws {LikeError}
   */
  async counts(productIds: readonly string[]): Promise<Likes[]> {
    check(productIds);
    return Promise.all(productIds.map(this.#core._read));
  }

  /** The caller's liked products, newest first. What isn't counted yet is included. */
  async myLikes({ limit = 50, cursor = '' } = {}): Promise<MyLikes> {
    const path = `me/likes?limit=${limit}${cursor && `&cursor=${encodeURIComponent(cursor)}`}`;
    const page = await this.#page<MyLikes>(path, false);
    const { _outbox } = this.#core;
    const items = page.items.filter(({ productId }) => !_outbox._get(productId));
    for (const { productId, liked, at } of cursor ? [] : _outbox._all()) {
      if (liked) items.unshift({ productId, likedAt: new Date(at).toISOString() });
    }
    return { ...page, items };
  }

  /** The products with the most likes gained in a window, or with the most likes. */
  async top({ window = '24h' as '1h' | '24h' | '7d' | 'all', limit = 10 } = {}): Promise<TopProduct[]> {
    return (await this.#page<{ items: TopProduct[] }>(`likes/top?window=${window}&limit=${limit}`, true)).items;
  }

  #page<T>(path: string, open: boolean): Promise<T> {
    return this.#core._http._ask(path, { _open: open }, (body) => Array.isArray(body.items) && (body as T));
  }

  /** What to show for a product now, without a request. */
  view(productId: string): View {
    return this.#core._view(productId);
  }

  /**
   * Calls back with what to show, now and after each change, until the returned function is called.
   * Others' likes arrive by one stream for all watched products, unless `live` is false.
   */
  watch(productIds: readonly string[], callback: (view: View) => void, { live = true } = {}): () => void {
    const end = this.#core._watch(productIds, callback, live);
    this.#watched.add(end);
    return end;
  }

  /** Values that a server has rendered into the page: shown until the first read. */
  seed(productId: string, count: number | null, liked: boolean): void {
    this.#core._seed(productId, count, liked);
  }

  /** Ends its stream and its listeners. */
  close(): void {
    this.#closed.abort();
    for (const end of this.#watched) end();
    this.#core._stream(0);
  }
}
