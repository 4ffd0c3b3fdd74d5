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
export type LikeError = Error & {
    reason: Reason;
    status: number;
};
export declare const failure: (reason: Reason, message?: string, status?: number) => LikeError;
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
/** The pause after attempt `n` (from 1), in milliseconds: doubling up to half a minute, less up to a half at random. */
export declare const pauseAfter: (n: number) => number;
/** Ends after `ms`, or when woken, or when the browser has a network again. */
export declare const pause: (ms: number, ask?: Ask) => Promise<void>;
export type Http = ReturnType<typeof connect>;
/**
 * `user` returns who the caller is where the token doesn't say it. `changed` is called when
 * the caller has become known, or is another one (`true`).
 */
export declare function connect(api: string, credentials: RequestCredentials, user: () => string | null, changed: (user: boolean) => void): {
    _ask: <T>(path: string, ask: Ask, read: (body: any) => T | undefined | null | false) => Promise<T>;
    _caller: () => string | null;
    _ready: () => Promise<void>;
    _renew: (refused: boolean) => Promise<void>;
    /** No one is signed in, as far as is known. */
    _anonymous: () => boolean;
    /** One attempt without waiting for anything, for a page that is being left. */
    _last: (path: string, ask: Ask) => false | Promise<void | Response>;
    _set(next: TokenSource): void;
};
export {};
