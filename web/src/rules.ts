// The rules of the service that the client checks itself, the ids that it makes, its events and warnings.

const PRODUCT_ID = /^(?!\.\.?$)[\w.~:-]{1,128}$/;

export function check(ids: readonly string[]): void {
  for (const id of ids)
    if (!PRODUCT_ID.test(id ?? '')) throw new TypeError(`product id "${id}" must match ${PRODUCT_ID}`);
}

/**
 * A UUIDv7. `crypto.randomUUID` makes a v4, and is missing on pages without TLS. `Math.random` suffices: a key is one
 * of its user's clicks on one product, and gives no one else a right.
 */
export function uuid7(): string {
  // Eleven digits until the year 2527. A clock that is wrong by centuries makes another key, which is one as well.
  const time = `0${Date.now().toString(16)}`;
  return `${time.slice(0, 8)}-${time.slice(8)}-7xxx-axxx-xxxxxxxxxxxx`.replace(/x/g, () =>
    Math.trunc(Math.random() * 16).toString(16),
  );
}

/** Splits ids into lists that one request may carry. */
export function batches(ids: Iterable<string>): string[][] {
  const lists: string[][] = [];
  let list: string[] = [];
  for (const id of ids) {
    if (!list.length || list.length > 99 || `${list}`.length + id.length > 5999) lists.push((list = []));
    list.push(id);
  }
  return lists;
}

/** Without a target nothing happens. Returns false if a listener has prevented the default. */
export const emit = (target: EventTarget | undefined, type: string, detail: object): boolean | undefined =>
  // An error that bubbles would be one of the page.
  target?.dispatchEvent(new CustomEvent(type, { detail, bubbles: type !== 'error', composed: true, cancelable: true }));

export const warn = (...what: unknown[]): void => console.warn('like-button:', ...what);
