import { type Http, type LikeError } from './http.js';
import { type Desired } from './store.js';
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
    happened(type: 'like' | 'unlike' | 'counted' | 'error', desired: Desired & {
        target?: EventTarget | undefined;
    }, error?: LikeError): void;
}
/** Likes of one user that may wait in a browser. */
export declare const MOST_WAITING = 200;
export type Outbox = ReturnType<typeof openOutbox>;
/** `window` is how long the service remembers keys, in milliseconds. */
export declare function openOutbox(http: Http, window: number, { changed, read, happened }: Listener): {
    get: (productId: string) => Desired | undefined;
    all: () => Iterable<Desired>;
    load: () => void;
    /** Sends a click. Resolves when the service has acknowledged it. */
    want: (productId: string, liked: boolean, target?: EventTarget) => Promise<Accepted>;
    /** The user has changed: what the last one wanted stays stored, and waits for them. */
    forget(): void;
    /** The page is being left: sends at once what waits for its next attempt. */
    flush(): void;
};
