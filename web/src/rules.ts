// The rules of the service that the client checks itself, and the ids that it makes.

export function check(ids: readonly string[]): void {
  for (const id of ids) {
    if (!/^(?!\.\.?$)[\w.~:-]{1,128}$/.test(id ?? ''))
      throw new TypeError(`product id "${id}": 1 to 128 of A-Z a-z 0-9 . _ ~ : - and neither . nor ..`);
  }
}

/** A UUIDv7. Not `crypto.randomUUID`, which is a v4 and missing on pages without TLS. */
export function uuid7(): string {
  const time = Math.max(0, Date.now()).toString(16).padStart(12, '0');
  const random = Array.from(crypto.getRandomValues(new Uint8Array(18)), (byte) => (byte & 15).toString(16)).join('');
  return `${time}7${random}`.replace(/(.{8})(.{4})(.{4})(...)(.{12})/, '$1-$2-$3-a$4-$5');
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
