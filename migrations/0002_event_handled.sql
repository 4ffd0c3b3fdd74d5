-- Which events were folded already, so that a repeat is dropped. Partitioned by the record's own
-- time, so that what is too old to matter is dropped as a whole table and never deleted row by
-- row. Few large windows and not many small ones: a look-up costs by the number of windows.
CREATE TABLE event_handled (
    event_id    uuid NOT NULL,
    record_time timestamptz NOT NULL,
    PRIMARY KEY (event_id, record_time)
) PARTITION BY RANGE (record_time);

-- Makes the two-day window that `at` falls into, unless it is there. Create first and attach then:
-- CREATE TABLE … PARTITION OF would lock the parent against every reader and writer, ATTACH
-- against other makers of windows only. The advisory lock makes two makers wait for each other.
CREATE FUNCTION make_event_window(at timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    width   constant bigint := 2 * 86400;
    start   constant bigint := floor(extract(epoch FROM at) / width)::bigint * width;
    from_at constant timestamptz := to_timestamp(start);
    to_at   constant timestamptz := to_timestamp(start + width);
    -- Named by its first day, in UTC; a year before 1000 or after 9999 is refused by the reader.
    name    constant text := 'event_handled_' || to_char(from_at AT TIME ZONE 'UTC', 'YYYYMMDD');
BEGIN
    PERFORM pg_advisory_xact_lock('event_handled'::regclass::oid::bigint);
    IF to_regclass(name) IS NULL THEN
        EXECUTE format('CREATE TABLE %I (LIKE event_handled INCLUDING ALL)', name);
        EXECUTE format('ALTER TABLE event_handled ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name, from_at, to_at);
    END IF;
END $$;
