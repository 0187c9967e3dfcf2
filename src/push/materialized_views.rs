//! Materialized views that read the table directly: made anew over the candidate before the swap, exchanged by it.
//!
//! There is no `CREATE OR REPLACE` for them, and a refresh inside the swap would hold its locks for as long as the query
//! takes. Their queries are read with the names of the table's schema unqualified and run where the run schema comes
//! first, so the table's name means the candidate.

use tokio_postgres::Client;

use crate::pg::{quote_ident, quote_table};
use crate::schema::TableName;

use super::attributes::Attributes;
use super::error::{Blocker, PushError};
use super::staging;

/// Statements that make the views in the run schema, which must hold the candidate under live's name. They belong into
/// one transaction.
pub(super) fn build(run_schema: &str, table: &TableName, live: &Attributes) -> Vec<String> {
    let path = format!("{}, {}", quote_ident(run_schema), quote_ident(table.schema()));
    let mut sql = Vec::new();
    for view in &live.dependents.materialized_views {
        let place = TableName::new(run_schema, view.name());
        let name = quote_table(&place);
        let columns = view.attributes.columns.iter();
        let columns: Vec<String> = columns.map(|column| quote_ident(&column.name)).collect();
        let options = staging::storage_options(&view.attributes);
        let definition = view.definition.trim_end().trim_end_matches(';');
        sql.push(format!("SET LOCAL search_path = {path}"));
        sql.push(format!(
            "CREATE MATERIALIZED VIEW {name} ({}) WITH ({options}) AS {definition} WITH NO DATA",
            columns.join(", ")
        ));
        sql.push("SET LOCAL search_path = ''".to_owned());
        for column in &view.attributes.columns {
            let column_name = quote_ident(&column.name);
            let set = column.storage_settings().into_iter();
            sql.extend(set.map(|set| format!("ALTER MATERIALIZED VIEW {name} ALTER COLUMN {column_name} {set}")));
        }
        if view.populated {
            // Unlike `CREATE … WITH DATA`, a refresh writes rows that older snapshots see.
            sql.push(format!("REFRESH MATERIALIZED VIEW {name}"));
        }
        sql.extend(staging::build_indexes(&place, &view.attributes).into_iter().map(|(_, index)| index));
        sql.extend(staging::dress(&place, &view.attributes, Vec::new()));
        sql.push(staging::restore_autovacuum(&place, Some(&view.attributes)));
    }
    sql
}

/// Refuses views that were made over live after all.
pub(super) async fn check(
    client: &Client,
    run_schema: &str,
    table: &TableName,
    live: &Attributes,
) -> Result<(), PushError> {
    let rows = client
        .query(
            "SELECT DISTINCT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             JOIN pg_rewrite w ON w.ev_class = c.oid JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid \
             WHERE n.nspname = $1 AND d.refclassid = 'pg_class'::regclass AND d.refobjid = ANY($2)",
            &[&run_schema, &live.dependents.replaced(live.oid)],
        )
        .await
        .map_err(|source| PushError::at("look at the new materialized views", table, source))?;
    if rows.is_empty() {
        return Ok(());
    }
    let blockers = rows.iter().map(|row| Blocker {
        object: format!("materialized view {}", TableName::new(table.schema(), row.get::<_, String>(0))),
        why: "its query cannot be read as one over a new table".to_owned(),
        alternative: "use --mode merge, or drop it before the push and create it again after it".to_owned(),
    });
    Err(PushError::Blocked { table: table.clone(), blockers: blockers.collect() })
}

/// The statement that analyzes each view in the run schema.
pub(super) fn analyze(run_schema: &str, live: &Attributes) -> Vec<String> {
    let views = live.dependents.materialized_views.iter().filter(|view| view.populated);
    views.map(|view| format!("VACUUM (ANALYZE) {}", quote_table(&TableName::new(run_schema, view.name())))).collect()
}

/// Drops the views that were made in the run schema, so that they can be made anew.
pub(super) fn discard(run_schema: &str, live: &Attributes) -> Vec<String> {
    let views = live.dependents.materialized_views.iter().rev();
    views
        .map(|view| {
            format!("DROP MATERIALIZED VIEW IF EXISTS {}", quote_table(&TableName::new(run_schema, view.name())))
        })
        .collect()
}

/// Part of the swap: the new views take the names, the old ones lose theirs.
pub(super) fn exchange(run_schema: &str, live: &Attributes) -> Vec<String> {
    let mut sql = Vec::new();
    for (number, view) in live.dependents.materialized_views.iter().enumerate() {
        let place = view.relation.table_name();
        let schema = quote_ident(place.schema());
        let indexes = view.attributes.indexes.iter();
        sql.extend(indexes.map(|index| format!("DROP INDEX {schema}.{}", quote_ident(&index.name))));
        let statistics = view.attributes.statistics.iter();
        sql.extend(statistics.map(|statistics| format!("DROP STATISTICS {schema}.{}", quote_ident(&statistics.name))));
        let old = former(&place, number);
        sql.push(format!("ALTER MATERIALIZED VIEW {} RENAME TO {}", quote_table(&place), quote_ident(old.name())));
        let made = quote_table(&TableName::new(run_schema, view.name()));
        sql.push(format!("ALTER MATERIALIZED VIEW {made} SET SCHEMA {schema}"));
        sql.extend(view.attributes.statistics.iter().map(|statistics| {
            let made = quote_table(&TableName::new(run_schema, statistics.name.as_str()));
            format!("ALTER STATISTICS {made} SET SCHEMA {schema}")
        }));
    }
    sql
}

/// Part of the swap, once nothing depends on them: drops the old views.
pub(super) fn drop_former(live: &Attributes) -> Vec<String> {
    let views = live.dependents.materialized_views.iter().enumerate().rev();
    views
        .map(|(number, view)| {
            format!("DROP MATERIALIZED VIEW {}", quote_table(&former(&view.relation.table_name(), number)))
        })
        .collect()
}

/// What an old view is called for the rest of the swap's transaction.
fn former(place: &TableName, number: usize) -> TableName {
    TableName::new(place.schema(), format!("_former_{number}"))
}

/// Moves the backup into the run schema under live's name, makes the views over it and moves it back, all in one
/// transaction: nobody reads the backup, so its lock is in nobody's way.
pub(super) fn build_over_backup(
    run_schema: &str,
    table: &TableName,
    backup: &TableName,
    live: &Attributes,
) -> Vec<String> {
    if live.dependents.materialized_views.is_empty() {
        return Vec::new();
    }
    let (schema, run) = (quote_ident(table.schema()), quote_ident(run_schema));
    let (name, backup_name) = (quote_ident(table.name()), quote_ident(backup.name()));
    let mut sql = vec![
        format!("ALTER TABLE {} SET SCHEMA {run}", quote_table(backup)),
        format!("ALTER TABLE {run}.{backup_name} RENAME TO {name}"),
    ];
    sql.extend(build(run_schema, table, live));
    sql.push(format!("ALTER TABLE {run}.{name} RENAME TO {backup_name}"));
    sql.push(format!("ALTER TABLE {run}.{backup_name} SET SCHEMA {schema}"));
    sql
}
