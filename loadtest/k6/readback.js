// Reads back what the API has acknowledged.
import http from 'k6/http';
import { sleep } from 'k6';

// Waits until a receipt is counted, and with it all earlier ones of its partition. Returns null, or
// the status at the deadline.
export function notCounted(api, receipt, deadline) {
  for (;;) {
    const response = http.get(`${api}/v1/receipts/${receipt}`, { tags: { name: 'receipt' }, timeout: '10s' });
    const status = response.status === 200 ? response.json('status') : `${response.status} ${response.body}`;
    if (status === 'counted') return null;
    if (status === 'dead_letter' || status === 'lost' || Date.now() > deadline) return status;
    sleep(0.2);
  }
}

// The likes of products, by product id; `headers` name the user.
export function readLikes(api, ids, headers) {
  for (;;) {
    const response = http.get(`${api}/v1/likes?ids=${ids.join(',')}`, { tags: { name: 'read' }, timeout: '10s', headers });
    if (response.status === 200) return new Map(response.json().map((likes) => [likes.productId, likes]));
    console.warn(`reading: ${response.status}, again`);
    sleep(1);
  }
}
