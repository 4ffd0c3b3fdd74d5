import { type Http, type LikeError } from './http.js';
import { type Desired } from './store.js';
/** Called once the service has acknowledged a like, or never will. */
export type Done = (error: LikeError | undefined, receipt?: string) => void;
export interface Listener {
    /** What the user wants for this product has changed. */
    _changed(productId: string): void;
    /** Reads this product's likes: what has happened is in them. */
    _read(productId: string): Promise<unknown>;
    _happened(type: 'like' | 'unlike' | 'counted' | 'error', desired: Desired & {
        _target?: EventTarget | undefined;
    }, error?: LikeError): void;
}
export type Outbox = ReturnType<typeof openOutbox>;
/** `window` is how long the service remembers keys, in milliseconds. */
export declare function openOutbox(api: string, http: Http, window: number, { _changed: changed, _read: read, _happened: happened }: Listener): {
    _get: (productId: string) => Desired | undefined;
    _all: () => Iterable<Desired>;
    _load: () => void;
    /** Sends a click. */
    _want: (productId: string, liked: boolean, done: Done, target?: EventTarget) => void;
    /** The user has changed: what the last one wanted stays stored, and waits for them. */
    _forget(): void;
    /** The page is being left: sends at once what waits for its next attempt. */
    _flush(): void;
};
