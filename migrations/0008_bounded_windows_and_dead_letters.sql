-- Bounds on what odd records and settings can make.

-- Windows of event_handled. Every statement that looks an id up locks every window, so thousands of them (timestamps that
-- are scattered over years: a topic with CreateTime) exhaust the server's lock table, for all workers. So beyond 32 windows
-- the ids of times far from now share one table, the default partition, which costs each look-up one more index and loses
-- nothing. And a window is as wide as the time for which ids are remembered: a year's worth needs two or three windows, not
-- 183. Bounds are multiples of two days, as builds before this one expect when they ask for a window by its first day.

-- The windows with their bounds, the default partition aside.
CREATE FUNCTION event_windows() RETURNS TABLE (name text, from_at timestamptz, to_at timestamptz) LANGUAGE sql STABLE AS $$
    SELECT c.oid::regclass::text, bound[1]::timestamptz, bound[2]::timestamptz
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    CROSS JOIN regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \(''(.+)''\) TO \(''(.+)''\)') AS bound
    WHERE i.inhparent = 'event_handled'::regclass AND bound IS NOT NULL
$$;

-- Makes the window that `at` falls into, unless it is there: see 0002. It never overlaps with another one.
CREATE FUNCTION make_event_window_as_caller(at timestamptz, dedup_window interval) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    grid    constant bigint := 2 * 86400;
    width   constant bigint := greatest(ceil(extract(epoch FROM dedup_window) / grid), 1)::bigint * grid;
    start   constant bigint := floor(extract(epoch FROM at) / width)::bigint * width;
    lower_at timestamptz := to_timestamp(start);
    upper_at   timestamptz := to_timestamp(start + width);
    windows bigint;
    taken   boolean;
    name    text;
BEGIN
    PERFORM pg_advisory_xact_lock('event_handled'::regclass::oid::bigint);
    SELECT count(*), coalesce(bool_or(w.from_at <= at AND at < w.to_at), false),
           greatest(lower_at, max(w.to_at) FILTER (WHERE w.to_at <= at)),
           least(upper_at, min(w.from_at) FILTER (WHERE w.from_at > at))
    INTO windows, taken, lower_at, upper_at
    FROM event_windows() w;
    IF taken THEN
        RETURN;
    END IF;
    IF windows >= 32 AND abs(extract(epoch FROM at - now())) > 2 * width THEN
        IF to_regclass('event_handled_other') IS NULL THEN
            CREATE TABLE event_handled_other (LIKE event_handled INCLUDING ALL);
            ALTER TABLE event_handled ATTACH PARTITION event_handled_other DEFAULT;
            RAISE WARNING 'records'' timestamps are scattered: event_handled has % windows, and event ids of other times than those, such as %, share the table event_handled_other',
                windows, at;
        END IF;
        RETURN;
    END IF;
    IF to_regclass('event_handled_other') IS NOT NULL THEN
        -- What is in the default partition already keeps a window from being attached.
        SELECT EXISTS (SELECT FROM event_handled_other o WHERE o.record_time >= lower_at AND o.record_time < upper_at) INTO taken;
        IF taken THEN
            RETURN;
        END IF;
    END IF;
    -- Named by its first day, in UTC.
    name := 'event_handled_' || to_char(lower_at AT TIME ZONE 'UTC', 'YYYYMMDD');
    EXECUTE format('CREATE TABLE %I (LIKE event_handled INCLUDING ALL)', name);
    EXECUTE format('ALTER TABLE event_handled ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name, lower_at, upper_at);
END $$;

-- Not in SQL: make_event_window would parse that before it has set the path.
CREATE OR REPLACE FUNCTION make_event_window_as_caller(at timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM make_event_window_as_caller(at, interval '48 hours');
END $$;

CREATE FUNCTION make_event_window(at timestamptz, dedup_window interval) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT set_config('search_path', event_handled_path(), true);
    SELECT make_event_window_as_caller(at, dedup_window);
END;
REVOKE EXECUTE ON FUNCTION make_event_window(timestamptz, interval) FROM PUBLIC;

-- Drops the oldest window that no record can ask for any more: see 0004. The clock is the log's, the newest record of any
-- partition: by the database's, the ids of a log with older timestamps would be dropped while its repeats still come. The
-- default partition goes as a whole once its newest id is too old.
CREATE OR REPLACE FUNCTION drop_event_window_as_caller(
    dedup_window interval, topics text[], partitions integer[], log_ends bigint[])
RETURNS text LANGUAGE plpgsql SET lock_timeout = '500ms' AS $$
DECLARE
    horizon timestamptz;
    oldest  text;
BEGIN
    -- The lock of make_event_window.
    IF NOT pg_try_advisory_xact_lock('event_handled'::regclass::oid::bigint) THEN
        RETURN NULL;
    END IF;
    SELECT least(now(), coalesce((SELECT max(last_record_time) FROM kafka_offset), '-infinity'),
                 min(coalesce(o.last_record_time, '-infinity'))) - dedup_window - interval '1 hour' INTO horizon
    FROM kafka_offset o
    FULL JOIN unnest(topics, partitions, log_ends) AS asked (topic, partition, log_end) USING (topic, partition)
    WHERE o.next_offset IS NULL OR asked.log_end IS NULL OR o.next_offset < asked.log_end;

    -- What isn't named by make_event_window is somebody else's.
    SELECT w.name INTO oldest FROM event_windows() w
    WHERE w.name ~ '^event_handled_\d{8}$' AND w.to_at <= horizon ORDER BY w.from_at LIMIT 1;
    IF oldest IS NULL AND to_regclass('event_handled_other') IS NOT NULL THEN
        -- A batch may be writing there.
        LOCK TABLE event_handled_other IN SHARE ROW EXCLUSIVE MODE;
        SELECT 'event_handled_other' INTO oldest FROM event_handled_other HAVING coalesce(max(record_time), '-infinity') < horizon;
    END IF;
    IF oldest IS NOT NULL THEN
        EXECUTE format('DROP TABLE %s', oldest);
    END IF;
    RETURN oldest;
END $$;

-- Dead letters. A producer gone mad must not fill the disk: of each partition and reason a fixed number is kept whole, and
-- of the others only where they are, since the log has them. A row holds those of 10,000 offsets: `bucket` is the offset
-- divided by that, and `offsets` a few ranges where the bad records follow each other.
CREATE TABLE dead_letter_range (
    topic       text COLLATE "C" NOT NULL,
    partition   integer NOT NULL,
    bucket      bigint NOT NULL,
    reason      text COLLATE "C" NOT NULL,
    offsets     int8multirange NOT NULL,
    rejected_at timestamptz NOT NULL,
    PRIMARY KEY (topic, partition, bucket, reason)
);
COMMENT ON COLUMN dead_letter_range.reason IS 'the code with which dead_letter.reason begins';
COMMENT ON COLUMN dead_letter_range.rejected_at IS 'of the last one';
CREATE INDEX dead_letter_range_rejected_at ON dead_letter_range (rejected_at);

-- Counts the kept ones of a partition and reason up to that number, however many an earlier build has kept.
CREATE INDEX dead_letter_reason ON dead_letter (topic, partition, split_part(reason, ':', 1));
