//! Foreign keys, of the table and to it: what is done about them outside the swap.
//!
//! To add or to drop one takes a lock on the table that it refers to, which others write, so the table's own are
//! attached before the swap and taken off the backup after it. Those of other tables are bound to the new table by the
//! swap and validated after it.

use tokio_postgres::Client;

use crate::pg::{quote_ident, quote_literal, quote_table};
use crate::schema::{RowValues, TableName};

use super::attributes::{Attributes, Constraint};
use super::dependents::ForeignKeyIn;
use super::error::PushError;
use super::lock_retry;

/// Rows without a partner that an error names at most.
const ORPHANS_NAMED: i64 = 10;

fn foreign_keys(attributes: &Attributes) -> impl Iterator<Item = &Constraint> {
    attributes.constraints.iter().filter(|constraint| constraint.kind == 'f')
}

/// Gives `candidate` live's foreign keys, not valid yet; those that it has already stay, others go. Keys over columns
/// that it lacks are left out. Answers which are to be validated.
pub(super) async fn attach(
    client: &Client,
    candidate: &TableName,
    live: &Attributes,
    candidates: Option<&Attributes>,
) -> Result<Vec<String>, tokio_postgres::Error> {
    let table = quote_table(candidate);
    let has_column = |name: &str| candidates.is_none_or(|found| found.columns.iter().any(|column| column.name == name));
    let wanted: Vec<(&Constraint, String)> = foreign_keys(live)
        .filter(|key| key.reference.iter().flat_map(|reference| &reference.columns).all(|column| has_column(column)))
        .filter_map(|key| Some((key, key.reference_from(candidate)?)))
        .collect();
    let mut kept = Vec::new();
    for key in candidates.into_iter().flat_map(foreign_keys) {
        let same = wanted.iter().any(|(live, definition)| {
            let itself = live.reference.as_ref().is_some_and(|reference| reference.itself);
            !itself && live.name == key.name && *definition == key.definition && live.comment == key.comment
        });
        if same {
            kept.push(&key.name);
        } else {
            lock_retry::execute(client, &format!("ALTER TABLE {table} DROP CONSTRAINT {}", quote_ident(&key.name)))
                .await?;
        }
    }
    for (key, definition) in wanted.iter().filter(|(key, _)| !kept.contains(&&key.name)) {
        let name = quote_ident(&key.name);
        let not_valid = if is_to_validate(key) { " NOT VALID" } else { "" };
        let comment = key.comment.as_deref().map_or_else(|| "NULL".to_owned(), quote_literal);
        let sql = format!(
            "ALTER TABLE {table} ADD CONSTRAINT {name} {definition}{not_valid}; COMMENT ON CONSTRAINT {name} ON {table} IS {comment}"
        );
        lock_retry::execute(client, &sql).await?;
    }
    Ok(wanted.iter().filter(|(key, _)| is_to_validate(key)).map(|(key, _)| key.name.clone()).collect())
}

fn is_to_validate(key: &Constraint) -> bool {
    key.validated && key.enforced
}

/// Checks whether all rows keep a constraint.
pub(super) async fn validate(client: &Client, table: &TableName, name: &str) -> Result<(), tokio_postgres::Error> {
    let sql = format!("ALTER TABLE {} VALIDATE CONSTRAINT {}", quote_table(table), quote_ident(name));
    lock_retry::execute(client, &sql).await
}

/// Takes its foreign keys off the backup: else they would keep rows of other tables from being deleted, or delete the
/// backup's with them.
pub(super) async fn detach(
    client: &Client,
    backup: &TableName,
    attributes: &Attributes,
) -> Result<(), tokio_postgres::Error> {
    // One by one: to hold the lock of one table that others read while waiting for another's invites a deadlock.
    for key in foreign_keys(attributes) {
        let sql = format!("ALTER TABLE {} DROP CONSTRAINT {}", quote_table(backup), quote_ident(&key.name));
        lock_retry::execute(client, &sql).await?;
    }
    Ok(())
}

/// Whether every row of another table that refers to a row of live finds one in `candidate`.
pub(super) async fn check_orphans(
    client: &Client,
    table: &TableName,
    candidate: &TableName,
    live: &Attributes,
) -> Result<(), PushError> {
    for key in live.dependents.foreign_keys.iter().filter(|key| key.validated && key.enforced) {
        let rows = client
            .query(&orphans_sql(key, candidate), &[&ORPHANS_NAMED])
            .await
            .map_err(|source| PushError::at("check the foreign keys of other tables", table, source))?;
        if !rows.is_empty() {
            let keys: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            return Err(PushError::Orphans {
                table: table.clone(),
                child: key.relation.table_name(),
                constraint: key.name.clone(),
                keys: RowValues(format!("the keys are {}", keys.join("; "))),
            });
        }
    }
    Ok(())
}

fn orphans_sql(key: &ForeignKeyIn, candidate: &TableName) -> String {
    let child = |column: &str| format!("c.{}", quote_ident(column));
    let columns: Vec<String> = key.columns.iter().map(|(column, ..)| child(column)).collect();
    let set: Vec<String> = columns.iter().map(|column| format!("{column} IS NOT NULL")).collect();
    let joined: Vec<String> = key
        .columns
        .iter()
        .map(|(column, operator, parent)| format!("p.{} {operator} {}", quote_ident(parent), child(column)))
        .collect();
    format!(
        "SELECT DISTINCT concat_ws(', ', {}) FROM {} c WHERE {} AND NOT EXISTS (SELECT FROM {} p WHERE {}) ORDER BY 1 LIMIT $1",
        columns.join(", "),
        quote_table(&key.relation.table_name()),
        set.join(" AND "),
        quote_table(candidate),
        joined.join(" AND ")
    )
}
