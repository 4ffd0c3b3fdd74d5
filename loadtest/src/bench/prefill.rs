//! A database that holds many likes already, made by SQL alone, as a template for drains.

use anyhow::Context;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use crate::backlog::Backlog;
use crate::database::Database;
use crate::drain::{Place, set_up};
use crate::generate::product_id;

/// A template with tables for this backlog's topic in which every product has `base` likes by
/// other users than the log's, all of them in the history of the last two days.
pub async fn template(place: &Place, backlog: &Backlog, base: i64) -> anyhow::Result<String> {
    let name = format!("prefilled_{}", Uuid::now_v7().simple());
    let database = Database::create(&place.database_url, &name).await?;
    set_up(place, backlog, &database.url)?;
    let mut sql = PgConnection::connect(&database.url).await?;
    let products: Vec<_> = (0..backlog.shape.products).map(product_id).collect();
    sqlx::query("CREATE TABLE p AS SELECT unnest($1::text[]) AS id").bind(&products).execute(&mut sql).await?;
    for (what, statement) in [
        // Keys begin as the service's do, so that a product's rows share their pages of the index.
        (
            "product_like",
            "INSERT INTO likes.product_like (pair_key, changed_at, liked, product_id, user_id)
            SELECT (left(prefix, 8) || left(md5(prefix || n), 24))::uuid, now(), true, id, 'filled|' || md5(n::text)
            FROM (SELECT id, encode(sha256(int4send(length(id)) || id::bytea), 'hex') AS prefix FROM p) AS p,
                 generate_series(1, {base}) AS n
            ORDER BY 1",
        ),
        ("product_like_count", "INSERT INTO likes.product_like_count SELECT id, {base}, 0, now() FROM p"),
        (
            "event_handled's windows",
            "SELECT likes.make_event_window(now()), likes.make_event_window(now() - '47 h'::interval)",
        ),
        (
            "event_handled",
            "INSERT INTO likes.event_handled (event_id, record_time)
            SELECT (lpad(to_hex(1795300000000 + n / 250), 12, '0') || '7' || left(md5(n::text), 19))::uuid,
                   now() - '47 h'::interval + n * ('46 h'::interval / ({base} * {products}))
            FROM generate_series(1, {base} * {products}) AS n",
        ),
        ("statistics", "DROP TABLE p; ANALYZE"),
    ] {
        let statement = statement.replace("{base}", &base.to_string());
        let statement = statement.replace("{products}", &products.len().to_string());
        let search_path = "SET search_path = likes, public; ";
        sqlx::raw_sql(AssertSqlSafe(format!("{search_path}{statement}"))).execute(&mut sql).await.context(what)?;
    }
    sql.close().await?;
    database.leave().await?;
    Ok(name)
}
