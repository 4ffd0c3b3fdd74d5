// One stream of server-sent events for all products that are watched. Reopens after a refusal, from
// which an EventSource doesn't come back, and closes while the page is hidden.

import { pauseAfter } from './http.js';
import { batches } from './rules.js';

/** Buttons come into view together: one new stream for all of them. */
enum Time {
  Gather = 250,
}

/** `wanted` returns the products to watch now. Returns a function that adapts the stream to it, after `delay`. */
export function openStream(
  api: string,
  wanted: () => Iterable<string>,
  receive: (data: string) => void,
): (delay?: number) => void {
  let stream: EventSource | undefined;
  let open: string[] = [];
  let timer: ReturnType<typeof setTimeout> | undefined;
  let failures = 0;

  function adapt(): void {
    timer = undefined;
    // The service takes no more in one stream.
    const ids = (globalThis.EventSource && !globalThis.document?.hidden && batches(wanted())[0]) || [];
    if (ids.length && stream && ids.every((id) => open.includes(id))) return;
    stream?.close();
    stream = undefined;
    if (!(open = ids).length) return;
    const own = new EventSource(`${api}/v1/likes/stream?ids=${ids}`);
    stream = own;
    own.onmessage = ({ data }) => {
      failures = 0;
      receive(data);
    };
    own.onerror = () => {
      if (own === stream && own.readyState > 1) {
        stream = undefined;
        update(pauseAfter(++failures));
      }
    };
  }

  function update(delay = Time.Gather): void {
    if (!delay) {
      clearTimeout(timer);
      adapt();
    } else timer ??= setTimeout(adapt, delay);
  }
  return update;
}
