// The numbers that the page shows: like-api's route for them.

export const api = new URL('..', import.meta.url).href;
/** Without the visitor, whom demo.ts adds to the page's requests. */
export const plainFetch = globalThis.fetch;

/** What like-api says about both services. Sums since their starts. */
export interface Numbers {
  userHeader: string;
  namesUsers: boolean;
  acknowledged: number;
  aggregator?: { counted: number; transactions: number; statements: number; age: number };
}

export async function numbers(): Promise<Numbers> {
  const answer = await plainFetch(`${api}demo/numbers`);
  if (!answer.ok) throw new Error(`like-api answers ${answer.status}`);
  return answer.json();
}
