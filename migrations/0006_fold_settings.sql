-- How repeats are recognised is a part of what a log folds to: two aggregators that differ in it count the same log
-- differently, and one with a shorter window drops ids that the others need. So it is recorded beside the fold version:
-- `setup` writes it, every batch compares it, and only `setup --change-dedup` changes it. Null until the first `setup` of
-- this release: what the aggregators used before is known to the operator only.
ALTER TABLE fold
    ADD COLUMN dedup        text CHECK (dedup IN ('history', 'batch')),
    ADD COLUMN dedup_window interval CHECK (dedup_window > interval '0'),
    ADD CHECK ((dedup IS NULL) = (dedup_window IS NULL));
COMMENT ON COLUMN fold.dedup IS 'where repeats are dropped: against the history, or within a batch only';
COMMENT ON COLUMN fold.dedup_window IS 'how long an event id is remembered, by record time';
