-- How autovacuum treats tables that are larger than memory. Its defaults let a share of the table pass between two runs: of
-- a billion rows, 200 million. (Parameters of a partitioned table don't exist; each partition has its own.)

-- product_like: an update stays on its page, and off the index, while the page has room, of which 10 % are kept free
-- (fillfactor). So dead rows go once they are half of that. Inserted rows are marked visible and frozen at the same step, in
-- small portions instead of one run over the whole table when its transaction ids grow old. product_like_count keeps the
-- defaults, since half of each of its pages is free.
ALTER TABLE product_like SET (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.05);

-- Windows of event_handled are only inserted into and then dropped whole, long before their transaction ids grow old. A
-- vacuum would read and write all of it again for nothing: no row is dead, and a look-up that finds no id never asks
-- whether a row is visible. An analysis would only tell what the one index decides anyway. Against a wraparound autovacuum
-- runs all the same. A window that has parameters already keeps them.
CREATE FUNCTION tune_event_windows() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    name text;
BEGIN
    FOR name IN SELECT c.oid::regclass FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid
                WHERE inhparent = 'event_handled'::regclass AND c.reloptions IS NULL
    LOOP
        EXECUTE format('ALTER TABLE %s SET (autovacuum_enabled = off)', name);
    END LOOP;
END $$;
SELECT tune_event_windows();

-- New windows get theirs where they are made: see 0008.
CREATE OR REPLACE FUNCTION make_event_window(at timestamptz, dedup_window interval) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT set_config('search_path', event_handled_path(), true);
    SELECT make_event_window_as_caller(at, dedup_window);
    SELECT tune_event_windows();
END;
