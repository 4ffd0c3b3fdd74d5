// What the user wants and the service hasn't counted yet: stored before it is sent, sent in order,
// one request of a product at a time, and removed once its receipt says `counted`.

import { type Ask, failure, type Http, type LikeError, pause, pauseAfter } from './http.js';
import { uuid7 } from './rules.js';
import { type Desired, openStore } from './store.js';

/** Called once the service has acknowledged a like, or never will. */
export type Done = (error: LikeError | undefined, receipt?: string) => void;

export interface Listener {
  /** What the user wants for this product has changed. */
  _changed(productId: string): void;
  /** Reads this product's likes: what has happened is in them. */
  _read(productId: string): Promise<unknown>;
  _happened(
    type: 'like' | 'unlike' | 'counted' | 'error',
    desired: Desired & { _target?: EventTarget | undefined },
    error?: LikeError,
  ): void;
}

/** Likes of one user that may wait in a browser. */
enum Most {
  Waiting = 200,
}

/** With the request that sends it. */
interface Pending extends Desired, Ask {
  /** Of another tab, or of this page before it was loaded again. */
  _found: boolean;
  /** What was clicked. */
  _target: EventTarget | undefined;
  _done: Done;
}

const path = (productId: string) => `products/${productId}/like`;

export type Outbox = ReturnType<typeof openOutbox>;

/** `window` is how long the service remembers keys, in milliseconds. */
export function openOutbox(
  api: string,
  http: Http,
  window: number,
  { _changed: changed, _read: read, _happened: happened }: Listener,
) {
  const caller = http._caller;
  const store = openStore(api);
  const waiting = new Map<string, Pending>();
  const sending = new Set<string>();

  const current = (pending: Pending) => waiting.get(pending.productId) === pending;
  // A clock that was put back makes ages negative.
  const fresh = ({ at }: Desired, windows = 1) => Math.abs(Date.now() - at) <= window * windows;
  const unsent = (productId: string) => {
    const pending = waiting.get(productId);
    return pending?.receipt === undefined ? pending : undefined;
  };

  function add(desired: Desired, found: boolean, done: Done = () => {}, target?: EventTarget): void {
    const { productId, liked, key, receipt } = desired;
    const old = waiting.get(productId);
    const pending: Pending = {
      ...desired,
      _found: found,
      _target: target,
      _done: done,
      method: liked ? 'PUT' : 'DELETE',
      headers: { 'idempotency-key': key },
      _wanted: () => current(pending) && pending.user === caller() && fresh(pending),
      // It may be sent at once if the page is left.
      _wake() {},
    };
    waiting.delete(productId); // the newest is the last of the map
    waiting.set(productId, pending);
    if (old) drop(old);
    if (!found) store._put(pending);
    if (receipt) settle(pending);
    else send(productId);
    const [oldest] = waiting.values();
    if (waiting.size > Most.Waiting) fail(oldest!, failure('too-many'));
    changed(productId);
  }

  function drop(pending: Pending): void {
    pending._done(failure('superseded'));
    pending._wake?.();
  }

  async function send(productId: string): Promise<void> {
    if (sending.has(productId)) return;
    sending.add(productId);
    await http._ready();
    const work = async () => {
      let next: Pending | undefined;
      while ((next = unsent(productId))) await attempt(next);
      sending.delete(productId);
    };
    // One tab at a time. Without Web Locks, or where they are forbidden, the key makes repeats harmless.
    await (globalThis.navigator?.locks?.request(`like-button ${api} ${caller()} ${productId}`, work).catch(work) ??
      work());
  }

  async function attempt(pending: Pending): Promise<void> {
    const { productId, liked } = pending;
    if (!pending.user) {
      // Clicked before the token was known.
      pending.user = caller();
      store._put(pending);
    }
    // Another tab may have sent it before this one's turn; browsers share localStorage with a delay.
    if (pending._found) await pause(100);
    load();
    if (unsent(productId) !== pending) return;
    try {
      const receipt = await http._ask(
        path(productId),
        pending,
        (body) => /^\d+-\d+-\d+$/.test(body.receipt) && (body.receipt as string),
      );
      if (!current(pending)) return;
      acknowledged(pending, receipt);
      store._put(pending);
      happened(liked ? 'like' : 'unlike', pending);
    } catch (error) {
      fail(pending, fresh(pending) ? (error as LikeError) : failure('expired'));
    }
  }

  function acknowledged(pending: Pending, receipt: string): void {
    pending.receipt = receipt;
    pending._done(undefined, receipt);
    pending._wake?.();
    changed(pending.productId);
    settle(pending);
  }

  function fail(pending: Pending, error: LikeError): void {
    if (!current(pending)) return;
    waiting.delete(pending.productId);
    changed(pending.productId);
    // Of a user who has left: it waits for them in the store.
    if (error.reason !== 'superseded') {
      store._remove(pending);
      happened('error', pending, error);
      // After a lost answer it may have been counted all the same.
      read(pending.productId).catch(() => {});
    }
    pending._done(error);
  }

  /** Waits until the like is counted. */
  async function settle(pending: Pending): Promise<void> {
    const { productId } = pending;
    for (let polls = 1; ; polls++) {
      const status = await http
        ._ask(`receipts/${pending.receipt}`, { _open: true, headers: { prefer: 'wait=10' } }, (body) =>
          String(body.status),
        )
        .catch((error: LikeError) => (error.status === 404 ? 'lost' : ''));
      // What is read from now on includes it.
      if (status === 'counted') await read(productId).catch(() => {});
      if (!current(pending)) return;
      if (status === 'counted') {
        finish(pending);
        return happened(status, pending);
      }
      if (status === 'dead_letter' || status === 'lost') return fail(pending, failure('refused', status));
      await pause(pauseAfter(polls));
    }
  }

  function finish(pending: Pending): void {
    if (!current(pending)) return;
    waiting.delete(pending.productId);
    store._remove(pending);
    changed(pending.productId);
  }

  /**
   * Takes over what other tabs and the caller's earlier pages have stored, and gives up what is too
   * old. What another tab has removed is counted, or given up: the service knows.
   */
  function load(): void {
    const states = store._all().sort((a, b) => a.at - b.at);
    for (const desired of states) {
      const mine = waiting.get(desired.productId);
      const own = desired.user === caller();
      // What others have left is theirs to see.
      if (!fresh(desired, own ? 1 : 10)) {
        store._remove(desired);
        if (own && !mine) happened('error', desired, failure('expired'));
      } else if (!own) continue;
      else if (mine?.key === desired.key) {
        if (desired.receipt && !mine.receipt) acknowledged(mine, desired.receipt);
      } else if (!mine || mine.at <= desired.at) add(desired, true);
    }
    for (const mine of waiting.values()) {
      if (!mine._found || states.some(({ key }) => key === mine.key)) continue;
      mine.receipt ??= ''; // not to be sent
      read(mine.productId).finally(() => finish(mine));
    }
  }

  return {
    _get: (productId: string): Desired | undefined => waiting.get(productId),
    _all: (): Iterable<Desired> => waiting.values(),

    _load: load,

    /** Sends a click. */
    _want: (productId: string, liked: boolean, done: Done, target?: EventTarget): void =>
      add({ user: caller(), productId, liked, key: uuid7(), at: Date.now() }, false, done, target),

    /** The user has changed: what the last one wanted stays stored, and waits for them. */
    _forget(): void {
      const last = [...waiting.values()];
      waiting.clear();
      last.forEach(drop);
    },

    /** The page is being left: sends at once what waits for its next attempt. */
    _flush(): void {
      for (const pending of waiting.values()) {
        const { _wake, _wanted, _found, receipt, productId } = pending;
        if (_wake && _wanted?.() && !_found && !receipt) http._last(path(productId), pending);
      }
    },
  };
}
