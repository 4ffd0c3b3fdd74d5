export declare function check(ids: readonly string[]): void;
/** A UUIDv7. Not `crypto.randomUUID`, which is a v4 and missing on pages without TLS. */
export declare function uuid7(): string;
/** Splits ids into lists that one request may carry. */
export declare function batches(ids: Iterable<string>): string[][];
