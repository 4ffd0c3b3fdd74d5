// Reads like-aggregator's /metrics: the lag, and the age of events when their batch was committed (a
// histogram since the start of the process: a run's part is the difference of two readings).
import http from 'k6/http';

const LAG = 'likes_consumer_lag_records';
const AGE = 'likes_event_commit_age_seconds';

// {lag, events, buckets: [[upper bound, events at or below it], …]}, or null. The lag is null while
// like-aggregator owns no partition.
export function scrape(url) {
  const response = http.get(`${url}/metrics`, { tags: { name: 'metrics' }, timeout: '2s' });
  if (response.status !== 200) return null;
  const seen = { lag: null, events: 0, buckets: [] };
  for (const line of response.body.split('\n')) {
    if (line.startsWith(`${LAG}{`)) {
      seen.lag += Number(line.slice(line.lastIndexOf(' ')));
    } else if (line.startsWith(`${AGE}_bucket{`)) {
      const [, bound, events] = line.match(/le="([^"]+)".*\} (\S+)/);
      seen.buckets.push([bound === '+Inf' ? Number.MAX_VALUE : Number(bound), Number(events)]);
    } else if (line.startsWith(`${AGE}_count`)) {
      seen.events = Number(line.slice(line.lastIndexOf(' ')));
    }
  }
  return seen.buckets.length > 0 ? seen : null;
}

// The events per bucket between two readings. After a restart the histogram begins at zero.
export function between(before, after) {
  const fresh = before === null || after.events < before.events;
  const old = new Map(fresh ? [] : before.buckets);
  let below = 0;
  return after.buckets.map(([bound, events]) => {
    const upTo = events - (old.get(bound) || 0);
    const inside = upTo - below;
    below = upTo;
    return [bound, inside];
  });
}

export function total(buckets) {
  return buckets.reduce((sum, [, inside]) => sum + inside, 0);
}

// Interpolated within a bucket, as Prometheus does it; null without events.
export function quantile(buckets, part) {
  const rank = part * total(buckets);
  if (rank === 0) return null;
  let [low, seen] = [0, 0];
  for (const [high, inside] of buckets) {
    if (seen + inside >= rank) return high === Number.MAX_VALUE ? low : low + ((high - low) * (rank - seen)) / inside;
    seen += inside;
    low = high;
  }
  return low;
}
