//! Former live tables by age: the newest has the backup's own name, older ones are numbered from 2.
//!
//! A push moves each one number up, in the swap's own transaction, and those beyond the number that is kept into the run
//! schema, where they are removed after the commit. Nobody reads backups, so their locks make nobody wait. Only the
//! newest is what a rollback puts back.

use serde::Serialize;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::pg::{DatabaseUrl, quote_ident, quote_table};
use crate::schema::TableName;

use super::attributes::{self, Attributes};
use super::backup::{BackupStatus, Marker, rows};
use super::error::{Blocker, PushError};
use super::options::TargetOptions;
use super::session::{self, LockKey};

/// The longest name that Postgres keeps (`NAMEDATALEN - 1`).
const NAME_BYTES_MAX: usize = 63;

/// A backup and its number.
#[derive(Debug)]
struct Generation {
    number: usize,
    table: TableName,
    attributes: Attributes,
    marker: Marker,
}

impl Generation {
    fn status(self) -> BackupStatus {
        BackupStatus {
            rows_estimated: self.marker.rows.or_else(|| rows(&self.attributes)),
            bytes: self.attributes.bytes,
            table: self.table,
            since: self.marker.since,
            run_id: self.marker.run,
        }
    }
}

/// The backups of a table, newest first.
#[derive(Debug, Default)]
pub(super) struct Generations {
    found: Vec<Generation>,
    /// Other people's tables under such names.
    foreign: Vec<(usize, TableName)>,
}

/// The name of a generation.
fn name_of(backup: &str, number: usize) -> String {
    if number == 1 {
        return backup.to_owned();
    }
    let suffix = format!("_{number}");
    let mut stem = backup.to_owned();
    while stem.len() + suffix.len() > NAME_BYTES_MAX {
        stem.pop();
    }
    stem + &suffix
}

/// The number of the generation that has this name.
fn number_of(backup: &str, name: &str) -> Option<usize> {
    if name == backup {
        return Some(1);
    }
    let number = name.rsplit_once('_')?.1.parse().ok()?;
    (number > 1 && name_of(backup, number) == name).then_some(number)
}

impl Generations {
    /// Reads all backups of the table.
    pub(super) async fn read(client: &Client, options: &TargetOptions) -> Result<Self, PushError> {
        let sql = "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                   WHERE n.nspname = $1 AND c.relkind NOT IN ('i', 'I', 'S', 't', 'c')";
        let names = client
            .query(sql, &[&options.table.schema()])
            .await
            .map_err(|source| PushError::at("look for backups", &options.table, source))?;
        let mut numbered: Vec<(usize, TableName)> = names
            .iter()
            .map(|row| row.get::<_, String>(0))
            .filter_map(|name| Some((number_of(&options.backup, &name)?, TableName::new(options.table.schema(), name))))
            .collect();
        numbered.sort_unstable_by_key(|(number, _)| *number);
        let mut generations = Self::default();
        for (number, table) in numbered {
            let Some(attributes) = attributes::read(client, &table).await? else { continue };
            match Marker::read(attributes.comment.as_deref(), &options.table) {
                Some(marker) => generations.found.push(Generation { number, table, attributes, marker }),
                None => generations.foreign.push((number, table)),
            }
        }
        Ok(generations)
    }

    /// Other people's tables under names that a push needs.
    pub(super) fn blockers(&self, keep: usize) -> Vec<Blocker> {
        let last = self.shifted() + 1;
        let in_the_way = self.foreign.iter().filter(|(number, _)| *number <= keep.min(last));
        let blocker = |(_, table): &(usize, TableName)| Blocker {
            object: format!("table {table}"),
            why: "it has the backup's name and is not a backup of this table".to_owned(),
            alternative: "rename it, or choose another backup name".to_owned(),
        };
        in_the_way.map(blocker).collect()
    }

    /// How many, from the newest on, make room for another: up to the first number that is free.
    fn shifted(&self) -> usize {
        self.found.iter().enumerate().take_while(|(index, found)| found.number == index + 1).count()
    }

    /// Every backup with its oid, for the guard and the locks.
    pub(super) fn tables(&self) -> impl Iterator<Item = (&TableName, u32)> {
        self.found.iter().map(|found| (&found.table, found.attributes.oid))
    }

    /// Moves every backup one number up, and those beyond `keep` into the run schema.
    pub(super) fn make_room(&self, options: &TargetOptions, run_schema: &str) -> Vec<String> {
        let (shifted, schema) = (self.shifted(), quote_ident(run_schema));
        let mut sql = Vec::new();
        // The oldest first: its name is the next one's.
        for (index, found) in self.found.iter().enumerate().rev() {
            let table = quote_table(&found.table);
            let number = if index < shifted { found.number + 1 } else { found.number };
            if number > options.keep_backups {
                sql.push(format!("ALTER TABLE {table} SET SCHEMA {schema}"));
                sql.extend(found.attributes.statistics.iter().map(|statistics| {
                    let name = quote_table(&TableName::new(statistics.schema.as_str(), statistics.name.as_str()));
                    format!("ALTER STATISTICS {name} SET SCHEMA {schema}")
                }));
            } else if number != found.number {
                let name = quote_ident(&name_of(&options.backup, number));
                sql.push(format!("ALTER TABLE {table} RENAME TO {name}"));
            }
        }
        sql
    }
}

/// The backups of a table, newest first.
///
/// # Errors
/// [`PushError`] when the catalogue cannot be read.
pub async fn backups(client: &Client, options: &TargetOptions) -> Result<Vec<BackupStatus>, PushError> {
    let generations = Generations::read(client, options).await?;
    Ok(generations.found.into_iter().map(Generation::status).collect())
}

/// What a removal of backups did.
#[derive(Debug, Clone, Serialize)]
pub struct DropReport {
    /// The live table, which is as it was.
    pub table: TableName,
    /// The backups that are gone.
    pub dropped: Vec<BackupStatus>,
}

/// Removes all backups of a table, in one transaction.
///
/// # Errors
/// [`PushError::NoBackup`] when there is none; the server's refusal when somebody built something on one.
pub async fn drop_backups(
    url: &DatabaseUrl,
    options: &TargetOptions,
    run_id: &str,
    cancel: &CancellationToken,
) -> Result<DropReport, PushError> {
    let table = &options.table;
    let (session, _) = session::open(url, table, run_id).await?;
    let lock = LockKey::of(table);
    session::take_lock(&session, lock, table).await?;
    let generations = Generations::read(&session, options).await?;
    if generations.found.is_empty() {
        return Err(PushError::NoBackup { table: table.clone(), backup: options.backup_table() });
    }
    if cancel.is_cancelled() {
        return Err(PushError::Cancelled { table: table.clone() });
    }
    let names: Vec<String> = generations.tables().map(|(table, _)| quote_table(table)).collect();
    let sql = format!("DROP TABLE {} RESTRICT", names.join(", "));
    session.batch_execute(&sql).await.map_err(|source| PushError::at("drop the backups", table, source))?;
    session::release_lock(&session, lock).await;
    let dropped = generations.found.into_iter().map(Generation::status).collect();
    Ok(DropReport { table: table.clone(), dropped })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_are_known_by_their_names() {
        let long = "é".repeat(31);
        for backup in ["_backup", "_backup_2", long.as_str()] {
            for number in [1, 2, 10] {
                let name = name_of(backup, number);
                assert!(name.len() <= NAME_BYTES_MAX, "{name}");
                assert_eq!(number_of(backup, &name), Some(number), "{name}");
            }
        }
        for name in ["_backup_1", "_backup_02", "_backup_x", "other_2", "_backup_"] {
            assert_eq!(number_of("_backup", name), None, "{name}");
        }
    }
}
