-- PostgreSQL lets only a table's owner add or drop a partition of it, and the role under which
-- like-aggregator counts owns nothing. So the functions that look after the windows of
-- event_handled run as their own owner, whoever calls them.
--
-- Such a function must not look for tables where its caller says. A search_path in its definition
-- would name a schema, though, and `rebuild` fills a schema under one name and renames it to another.
-- Bodies of this form keep what they name by its number: event_handled and the function that does
-- the work stay the ones they were made beside. From that table's schema the path is made, which
-- ends with the call.

-- These do the work, where the caller's path says and with the caller's rights.
ALTER FUNCTION make_event_window(timestamptz) RENAME TO make_event_window_as_caller;

CREATE FUNCTION event_handled_path() RETURNS text LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT quote_ident(n.nspname) || ', pg_temp'
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = 'event_handled'::regclass;
END;

CREATE FUNCTION make_event_window(at timestamptz) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT set_config('search_path', event_handled_path(), true);
    SELECT make_event_window_as_caller(at);
END;
REVOKE EXECUTE ON FUNCTION make_event_window(timestamptz) FROM PUBLIC;

DO $$
BEGIN
    IF to_regprocedure('drop_event_window(interval, text[], integer[], bigint[])') IS NULL THEN
        RETURN;
    END IF;
    ALTER FUNCTION drop_event_window(interval, text[], integer[], bigint[]) RENAME TO drop_event_window_as_caller;
    CREATE FUNCTION drop_event_window(dedup_window interval, topics text[], partitions integer[], log_ends bigint[])
    RETURNS text LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    BEGIN ATOMIC
        SELECT set_config('search_path', event_handled_path(), true);
        SELECT drop_event_window_as_caller(dedup_window, topics, partitions, log_ends);
    END;
    REVOKE EXECUTE ON FUNCTION drop_event_window(interval, text[], integer[], bigint[]) FROM PUBLIC;
END $$;
