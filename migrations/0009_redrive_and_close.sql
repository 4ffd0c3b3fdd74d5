-- What `dead-letters redrive` and `topics close` need to know.

-- When the broker wrote the record: letters are published again in this order, and only those that no later event of the
-- same user and product has overtaken. Null: unknown (a letter of an earlier release, or a record without a valid time).
ALTER TABLE dead_letter ADD COLUMN record_time timestamptz;

-- A topic is closed in two steps: first its producers are fenced at the broker, then its ends are recorded. The state is
-- computed, so that a release that only knows end_offsets closes topics too.
ALTER TABLE topic_layout
    ADD COLUMN closing boolean NOT NULL DEFAULT false,
    ADD COLUMN republished_to bigint[] CHECK (cardinality(republished_to) = partitions);
ALTER TABLE topic_layout
    ADD COLUMN state text NOT NULL GENERATED ALWAYS AS
        (CASE WHEN end_offsets IS NOT NULL THEN 'closed' WHEN closing THEN 'closing' ELSE 'open' END) STORED;
COMMENT ON COLUMN topic_layout.closing IS 'true once `topics close` has begun: like-api accepts no like for it any more';
COMMENT ON COLUMN topic_layout.republished_to IS 'per partition, up to where records past the end were published again';
