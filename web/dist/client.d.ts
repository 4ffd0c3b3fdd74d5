import { type ClientOptions, type Likes, type View } from './core.js';
import type { TokenSource } from './http.js';
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
    items: {
        productId: string;
        likedAt: string;
    }[];
    /** The cursor of the next page; null or absent on the last one. */
    next?: string | null;
}
/**
 * Likes, counts and their changes.
 *
 * Events: `like` and `unlike` (acknowledged), `counted`, `error` (given up); their `detail` is a
 * {@link LikeEventDetail}.
 */
export declare class LikeClient extends EventTarget {
    #private;
    constructor(options: ClientOptions);
    get api(): string;
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
     * Others' likes arrive by one stream for all watched products, unless `live` is false.
     */
    watch(productIds: readonly string[], callback: (view: View) => void, { live }?: {
        live?: boolean | undefined;
    }): () => void;
    /** Values that a server has rendered into the page: shown until the first read. */
    seed(productId: string, count: number | null, liked: boolean): void;
    /** Ends its stream and its listeners. */
    close(): void;
}
