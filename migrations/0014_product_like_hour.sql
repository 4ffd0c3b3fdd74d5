-- Likes gained per product and hour, for what is liked most of late and for charts. A batch adds to it in the transaction of
-- its counts, so the sum of a product's rows is its like_count. An hour is one of record time, the only clock of the fold:
-- folding the log again gives the same sums.
--
-- The key begins with the hour. All rows that a batch writes are of the current hour, so they lie side by side in table and
-- index however many products there are; what was gained of late is one range of the index; and the rows of one product are
-- found by naming its hours, of which a chart has some hundreds. With the product first, every new row would touch a page
-- of its own. A second index would cost each batch as much as the first one.
--
-- A busy product's row of the current hour is updated ten times a second, so half of each page stays free (fillfactor) and
-- no index covers the sums: such an update stays on its page (HOT). The price is the free half of the pages of past hours.
--
-- Hours that are older than 36 days are summed to days by like-aggregator's maintenance: the row of a day has the hour 00:00
-- UTC. Rows of '-infinity' hold what has no known hour: likes that an earlier release has counted, once `audit --repair` has
-- found them missing here.
CREATE TABLE product_like_hour (
    hour       timestamptz NOT NULL,
    product_id text COLLATE "C" NOT NULL,
    likes      bigint NOT NULL,
    PRIMARY KEY (hour, product_id)
) WITH (fillfactor = 50);
COMMENT ON COLUMN product_like_hour.hour IS 'begin of the hour of record time, or of the day (UTC) once it is old; -infinity: unknown';
COMMENT ON COLUMN product_like_hour.likes IS 'likes and delta events less unlikes; may be below zero';
