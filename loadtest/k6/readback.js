// Asks the API afterwards what became of what it has acknowledged.
import http from 'k6/http';
import { sleep } from 'k6';

// Waits until a receipt is counted, and with it all before it in its partition. Null, or what it
// says instead when the time is up.
export function notCounted(api, receipt, deadline) {
  for (;;) {
    const response = http.get(`${api}/v1/receipts/${receipt}`, { tags: { name: 'receipt' }, timeout: '10s' });
    const status = response.status === 200 ? response.json('status') : `${response.status} ${response.body}`;
    if (status === 'counted') return null;
    if (status === 'dead_letter' || status === 'lost' || Date.now() > deadline) return status;
    sleep(0.2);
  }
}

// What the API says of products, by product; `headers` name the user.
export function readLikes(api, ids, headers) {
  for (;;) {
    const response = http.get(`${api}/v1/likes?ids=${ids.join(',')}`, { tags: { name: 'read' }, timeout: '10s', headers });
    if (response.status === 200) return new Map(response.json().map((likes) => [likes.productId, likes]));
    console.warn(`reading: ${response.status}, again`);
    sleep(1);
  }
}
