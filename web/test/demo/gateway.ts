// A shop's gateway: serves a page, and passes what is below /likes on to like-api with the user of the session, whom the
// browser can't name itself.

import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface Gateway {
  url: string;
  /** The session that is signed in. */
  session: string | undefined;
  close(): void;
}

export function openGateway(
  service: string,
  { html, session, user }: { html: string; session: string; user: string },
): Promise<Gateway> {
  const server = createServer(async ({ url = '', method = 'GET', headers }, response) => {
    if (url === '/shop') {
      response.setHeader('set-cookie', `session=${session}; HttpOnly; SameSite=Strict`);
      response.setHeader('content-type', 'text/html; charset=utf-8');
      response.end(
        `<!doctype html><title>Shop</title><script type="module" src="/likes/like-button.js"></script>${html}`,
      );
      return;
    }
    const sent = new Headers();
    for (const name of ['idempotency-key', 'prefer']) if (headers[name]) sent.set(name, headers[name] as string);
    if (gateway.session && headers.cookie?.includes(`session=${gateway.session}`)) sent.set('x-user-id', user);
    const gone = new AbortController();
    response.on('close', () => gone.abort());
    try {
      const answer = await fetch(service + url.replace('/likes', ''), { method, headers: sent, signal: gone.signal });
      response.statusCode = answer.status;
      for (const name of ['content-type', 'retry-after', 'location']) {
        if (answer.headers.has(name)) response.setHeader(name, answer.headers.get(name)!);
      }
      // Node.js can iterate it; the types of the DOM don't know.
      for await (const chunk of answer.body as unknown as AsyncIterable<Uint8Array>) response.write(chunk);
      response.end();
    } catch {
      response.destroy();
    }
  });
  const gateway: Gateway = {
    url: '',
    session,
    close() {
      server.closeAllConnections();
      server.close();
    },
  };
  return new Promise((resolve) =>
    server.listen(0, '127.0.0.1', () => {
      gateway.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
      resolve(gateway);
    }),
  );
}
