// The desired states that aren't counted yet, in localStorage: one item for each user and product,
// so that tabs don't overwrite each other's. Without localStorage they live as long as the page.

import { warn } from './rules.js';

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

export function openStore(api: string) {
  let warned = false;

  /** localStorage may be forbidden, or full. */
  function attempt<T>(use: () => T): T | undefined {
    try {
      return use();
    } catch (error) {
      if (!warned) warn('not kept across reloads:', error);
      warned = true;
      return undefined;
    }
  }

  // None of the three has a space.
  const name = ({ user, productId }: Desired) => `like-button ${api} ${user} ${productId}`;

  /** Returns the state in an item, if it is one of this service and well-formed. */
  function get(item: string): Desired | [] {
    try {
      const desired = JSON.parse(localStorage.getItem(item)!);
      return item === name(desired) && desired.key && desired.at ? desired : [];
    } catch {
      return [];
    }
  }

  return {
    /** The states of all users. */
    _all: () => attempt(() => Object.keys(localStorage).flatMap(get)) ?? [],
    _put: (desired: Desired) =>
      attempt(() => {
        const fields = ['user', 'productId', 'liked', 'key', 'at', 'receipt'];
        if (desired.user) localStorage.setItem(name(desired), JSON.stringify(desired, fields));
      }),
    _remove: (desired: Desired) => attempt(() => localStorage.removeItem(name(desired))),
  };
}
