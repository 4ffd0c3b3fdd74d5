/** What a user wants for a product, from the click until it is counted. */
export interface Desired {
    /** Null where the client can't know: then it isn't stored. */
    user: string | null;
    productId: string;
    liked: boolean;
    /** Idempotency-Key: names this click in every attempt. */
    key: string;
    /** Milliseconds since 1970. */
    at: number;
    /** Set once the service has acknowledged the like. */
    receipt?: string;
}
export type Store = ReturnType<typeof openStore>;
export declare function openStore(api: string): {
    /** The states of all users. */
    _all: () => Desired[];
    _put: (desired: Desired) => void | undefined;
    _remove: (desired: Desired) => void | undefined;
};
