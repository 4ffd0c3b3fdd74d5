-- A database may hold the products of some partitions only, so that several databases share a topic (docs/SCALING.md). Each
-- has the offsets of what it holds, in the transaction of its counts, and no transaction spans two of them. Recorded here,
-- and not a setting of each process: a batch that was folded into another database would be lost to its own.
ALTER TABLE topic_layout
    ADD COLUMN held integer[] CHECK (cardinality(held) > 0 AND 0 <= ALL (held) AND partitions > ALL (held));
COMMENT ON COLUMN topic_layout.held IS 'the partitions whose products this database holds, ascending; null: all';
