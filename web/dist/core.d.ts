import { type LikeError, type TokenSource } from './http.js';
import { type Done } from './outbox.js';
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
interface Watcher {
    _ids: readonly string[];
    _show: (view: View) => void;
    _live: boolean;
    /** Receives the events of likes that were clicked before the page was loaded. */
    _target: EventTarget | undefined;
}
export type Core = ReturnType<typeof openCore>;
/** Its events go to `client`, and to the target of the like. Its listeners end with `signal`. */
export declare function openCore({ api: url, token, credentials, user, dedupWindow }: ClientOptions, client?: EventTarget, signal?: AbortSignal): {
    _api: string;
    _http: {
        _ask: <T>(path: string, ask: import("./http.js").Ask, read: (body: any) => T | undefined | null | false) => Promise<T>;
        _caller: () => string | null;
        _ready: () => Promise<void>;
        _renew: (refused: boolean) => Promise<void>;
        _anonymous: () => boolean;
        _last: (path: string, ask: import("./http.js").Ask) => false | Promise<void | Response>;
        _set(next: TokenSource): void;
    };
    _outbox: {
        _get: (productId: string) => import("./store.js").Desired | undefined;
        _all: () => Iterable<import("./store.js").Desired>;
        _load: () => void;
        _want: (productId: string, liked: boolean, done: Done, target?: EventTarget) => void;
        _forget(): void;
        _flush(): void;
    };
    _read: (productId: string) => Promise<Likes>;
    _stream: (delay?: number) => void;
    _view: (productId: string) => View;
    /** Another user, where no token names them. */
    _user(next: string | null): void;
    /** Values that a server has rendered into the page: shown until the first read. */
    _seed(productId: string, count: number | null, liked: boolean): void;
    /** Likes a product, or takes the like back. */
    _like(productId: string, liked: boolean, done: Done, target?: EventTarget): void;
    /** Calls `show` now and after each change, until the returned function is called. */
    _watch(ids: readonly string[], show: Watcher["_show"], live?: boolean, target?: EventTarget): () => void;
};
export {};
