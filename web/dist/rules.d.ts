export declare function check(ids: readonly string[]): void;
/**
 * A UUIDv7. `crypto.randomUUID` makes a v4, and is missing on pages without TLS. `Math.random` suffices: a key is one
 * of its user's clicks on one product, and gives no one else a right.
 */
export declare function uuid7(): string;
/** Splits ids into lists that one request may carry. */
export declare function batches(ids: Iterable<string>): string[][];
/** Without a target nothing happens. Returns false if a listener has prevented the default. */
export declare const emit: (target: EventTarget | undefined, type: string, detail: object) => boolean | undefined;
export declare const warn: (...what: unknown[]) => void;
