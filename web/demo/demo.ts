// The demo page: who the visitor is, the lists beside the products, and the like bomb (bomb.ts).

import { LikeButton } from '../src/like-button.js';
import { burst } from './bomb.js';
import type { Chart, Point } from './charts.js';
import { api, numbers, plainFetch } from './numbers.js';

const find = <T extends HTMLElement>(id: string): T => document.getElementById(id) as T;

async function read<T>(path: string): Promise<T> {
  const answer = await fetch(`${api}v1/${path}`);
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

// --- the visitor

const someone = () => `visitor-${Math.random().toString(36).slice(2, 6).padEnd(4, '0')}`;
let visitor = someone();
try {
  localStorage['demo-user'] = visitor = localStorage['demo-user'] ?? visitor;
} catch {
  // Forbidden: another visitor with each page.
}

const first = numbers();
first.catch(() => {});
// In front of a real shop a gateway authenticates the visitor and sets this header. Here nothing is in front.
globalThis.fetch = async (input, init) => {
  const { userHeader } = await first;
  const headers = new Headers(init?.headers);
  headers.set(userHeader, visitor);
  return plainFetch(input, { ...init, headers });
};

/** Shows who the visitor is, and how many products they like. */
async function introduce(): Promise<void> {
  find('user').textContent = visitor;
  const mine = find('mine');
  const { items } = await read<{ items: { productId: string }[] }>('me/likes?limit=100');
  const n = items.filter(({ productId }) => productId in names).length;
  mine.textContent = n ? ` and like ${n} ${n === 1 ? 'thing' : 'things'}` : '';
}

function become(next: string): void {
  visitor = next;
  try {
    localStorage['demo-user'] = next;
  } catch {
    // As above.
  }
  LikeButton.configure({ api, credentials: 'same-origin', user: next });
  void introduce().catch(console.warn);
}

// --- the lists

const names: Record<string, string> = {};
for (const card of document.querySelectorAll('.card')) {
  names[card.querySelector('like-button')!.productId ?? ''] = card.querySelector('h3')!.textContent!;
}

async function showTop(): Promise<void> {
  const { items } = await read<{ items: { productId: string; gained: number }[] }>('likes/top?window=24h&limit=100');
  const best = items.filter(({ productId }) => productId in names).slice(0, 5);
  const rows = best.map(({ productId, gained }) => {
    const [row, name, likes, meter] = ['li', 'span', 'span', 'meter'].map((tag) => document.createElement(tag));
    name!.textContent = names[productId]!;
    likes!.textContent = gained.toLocaleString();
    Object.assign(meter!, {
      max: best[0]!.gained,
      value: gained,
      ariaLabel: `${names[productId]}: ${gained} likes today`,
    });
    row!.append(name!, likes!, meter!);
    return row!;
  });
  find('top').replaceChildren(...rows);
  find('no-top').hidden = !!rows.length;
}

const picker = find<HTMLSelectElement>('product');
let history: Chart | undefined;
async function showHistory(): Promise<void> {
  const to = new Date();
  const from = new Date(to.getTime() - 23 * 3600_000);
  const product = picker.value;
  const query = `from=${from.toISOString()}&to=${to.toISOString()}&step=hour`;
  const { points } = await read<{ points: Point[] }>(`products/${product}/likes/history?${query}`);
  const total = points.reduce((sum, { gained }) => sum + gained, 0);
  const element = find('history');
  element.ariaLabel = `${names[product]}: ${total.toLocaleString()} likes gained in the last 24 hours`;
  history ??= (await import('./charts.js')).history(element);
  history.draw([points.map(({ at }) => Date.parse(at) / 1000), points.map(({ gained }) => gained)]);
}

let historyInView = false;
new IntersectionObserver(([entry]) => {
  historyInView = entry!.isIntersecting;
  if (historyInView) showHistory().catch(console.warn);
}).observe(find('history'));

/** Lists follow what happens, but a page that nobody looks at asks nothing. */
function refresh(): void {
  if (document.hidden) return;
  showTop().catch(console.warn);
  if (historyInView) showHistory().catch(console.warn);
}

// --- what happens on the page

become(visitor);
refresh();
setInterval(refresh, 5000);
document.addEventListener('visibilitychange', refresh);
picker.addEventListener('change', () => void showHistory().catch(console.warn));
find('switch').addEventListener('click', () => become(someone()));
document.addEventListener('counted', () => {
  refresh();
  void introduce().catch(console.warn);
});

find<HTMLFormElement>('bomb').addEventListener('submit', async (event) => {
  event.preventDefault();
  const drop = find<HTMLButtonElement>('drop');
  if (drop.disabled) return;
  drop.disabled = true;
  const size = Number(new FormData(event.target as HTMLFormElement).get('size'));
  try {
    await burst(Object.keys(names), size);
  } catch (error) {
    find('story').textContent = `It didn’t work: ${(error as Error).message}`;
  }
  drop.disabled = false;
  refresh();
});
