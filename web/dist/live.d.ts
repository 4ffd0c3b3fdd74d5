/** `wanted` returns the products to watch now. Returns a function that adapts the stream to it, after `delay`. */
export declare function openStream(api: string, wanted: () => Iterable<string>, receive: (data: string) => void): (delay?: number) => void;
