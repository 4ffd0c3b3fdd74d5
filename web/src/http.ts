// Requests to the service: credentials, time limits, and repeats with growing pauses.
// What is asked is the concern of core.ts, client.ts and outbox.ts.

import { warn } from './rules.js';

type Token = string | null | undefined;

/**
 * A bearer token, or a function that returns one. The function is called once, and again (with
 * `true`) after the service has refused what it returned.
 */
export type TokenSource = Token | ((refused: boolean) => Token | Promise<Token>);

/**
 * - `auth`: there is no token, or it isn't accepted
 * - `refused`: the service refuses the request, and would refuse it again
 * - `gave-up`: too many attempts have failed
 * - `expired`: the like waited in this browser for longer than the service remembers keys
 * - `too-many`: more likes wait in this browser than it keeps
 * - `superseded`: the user has changed their mind, or left
 */
export type Reason = 'auth' | 'refused' | 'gave-up' | 'expired' | 'too-many' | 'superseded';

/** `status` is that of the last answer; 0 if there was none. */
export type LikeError = Error & { reason: Reason; status: number };

export const failure = (reason: Reason, message: string = reason, status = 0): LikeError =>
  Object.assign(new Error(message), { reason, status });

export interface Ask {
  method?: 'PUT' | 'DELETE';
  headers?: Record<string, string>;
  /** Also without credentials: if there are none, or if they are refused. */
  _open?: boolean;
  /** Whether it should still be sent. */
  _wanted?(): boolean;
  /** Ends the present pause. Undefined while a request is under way, or the service wants the pause. */
  _wake?: (() => void) | undefined;
}

/** An enum, because the build writes its values in place of the names. Times are in milliseconds. */
enum Limit {
  Attempts = 8,
  ReadAttempts = 4,
  Answer = 15_000,
  FirstPause = 500,
  /** The longest `Retry-After` that is waited for. */
  LongestPause = 60_000,
}

/** The pause after attempt `n` (from 1), in milliseconds: doubling up to half a minute, less up to a half at random. */
export const pauseAfter = (n: number): number =>
  Math.min(Limit.FirstPause << (n - 1), Limit.LongestPause / 2) * (1 - Math.random() / 2);

/** Ends after `ms`, or when woken, or when the browser has a network again. */
export const pause = (ms: number, ask: Ask = {}): Promise<void> =>
  new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      globalThis.removeEventListener?.('online', done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    globalThis.addEventListener?.('online', done);
    ask._wake = done;
  });

/** `sub` of a JWT; undefined for any other token. */
function subject(token: string): string | undefined {
  try {
    return JSON.parse(atob(token.split('.')[1]!.replace(/-/g, '+').replace(/_/g, '/'))).sub;
  } catch {
    return undefined;
  }
}

export type Http = ReturnType<typeof connect>;

/**
 * `user` returns who the caller is where the token doesn't say it. `changed` is called when
 * the caller has become known, or is another one (`true`).
 */
export function connect(
  api: string,
  credentials: RequestCredentials,
  user: () => string | null,
  changed: (user: boolean) => void,
) {
  let source: TokenSource;
  /** Undefined until the function was asked. */
  let token: Token;
  let renewal: Promise<void> | undefined;

  const known = () => credentials !== 'omit' || !!token;
  const caller = (): string | null => (token && subject(token)) || (known() ? user() : null);

  /** Asks for a token. `refused`: the present one isn't accepted. */
  function renew(refused: boolean): Promise<void> {
    const mine = source;
    const [had, before] = [token, caller()];
    return (renewal ??= (async () => {
      const next = await (typeof mine === 'function' ? mine(refused) : refused ? null : mine);
      if (typeof source !== typeof mine) return; // another one was set meanwhile
      token = next || null;
      if (!had || before !== caller()) changed(!!had && !!token);
    })()
      .catch((error) => warn('no token:', error))
      .finally(() => {
        renewal = undefined;
      }));
  }
  const ready = async () => {
    if (token === undefined) await renew(false);
  };

  const send = (path: string, { method, headers }: Ask, bearer: Token) =>
    fetch(`${api}/v1/${path}`, {
      method: method ?? 'GET',
      headers: { ...headers, ...(bearer && { authorization: `Bearer ${bearer}` }) },
      credentials,
      // A like is sent even if its page is left at this moment.
      keepalive: !!method,
      signal: AbortSignal.timeout(Limit.Answer),
    });

  /**
   * Sends a request until it is answered, and returns what `read` makes of the answer.
   * @throws {LikeError}
   */
  async function ask<T>(path: string, ask: Ask, read: (body: any) => T | undefined | null | false): Promise<T> {
    let refreshed = false;
    let bare = false;
    for (let attempt = 1; ; attempt++) {
      if (globalThis.navigator?.onLine === false) await pause(2 ** 31 - 1, ask);
      await ready();
      if (!ask._open && !known()) throw failure('auth');
      if (ask._wanted?.() === false) throw failure('superseded');
      ask._wake = undefined;
      const bearer: Token = bare ? null : token;
      let wait = 0;
      let status = 0;
      // Remains after a lost connection, or the time limit: perhaps the request has arrived.
      let what = 'no answer';
      try {
        const answer = await send(path, ask, bearer);
        status = answer.status;
        wait = +answer.headers.get('retry-after')! * 1000 || 0;
        const body = await answer.json();
        const result = answer.ok && read(body);
        if (result) return result;
        what = body.detail;
      } catch {}
      if (status === 401 && bearer) {
        // Another request may have asked for a new token meanwhile.
        if (!refreshed && bearer === token) await renew(true);
        bare = refreshed || bearer === token;
        refreshed = true;
        if (!bare || ask._open) continue;
      }
      const reason =
        status === 401
          ? 'auth'
          : /^4(?!08|29)/.test(`${status}`)
            ? 'refused'
            : (attempt >= (ask._open ? Limit.ReadAttempts : Limit.Attempts) || wait > Limit.LongestPause) && 'gave-up';
      if (reason) throw failure(reason, `${status} ${what}`, status);
      // What the service asks for is kept even if the user changes their mind meanwhile.
      await (wait ? pause(wait + Math.random() * Limit.FirstPause) : pause(pauseAfter(attempt), ask));
    }
  }

  return {
    _ask: ask,
    _caller: caller,
    _ready: ready,
    _renew: renew,
    /** No one is signed in, as far as is known. */
    _anonymous: () => !known() && token === null,
    /** One attempt without waiting for anything, for a page that is being left. */
    _last: (path: string, ask: Ask) => known() && send(path, ask, token).catch(() => {}),
    _set(next: TokenSource) {
      const mine = source;
      source = next;
      // Templates pass a new function each time: the token of the last one stays good.
      if (next === mine || (token && typeof next === 'function' && typeof mine === 'function')) return;
      renewal = undefined;
      const signedIn = !!token;
      token = typeof next === 'function' ? undefined : next || null;
      changed(signedIn);
    },
  };
}
