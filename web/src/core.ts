// What the element and the client share: what is known of products, who watches them, and the reads.
// How a like is kept and sent: outbox.ts. Requests: http.ts. The stream: live.ts.

import { connect, failure, type LikeError, type TokenSource } from './http.js';
import { openStream } from './live.js';
import { type Done, openOutbox } from './outbox.js';
import { batches, check, emit, warn } from './rules.js';

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
  updatedAt?: string;
  /** The number of the read that this is from; absent: none yet. */
  _read?: number;
  /** When it was read, in milliseconds. */
  _at?: number;
}

interface Watcher {
  _ids: readonly string[];
  _show: (view: View) => void;
  _live: boolean;
  /** Receives the events of likes that were clicked before the page was loaded. */
  _target: EventTarget | undefined;
}

interface Batch {
  _ids: Set<string>;
  _done: Promise<Map<string, Likes>>;
}

/** In milliseconds. */
enum Time {
  /** Reads that are asked for within this time share a request. */
  Gather = 20,
  /** The pause before products that couldn't be read are read again. */
  ReadAgain = 60_000,
  /** A stream may be behind a read by its interval. */
  StreamDelay = 10_000,
  Window = 48 * 3600 * 1000,
}

const isCount = (count: unknown) => Number.isFinite(count) && (count as number) >= 0;

export type Core = ReturnType<typeof openCore>;

/** Its events go to `client`, and to the target of the like. Its listeners end with `signal`. */
export function openCore(
  { api: url, token, credentials = 'omit', user = null, dedupWindow = Time.Window }: ClientOptions,
  client?: EventTarget,
  signal?: AbortSignal,
) {
  const api = new URL(url, globalThis.document?.baseURI).href.replace(/[?#].*|\/+$/g, '');
  const known = new Map<string, Known>();
  const watchers = new Set<Watcher>();
  let batch: Batch | undefined;
  let reads = 0;
  /** Reads up to this one were of another user. */
  let others = 0;

  const http = connect(api, credentials, () => user, identify);
  const outbox = openOutbox(api, http, dedupWindow, {
    _changed: notify,
    _read: read,
    _happened(type, { productId, liked, key, receipt, _target }, error) {
      if (error) warn(`like of ${productId}:`, error);
      const detail: LikeEventDetail = { productId, liked, key, receipt, error };
      // After a reload nothing was clicked: the first button of the product reports.
      const shown = _target ?? [...watchers].find(({ _ids }) => _ids.includes(productId))?._target;
      emit(client, type, detail);
      emit(shown, type, detail);
    },
  });
  const stream = openStream(
    api,
    () => new Set([...watchers].flatMap(({ _ids, _live }) => (_live ? _ids : []))),
    received,
  );
  http._set(token ?? null);

  const on = (target: EventTarget | undefined, type: string, listener: () => void) =>
    target?.addEventListener?.(type, listener, { signal: signal! });
  on(globalThis.document, 'visibilitychange', back);
  on(globalThis as never, 'online', back);
  on(globalThis as never, 'pagehide', outbox._flush);
  on(globalThis as never, 'storage', outbox._load);

  function back(): void {
    stream(0);
    fill();
  }

  /** The token has changed. Another user sees other likes as their own. */
  function identify(other: boolean): void {
    others = reads;
    if (other) outbox._forget();
    for (const [id, likes] of known) {
      delete likes._read;
      if (other) delete likes.liked;
      notify(id);
    }
    outbox._load();
    fill();
  }

  function notify(productId: string): void {
    for (const { _ids, _show } of watchers) if (_ids.includes(productId)) _show(view(productId));
  }

  function view(productId: string): View {
    check([productId]);
    const { count = null, liked: before = false } = known.get(productId) ?? {};
    const desired = outbox._get(productId);
    const liked = desired?.liked ?? before;
    return {
      productId,
      count: count === null ? null : Math.max(0, count + +liked - +before),
      liked,
      pending: !!desired && !desired.receipt,
    };
  }

  /** Reads what is watched and hasn't been read. */
  function fill(): void {
    for (const id of [...watchers].flatMap(({ _ids }) => _ids)) {
      if (!known.get(id)?._read) read(id).catch(() => setTimeout(fill, Time.ReadAgain));
    }
  }

  async function read(productId: string): Promise<Likes> {
    if (!batch) {
      const ids = new Set<string>();
      batch = { _ids: ids, _done: readAll(ids) };
    }
    batch._ids.add(productId);
    return (await batch._done).get(productId)!;
  }

  async function readAll(all: Set<string>): Promise<Map<string, Likes>> {
    await new Promise((resolve) => setTimeout(resolve, Time.Gather));
    await http._ready();
    batch = undefined;
    const number = ++reads;
    const found = new Map<string, Likes>();
    const lists = batches(all).map(async (ids) => {
      await http._ask(`likes?ids=${ids}`, { _open: true }, (body: Likes[]) => {
        for (const likes of body) if (isCount(likes.count)) found.set(likes.productId, likes);
        return ids.every((id) => found.has(id));
      });
      for (const id of ids) learn(found.get(id)!, number);
    });
    try {
      await Promise.all(lists);
    } catch (error) {
      warn(`no counts from ${api}:`, error);
      throw error;
    }
    return found;
  }

  function learn({ productId, count, liked, updatedAt }: Likes, number: number): void {
    const before = known.get(productId);
    // An answer for another user, or one that was overtaken.
    if (number <= others || (before && before._read! > number)) return;
    known.set(productId, {
      count,
      liked: liked ?? before?.liked,
      updatedAt: updatedAt ?? '',
      _read: number,
      _at: Date.now(),
    });
    notify(productId);
  }

  function received(data: string): void {
    try {
      const { productId, count, updatedAt: at }: Likes = JSON.parse(data);
      const updatedAt = at ?? '';
      const before = known.get(productId);
      // A count of the stream may or may not include what the user wants: the read after it will tell.
      if (!isCount(count) || outbox._get(productId)) return;
      // Nor does a stream that is behind the last read bring its count back.
      if (before && updatedAt < before.updatedAt! && Math.abs(Date.now() - before._at!) < Time.StreamDelay) return;
      known.set(productId, { ...before, count, updatedAt });
      notify(productId);
    } catch {
      // Not an event of the service.
    }
  }

  return {
    _api: api,
    _http: http,
    _outbox: outbox,
    _read: read,
    _stream: stream,
    _view: view,

    /** Another user, where no token names them. */
    _user(next: string | null): void {
      if (next === user) return;
      user = next;
      identify(true);
    },

    /** Values that a server has rendered into the page: shown until the first read. */
    _seed(productId: string, count: number | null, liked: boolean): void {
      if (known.get(productId)?._read) return;
      known.set(productId, { count, liked });
      notify(productId);
    },

    /** Likes a product, or takes the like back. */
    _like(productId: string, liked: boolean, done: Done, target?: EventTarget): void {
      check([productId]);
      if (http._anonymous()) {
        http._renew(false); // for the next click
        done(failure('auth'));
      } else outbox._want(productId, liked, done, target);
    },

    /** Calls `show` now and after each change, until the returned function is called. */
    _watch(ids: readonly string[], show: Watcher['_show'], live = true, target?: EventTarget): () => void {
      const watcher: Watcher = { _ids: ids, _show: show, _live: live, _target: target };
      for (const id of ids) show(view(id));
      watchers.add(watcher);
      fill();
      stream();
      return () => {
        watchers.delete(watcher);
        stream();
      };
    },
  };
}
