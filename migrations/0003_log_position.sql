-- How far the log has been folded, and what of it could not be. The offsets are written in the
-- same transaction as the counts: whoever finds another offset than the one it believed in has
-- been overtaken and writes nothing.
CREATE TABLE kafka_offset (
    topic            text COLLATE "C" NOT NULL,
    partition        integer NOT NULL,
    next_offset      bigint NOT NULL CHECK (next_offset >= 0),
    last_record_time timestamptz,
    updated_at       timestamptz NOT NULL,
    PRIMARY KEY (topic, partition)
) WITH (fillfactor = 50);
COMMENT ON COLUMN kafka_offset.next_offset IS 'the offset of the last folded record, plus one';
COMMENT ON COLUMN kafka_offset.last_record_time IS 'that record''s timestamp; null before the first';

-- The topics in the order in which they are folded. The number of partitions is recorded because
-- Kafka lets it grow, which would send a product's later events elsewhere than its earlier ones.
CREATE TABLE topic_layout (
    sequence    integer PRIMARY KEY CHECK (sequence > 0),
    topic       text COLLATE "C" NOT NULL UNIQUE,
    partitions  integer NOT NULL CHECK (partitions > 0),
    end_offsets bigint[] CHECK (cardinality(end_offsets) = partitions)
);
COMMENT ON COLUMN topic_layout.end_offsets IS 'per partition, once no producer writes there any more; null while open';

-- What a log folds to, as a number that every change of the rules raises. One row.
CREATE TABLE fold (
    fold_version integer NOT NULL,
    only_row     boolean PRIMARY KEY DEFAULT true CHECK (only_row)
);

-- Records that broke a rule of the contract, kept whole (up to 64 KiB) beside their neighbours'
-- counts. The key is the position: folding a record again keeps it once.
CREATE TABLE dead_letter (
    topic         text COLLATE "C" NOT NULL,
    partition     integer NOT NULL,
    record_offset bigint NOT NULL,
    key           bytea,
    payload       bytea,
    reason        text NOT NULL,
    rejected_at   timestamptz NOT NULL,
    PRIMARY KEY (topic, partition, record_offset)
);

-- Parts of the log that were gone before they could be folded: [from_offset, to_offset).
CREATE TABLE log_gap (
    topic       text COLLATE "C" NOT NULL,
    partition   integer NOT NULL,
    from_offset bigint NOT NULL,
    to_offset   bigint NOT NULL CHECK (to_offset > from_offset),
    found_at    timestamptz NOT NULL,
    PRIMARY KEY (topic, partition, from_offset)
);
