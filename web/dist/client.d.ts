import { type LikeError, type TokenSource } from './http.js';
import { type Accepted } from './outbox.js';
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
    items: {
        productId: string;
        likedAt: string;
    }[];
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
interface Watcher {
    ids: readonly string[];
    callback: (view: View) => void;
    live: boolean;
    target: EventTarget | undefined;
}
/**
 * Likes, counts and their changes.
 *
 * Events: `like` and `unlike` (acknowledged), `counted`, `error` (given up); their `detail` is a
 * {@link LikeEventDetail}.
 */
export declare class LikeClient extends EventTarget {
    #private;
    readonly api: string;
    constructor({ api, token, credentials, user, dedupWindow }: ClientOptions);
    /** Another token, or none when the user signs out. */
    set token(source: TokenSource);
    /** The user's id where no token names it. */
    set user(user: string | null);
    /** No one is signed in, as far as is known: a like would be refused. */
    get anonymous(): boolean;
    /**
     * Likes a product. Resolves when the service has acknowledged the like: it will be counted.
     * @throws {LikeError}
     */
    like(productId: string): Promise<Accepted>;
    /** Takes a like back, see `like`. */
    unlike(productId: string): Promise<Accepted>;
    /** `like` or `unlike`; `target` receives the events too. */
    set(productId: string, liked: boolean, target?: EventTarget): Promise<Accepted>;
    /**
     * Reads counts, in the order of `productIds`. Reads of the same moment share requests.
     * @throws {LikeError}
     */
    counts(productIds: readonly string[]): Promise<Likes[]>;
    /** The caller's liked products, newest first. What isn't counted yet is included. */
    myLikes({ limit, cursor }?: {
        limit?: number | undefined;
        cursor?: string | undefined;
    }): Promise<MyLikes>;
    /** The products with the most likes gained in a window, or with the most likes. */
    top({ window, limit }?: {
        window?: "all" | "1h" | "24h" | "7d" | undefined;
        limit?: number | undefined;
    }): Promise<TopProduct[]>;
    /** What to show for a product now, without a request. */
    view(productId: string): View;
    /**
     * Calls back with what to show, now and after each change, until the returned function is called.
     * Others' likes arrive by one stream for all watched products, unless `live` is false. `target`
     * receives events of likes that were clicked before the page was loaded.
     */
    watch(productIds: readonly string[], callback: Watcher['callback'], options?: {
        live?: boolean;
        target?: EventTarget;
    }): () => void;
    /** Values that a server has rendered into the page: shown until the first read. */
    seed(productId: string, count: number | null, liked: boolean): void;
    /** Ends its stream and its listeners. */
    close(): void;
}
