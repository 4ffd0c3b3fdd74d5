//! What others have added to the live tables: rights, storage parameters and publications are carried over to the rebuilt
//! ones. What can't be carried would stay with the old tables, so it is named before anything is folded.

use anyhow::{Context, bail};
use like_common::database::SCHEMA;
use sqlx::{AssertSqlSafe, PgConnection};
use tracing::{info, warn};

use super::live::REBUILT;

/// Tables of both schemas by name, windows of `event_handled` and the index of `schema::user_likes` aside: `live`, `own`.
const BOTH: &str = "
    WITH live AS (SELECT c.* FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
                  WHERE nspname = '{live}' AND relname !~ '^(event_handled_\\d{8}|product_like_user_id$)'),
         own AS (SELECT c.* FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = '{own}')";

/// What stays with the old tables: everything that neither the migrations make nor `carry` carries.
const LEFT: &str = "
    SELECT DISTINCT CASE v.relkind WHEN 'm' THEN 'materialized view ' ELSE 'view ' END || v.oid::regclass
    FROM pg_depend d JOIN live ON d.refobjid = live.oid AND d.refclassid = 'pg_class'::regclass
    JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
    JOIN pg_class v ON v.oid = r.ev_class WHERE v.oid <> live.oid
    UNION SELECT CASE live.relkind WHEN 'i' THEN 'index ' WHEN 'v' THEN 'view ' WHEN 'm' THEN 'materialized view '
                                   WHEN 'S' THEN 'sequence ' ELSE 'table ' END || live.oid::regclass
    FROM live WHERE relname NOT IN (SELECT relname FROM own)
    UNION SELECT 'column ' || live.oid::regclass || '.' || a.attname
    FROM live JOIN own USING (relname) JOIN pg_attribute a ON a.attrelid = live.oid AND a.attnum > 0 AND NOT attisdropped
    WHERE NOT EXISTS (SELECT FROM pg_attribute b WHERE b.attrelid = own.oid AND b.attname = a.attname)
    UNION SELECT 'trigger ' || tgname || ' on ' || live.oid::regclass
    FROM live JOIN pg_trigger ON tgrelid = live.oid WHERE NOT tgisinternal
    UNION SELECT 'constraint ' || k.conname || ' on ' || k.conrelid::regclass
    FROM pg_constraint k JOIN live ON live.oid IN (k.conrelid, k.confrelid)
    WHERE k.conparentid = 0 AND NOT EXISTS (SELECT FROM own JOIN pg_constraint o ON o.conrelid = own.oid
                                            WHERE own.relname = live.relname AND o.conname = k.conname)
      AND k.conrelid::regclass::text !~ 'event_handled_\\d{8}'
    UNION SELECT 'policy ' || polname || ' on ' || live.oid::regclass FROM live JOIN pg_policy ON polrelid = live.oid
    UNION SELECT 'function ' || f.oid::regprocedure
    FROM pg_depend d JOIN live ON d.refobjid = live.oid AND d.refclassid = 'pg_class'::regclass
    JOIN pg_proc f ON d.classid = 'pg_proc'::regclass AND f.oid = d.objid
    WHERE NOT EXISTS (SELECT FROM pg_proc o JOIN pg_namespace n ON n.oid = o.pronamespace
                      WHERE nspname = '{own}' AND o.proname = f.proname)
    UNION SELECT 'publication ' || pubname || ' of ' || live.oid::regclass
    FROM live JOIN pg_publication_rel p ON prrelid = live.oid JOIN pg_publication b ON b.oid = prpubid
    WHERE prqual IS NOT NULL OR prattrs IS NOT NULL OR NOT pg_has_role(pubowner, 'USAGE')
    UNION SELECT 'publication ' || pubname || ' of schema {live}'
    FROM pg_publication_namespace JOIN pg_publication b ON b.oid = pnpubid
    JOIN pg_namespace n ON n.oid = pnnspid WHERE nspname = '{live}'
    ORDER BY 1";

/// The statements that carry rights, storage parameters and replica identities over.
const CARRY: &str = "
    SELECT format('GRANT %s ON {own}.%I TO %s%s', privilege_type, relname,
                  CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
                  CASE WHEN is_grantable THEN ' WITH GRANT OPTION' END)
    FROM live CROSS JOIN aclexplode(relacl) WHERE relkind IN ('r', 'p') AND grantee <> relowner
      AND relname IN (SELECT relname FROM own)
    UNION ALL SELECT format('GRANT %s (%I) ON {own}.%I TO %s%s', privilege_type, attname, relname,
                  CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
                  CASE WHEN is_grantable THEN ' WITH GRANT OPTION' END)
    FROM live JOIN pg_attribute ON attrelid = live.oid CROSS JOIN aclexplode(attacl)
    WHERE relkind IN ('r', 'p') AND grantee <> relowner AND relname IN (SELECT relname FROM own)
    UNION ALL SELECT format('GRANT %s ON SCHEMA {own} TO %s', privilege_type,
                  CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END)
    FROM pg_namespace CROSS JOIN aclexplode(nspacl) WHERE nspname = '{live}' AND grantee <> nspowner
    UNION ALL SELECT format('ALTER %s {own}.%I SET (%s)', CASE live.relkind WHEN 'i' THEN 'INDEX' ELSE 'TABLE' END,
                  relname, option)
    FROM live JOIN own USING (relname) CROSS JOIN unnest(live.reloptions) AS option
    WHERE live.relkind IN ('r', 'i') AND option <> ALL (coalesce(own.reloptions, '{}'))
    UNION ALL SELECT format('ALTER TABLE {own}.%I SET (toast.%s)', live.relname, option)
    FROM live JOIN own USING (relname) JOIN pg_class t ON t.oid = live.reltoastrelid
    CROSS JOIN unnest(t.reloptions) AS option
    UNION ALL SELECT format('ALTER TABLE {own}.%I REPLICA IDENTITY %s', relname,
                  CASE live.relreplident WHEN 'f' THEN 'FULL' ELSE 'NOTHING' END)
    FROM live JOIN own USING (relname) WHERE live.relkind = 'r' AND live.relreplident IN ('f', 'n')";

/// The statements that let publications of single tables follow the swap, after which `{live}` is the old schema.
const PUBLISH: &str = "
    SELECT format('ALTER PUBLICATION %I DROP TABLE {live}.%I; ALTER PUBLICATION %I ADD TABLE {own}.%I',
                  pubname, relname, pubname, relname)
    FROM live JOIN pg_publication_rel ON prrelid = live.oid JOIN pg_publication b ON b.oid = prpubid
    WHERE prqual IS NULL AND prattrs IS NULL AND pg_has_role(pubowner, 'USAGE') AND relname IN (SELECT relname FROM own)";

/// Refuses while anything would stay with the old tables, unless that is wanted.
pub(super) async fn check(connection: &mut PgConnection, leave: bool) -> anyhow::Result<()> {
    let left = texts(connection, LEFT, SCHEMA, REBUILT).await.context("what depends on the live tables")?;
    if left.is_empty() {
        return Ok(());
    }
    let left = left.join(", ");
    if !leave {
        bail!(
            "these would stay with the old tables: {left}; drop them and create them again afterwards, or add \
             --leave-behind"
        );
    }
    warn!("these stay with the old tables: {left}");
    Ok(())
}

/// Carries over what belongs to the tables themselves.
pub(super) async fn carry(connection: &mut PgConnection) -> anyhow::Result<()> {
    let statements =
        texts(connection, CARRY, SCHEMA, REBUILT).await.context("rights and parameters of the live tables")?;
    run(connection, statements).await
}

/// Lets publications follow, in the transaction of the swap and after the renames.
pub(super) async fn publish(swap: &mut PgConnection, old: &str) -> anyhow::Result<()> {
    let statements = texts(swap, PUBLISH, old, SCHEMA).await.context("publications")?;
    if !statements.is_empty() {
        info!("publications follow the new tables: subscribers need ALTER SUBSCRIPTION … REFRESH PUBLICATION");
    }
    run(swap, statements).await
}

async fn texts(connection: &mut PgConnection, select: &str, live: &str, own: &str) -> sqlx::Result<Vec<String>> {
    let sql = format!("{BOTH}{select}").replace("{live}", live).replace("{own}", own);
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(connection).await
}

async fn run(connection: &mut PgConnection, statements: Vec<String>) -> anyhow::Result<()> {
    for sql in statements {
        let done = sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(&mut *connection).await;
        done.with_context(|| sql)?;
    }
    Ok(())
}
