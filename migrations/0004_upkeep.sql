-- What keeps the tables from growing for ever, called by the aggregators themselves now and then.

-- Drops the oldest window of event_handled that nobody can ask for any more, and answers its name;
-- null: there is none, or somebody else is at it. One window per call, so that the lock is short.
--
-- A record looks for repeats back to its own time less dedup_window. So a window may go once it ends
-- more than that before the clock, for records still to come, and before the last folded record of
-- each partition that has unread ones. log_ends says, for the partitions that its caller has asked
-- the broker for, where the log ended a moment ago; one that isn't named is taken for unread. The
-- hour more is for a broker's clock that differs from ours or steps back.
--
-- The parent must be locked against its readers for the moment of the DROP (DETACH CONCURRENTLY needs
-- no such lock, but neither does it run in a function, and only an owner may call it). All batches
-- queue behind that lock, so it is waited for half a second and no longer; the caller tries again.
CREATE FUNCTION drop_event_window(dedup_window interval, topics text[], partitions integer[], log_ends bigint[])
RETURNS text LANGUAGE plpgsql SET lock_timeout = '500ms' AS $$
DECLARE
    width   constant interval := '48 hours';
    horizon timestamptz;
    oldest  text;
BEGIN
    -- The lock of make_event_window.
    IF NOT pg_try_advisory_xact_lock('event_handled'::regclass::oid::bigint) THEN
        RETURN NULL;
    END IF;
    SELECT least(now(), min(coalesce(o.last_record_time, '-infinity'))) - dedup_window - interval '1 hour' INTO horizon
    FROM kafka_offset o
    FULL JOIN unnest(topics, partitions, log_ends) AS asked (topic, partition, log_end) USING (topic, partition)
    WHERE o.next_offset IS NULL OR asked.log_end IS NULL OR o.next_offset < asked.log_end;

    SELECT w.name INTO oldest
    FROM (SELECT c.oid::regclass::text AS name,
                 -- What isn't named by make_event_window is somebody else's.
                 CASE WHEN c.relname ~ '^event_handled_\d{8}$'
                      THEN to_date(right(c.relname, 8), 'YYYYMMDD')::timestamp AT TIME ZONE 'UTC'
                 END AS from_at
          FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
          WHERE i.inhparent = 'event_handled'::regclass) w
    WHERE w.from_at + width <= horizon
    ORDER BY w.from_at LIMIT 1;
    IF oldest IS NOT NULL THEN
        EXECUTE format('DROP TABLE %s', oldest);
    END IF;
    RETURN oldest;
END $$;

-- Dead letters are kept for 30 days and deleted in small chunks.
CREATE INDEX dead_letter_rejected_at ON dead_letter (rejected_at);
