// What the user wants and the service hasn't counted yet: stored before it is sent, sent in order,
// one request of a product at a time, and removed once its receipt says `counted`.

import { type Ask, failure, type Http, type LikeError, pause, pauseAfter } from './http.js';
import { uuid7 } from './rules.js';
import { type Desired, openStore } from './store.js';

/** The service has the like and will count it. */
export interface Accepted {
  productId: string;
  liked: boolean;
  receipt: string;
}

export interface Listener {
  /** What the user wants for this product has changed. */
  changed(productId: string): void;
  /** Reads this product's likes: what has happened is in them. */
  read(productId: string): Promise<unknown>;
  happened(
    type: 'like' | 'unlike' | 'counted' | 'error',
    desired: Desired & { target?: EventTarget | undefined },
    error?: LikeError,
  ): void;
}

/** Likes of one user that may wait in a browser. */
export const MOST_WAITING = 200;
interface Pending extends Desired {
  /** Of another tab, or of this page before it was loaded again. */
  found: boolean;
  ask: Ask;
  /** What was clicked. */
  target: EventTarget | undefined;
  /** Settles the promise of the click. */
  done(error?: LikeError): void;
}

const path = (productId: string) => `/v1/products/${productId}/like`;

export type Outbox = ReturnType<typeof openOutbox>;

/** `window` is how long the service remembers keys, in milliseconds. */
export function openOutbox(http: Http, window: number, { changed, read, happened }: Listener) {
  const { api, caller } = http;
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

  function add(desired: Desired, found: boolean, target?: EventTarget): Promise<Accepted> {
    const { productId, liked, key, receipt } = desired;
    const old = waiting.get(productId);
    let done!: Pending['done'];
    const promise = new Promise<Accepted>((resolve, reject) => {
      done = (error) => (error ? reject(error) : resolve({ productId, liked, receipt: pending.receipt! }));
    });
    promise.catch(() => {}); // the `error` event tells
    const wanted = () => current(pending) && pending.user === caller() && fresh(pending);
    // It may be sent at once if the page is left.
    const ask: Ask = { method: liked ? 'PUT' : 'DELETE', headers: { 'idempotency-key': key }, wanted, wake() {} };
    const pending: Pending = { ...desired, found, ask, target, done };
    waiting.delete(productId); // the newest is the last of the map
    waiting.set(productId, pending);
    if (old) drop(old);
    if (!found) store.put(pending);
    if (receipt) settle(pending);
    else send(productId);
    const [oldest] = waiting.values();
    if (waiting.size > MOST_WAITING) fail(oldest!, failure('too-many'));
    changed(productId);
    return promise;
  }

  function drop({ ask, done }: Pending): void {
    done(failure('superseded'));
    ask.wake?.();
  }

  async function send(productId: string): Promise<void> {
    if (sending.has(productId)) return;
    sending.add(productId);
    await http.ready();
    const work = async () => {
      for (let next = unsent(productId); next; next = unsent(productId)) await attempt(next);
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
      store.put(pending);
    }
    // Another tab may have sent it before this one's turn; browsers share localStorage with a delay.
    if (pending.found) await pause(100);
    load();
    if (unsent(productId) !== pending) return;
    try {
      const receipt = await http.ask(
        path(productId),
        pending.ask,
        (body) => /^\d+-\d+-\d+$/.test(body.receipt) && (body.receipt as string),
      );
      if (!current(pending)) return;
      acknowledged(pending, receipt);
      store.put(pending);
      happened(liked ? 'like' : 'unlike', pending);
    } catch (error) {
      fail(pending, fresh(pending) ? (error as LikeError) : failure('expired'));
    }
  }

  function acknowledged(pending: Pending, receipt: string): void {
    pending.receipt = receipt;
    pending.done();
    pending.ask.wake?.();
    changed(pending.productId);
    settle(pending);
  }

  function fail(pending: Pending, error: LikeError): void {
    if (!current(pending)) return;
    waiting.delete(pending.productId);
    pending.done(error);
    changed(pending.productId);
    // Of a user who has left: it waits for them in the store.
    if (error.reason === 'superseded') return;
    store.remove(pending);
    happened('error', pending, error);
    // After a lost answer it may have been counted all the same.
    read(pending.productId).catch(() => {});
  }

  /** Waits until the like is counted. */
  async function settle(pending: Pending): Promise<void> {
    const { productId } = pending;
    for (let polls = 1; ; polls++) {
      const status = await http
        .ask(`/v1/receipts/${pending.receipt}`, { open: true, headers: { prefer: 'wait=10' } }, (body) =>
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
    store.remove(pending);
    changed(pending.productId);
  }

  /**
   * Takes over what other tabs and the caller's earlier pages have stored, and gives up what is too
   * old. What another tab has removed is counted, or given up: the service knows.
   */
  function load(): void {
    const states = store.all().sort((a, b) => a.at - b.at);
    for (const desired of states) {
      const mine = waiting.get(desired.productId);
      const own = desired.user === caller();
      // What others have left is theirs to see.
      if (!fresh(desired, own ? 1 : 10)) {
        store.remove(desired);
        if (own && !mine) happened('error', desired, failure('expired'));
      } else if (!own) continue;
      else if (mine?.key === desired.key) {
        if (desired.receipt && !mine.receipt) acknowledged(mine, desired.receipt);
      } else if (!mine || mine.at <= desired.at) add(desired, true);
    }
    for (const mine of waiting.values()) {
      if (!mine.found || states.some(({ key }) => key === mine.key)) continue;
      mine.receipt ??= ''; // not to be sent
      read(mine.productId).finally(() => finish(mine));
    }
  }

  return {
    get: (productId: string): Desired | undefined => waiting.get(productId),
    all: (): Iterable<Desired> => waiting.values(),

    load,

    /** Sends a click. Resolves when the service has acknowledged it. */
    want: (productId: string, liked: boolean, target?: EventTarget): Promise<Accepted> =>
      add({ user: caller(), productId, liked, key: uuid7(), at: Date.now() }, false, target),

    /** The user has changed: what the last one wanted stays stored, and waits for them. */
    forget(): void {
      const last = [...waiting.values()];
      waiting.clear();
      last.forEach(drop);
    },

    /** The page is being left: sends at once what waits for its next attempt. */
    flush(): void {
      for (const { ask, productId, found, receipt } of waiting.values()) {
        if (ask.wake && ask.wanted?.() && !found && !receipt) http.last(path(productId), ask);
      }
    },
  };
}
