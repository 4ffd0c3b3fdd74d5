-- Since when an event id begins with the time of its Idempotency-Key, if that is a UUIDv7. All replicas of like-api must give
-- one click one id, also while they are upgraded: an earlier release gives every key a hash. So the key's own time decides,
-- compared with this one. Null: never, as before. `setup` records 1970 with the first topic (all keys), and on a system of an
-- earlier release a time after the upgrade (--time-ordered-ids).
ALTER TABLE fold ADD COLUMN time_ordered_ids_from timestamptz CHECK (isfinite(time_ordered_ids_from));
COMMENT ON COLUMN fold.time_ordered_ids_from IS 'keys of this time or later give time-ordered event ids; null: none does';
