//! The text of the swap: one transaction as one message, from what was inspected.

use std::time::Duration;

use crate::pg::{quote_ident, quote_literal, quote_table};
use crate::schema::TableName;

use super::attributes::{Attributes, ColumnAttributes, OwnedSequence, fingerprint_sql};
use super::backup::{Marker, rename_sql};
use super::dependents::Relation;
use super::generations::Generations;
use super::lock_retry;
use super::materialized_views;
use super::options::TargetOptions;
use super::rebind;
use super::session::LockKey;
use super::staging;

/// Raised by the guard when the table is not the one that was inspected.
pub(super) const DRIFT: &str = "RA001";
/// The transaction's settings. The first lock may be waited for long: nothing is held yet that anybody needs.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;\
     SET LOCAL search_path = '';\
     SET LOCAL synchronous_commit = on;\
     SET LOCAL statement_timeout = '10s';\
     SET LOCAL idle_in_transaction_session_timeout = '5s';\
     SET LOCAL check_function_bodies = off;\
     SET LOCAL lock_timeout = '5s'";
/// Answers how long the batch waited for its locks and how long it has had them.
const TIMING: &str = "SELECT 1000 * extract(epoch FROM current_setting('racealpha.locked')::timestamptz - \
         current_setting('racealpha.waiting')::timestamptz) AS lock_wait_ms, \
     1000 * extract(epoch FROM clock_timestamp() - current_setting('racealpha.locked')::timestamptz) AS batch_ms";

/// A sequence that must not fall behind what was loaded into its column.
#[derive(Debug, Clone)]
pub(super) struct SequencePosition {
    pub(super) sequence: OwnedSequence,
    /// The largest value of the column, or the smallest if the sequence counts down.
    pub(super) furthest: Option<i64>,
}

/// What takes the live table's place.
#[derive(Debug)]
pub(super) enum Candidate<'a> {
    /// A staging table in the run schema, dressed.
    Staging {
        /// Where it is.
        table: TableName,
        /// The backups that make room.
        backups: &'a Generations,
    },
    /// The backup itself: a rollback.
    Backup {
        /// The backup.
        attributes: &'a Attributes,
        /// Its marker.
        marker: &'a Marker,
    },
}

/// Everything the batch is composed from.
#[derive(Debug)]
pub(super) struct Swap<'a> {
    pub(super) options: &'a TargetOptions,
    pub(super) run_id: &'a str,
    pub(super) run_schema: &'a str,
    /// The live table; `None` on the first push.
    pub(super) live: Option<&'a Attributes>,
    pub(super) fingerprint: Option<&'a str>,
    pub(super) candidate: Candidate<'a>,
    pub(super) candidate_oid: u32,
    pub(super) sequences: Vec<SequencePosition>,
    /// The live table's rows, where they were counted.
    pub(super) rows_before: Option<u64>,
    pub(super) lock: LockKey,
}

impl Swap<'_> {
    /// The whole transaction as one text.
    pub(super) fn batch(&self, budget: Duration) -> String {
        let mut sql = vec![BEGIN.to_owned()];
        if self.live.is_some() {
            // Makes a running autovacuum leave and holds off other DDL; readers and writers go on.
            let live = quote_table(&self.options.table);
            sql.push(format!("LOCK TABLE ONLY {live} IN SHARE UPDATE EXCLUSIVE MODE"));
        }
        sql.push(self.guard());
        sql.push(self.locks(budget));
        // Everything below is locked already.
        sql.push("SET LOCAL lock_timeout = '50ms'".to_owned());
        sql.extend(self.body());
        sql.push("NOTIFY pgrst, 'reload schema'".to_owned());
        sql.push(TIMING.to_owned());
        sql.push("COMMIT".to_owned());
        sql.join(";")
    }

    /// Raises unless everything is as it was inspected.
    fn guard(&self) -> String {
        let unless = |condition: String, message: &str| {
            let message = quote_literal(message);
            format!("IF NOT ({condition}) THEN RAISE EXCEPTION '%', {message} USING ERRCODE = '{DRIFT}'; END IF;")
        };
        let lock = format!("pg_try_advisory_xact_lock({})", self.lock.0);
        let mut checks = vec![unless(lock, "another session has taken the push lock")];
        let mut same = |table: &TableName, oid: Option<u32>| {
            let expected = oid.map_or_else(|| "NULL::oid".to_owned(), |oid| format!("{oid}::oid"));
            let name = quote_literal(&quote_table(table));
            let condition = format!("to_regclass({name})::oid IS NOT DISTINCT FROM {expected}");
            checks.push(unless(condition, &format!("{table} is not the table it was")));
        };
        same(&self.options.table, self.live.map(|live| live.oid));
        match &self.candidate {
            Candidate::Staging { table, backups } => {
                same(table, Some(self.candidate_oid));
                if self.live.is_some() {
                    let newest = backups.tables().next().filter(|(name, _)| **name == self.options.backup_table());
                    same(&self.options.backup_table(), newest.map(|(_, oid)| oid));
                    for (backup, oid) in backups.tables() {
                        same(backup, Some(oid));
                    }
                }
            }
            Candidate::Backup { attributes, .. } => same(&self.options.backup_table(), Some(attributes.oid)),
        }
        if let (Some(live), Some(fingerprint)) = (self.live, self.fingerprint) {
            let condition = format!("({}) = {}", fingerprint_sql(live.oid), quote_literal(fingerprint));
            checks.push(unless(condition, "something attached to it has changed"));
        }
        format!("DO {}", quote_literal(&format!("BEGIN {} END", checks.join(" "))))
    }

    /// Takes the strong locks, the live table's last, within one budget for all of them.
    fn locks(&self, budget: Duration) -> String {
        let lock = |table: &TableName| format!("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE", quote_table(table));
        let mut statements: Vec<String> = Vec::new();
        let dependents = self.live.iter().flat_map(|live| live.dependents.locks());
        statements.extend(dependents.map(Relation::lock));
        match &self.candidate {
            Candidate::Staging { backups, .. } if self.live.is_some() => {
                statements.extend(backups.tables().map(|(backup, _)| lock(backup)));
            }
            Candidate::Staging { .. } => {}
            Candidate::Backup { .. } => statements.push(lock(&self.options.backup_table())),
        }
        if self.live.is_some() {
            statements.push(lock(&self.options.table));
        }
        lock_retry::all_within(budget, &statements)
    }

    fn body(&self) -> Vec<String> {
        let mut sql = self.live.map(|live| rebind::drop_functions(&live.dependents)).unwrap_or_default();
        let (schema, name) = (self.options.table.schema(), self.options.table.name());
        match &self.candidate {
            Candidate::Staging { backups, .. } if self.live.is_some() => {
                sql.extend(backups.make_room(self.options, self.run_schema));
            }
            Candidate::Staging { .. } => {}
            Candidate::Backup { attributes, marker } => {
                sql.extend(self.bring_back(attributes, marker));
                sql.extend(self.change_owner(attributes));
            }
        }
        if let Some(live) = self.live {
            sql.extend(self.step_aside(live));
        }
        let staged = TableName::new(self.run_schema, name);
        sql.push(format!("ALTER TABLE {} SET SCHEMA {}", quote_table(&staged), quote_ident(schema)));
        sql.extend(self.take_over());
        sql
    }

    /// Rollback: moves the backup out of the way of its original names and gives them back to it.
    fn bring_back(&self, backup: &Attributes, marker: &Marker) -> Vec<String> {
        let from = self.options.backup_table();
        let moved = TableName::new(self.run_schema, self.options.backup.as_str());
        let mut sql = Vec::new();
        // Made anew from live's, so that what was tightened after the push is not loosened again.
        for policy in &backup.policies {
            sql.push(format!("DROP POLICY {} ON {}", quote_ident(&policy.name), quote_table(&from)));
        }
        for trigger in &backup.triggers {
            sql.push(format!("DROP TRIGGER {} ON {}", quote_ident(&trigger.name), quote_table(&from)));
        }
        for rule in backup.dependents.rules.iter().filter(|rule| rule.own) {
            sql.push(format!("DROP RULE {} ON {}", quote_ident(&rule.name), quote_table(&from)));
        }
        sql.push(format!("ALTER TABLE {} SET SCHEMA {}", quote_table(&from), quote_ident(self.run_schema)));
        sql.push(format!("ALTER TABLE {} RENAME TO {}", quote_table(&moved), quote_ident(self.options.table.name())));
        for index in &backup.indexes {
            let original = marker.original_name(&index.name);
            if original != index.name {
                sql.push(rename_sql("INDEX", self.run_schema, &index.name, original));
            }
        }
        for sequence in backup.sequences.iter().filter(|sequence| sequence.identity) {
            // As live's of the same column is called by now.
            let lives = self.live.into_iter().flat_map(|live| &live.sequences);
            let lives = lives.filter(|of| of.identity).find(|of| of.column == sequence.column);
            let name = lives.map_or_else(|| marker.original_name(&sequence.name), |of| of.name.as_str());
            if name != sequence.name {
                sql.push(rename_sql("SEQUENCE", self.run_schema, &sequence.name, name));
            }
        }
        for statistics in &backup.statistics {
            let name = quote_table(&TableName::new(statistics.schema.as_str(), statistics.name.as_str()));
            sql.push(format!("ALTER STATISTICS {name} SET SCHEMA {}", quote_ident(self.run_schema)));
            let original = marker.original_name(&statistics.name);
            if original != statistics.name {
                sql.push(rename_sql("STATISTICS", self.run_schema, &statistics.name, original));
            }
        }
        sql
    }

    /// Rollback: the backup, in the run schema under live's name, gets live's owner.
    fn change_owner(&self, backup: &Attributes) -> Vec<String> {
        let Some(live) = self.live.filter(|live| live.owner != backup.owner) else { return Vec::new() };
        let (schema, owner) = (quote_ident(self.run_schema), quote_ident(&live.owner));
        let table = quote_table(&TableName::new(self.run_schema, self.options.table.name()));
        // To own a table takes the right to make one in its schema.
        vec![
            format!("GRANT USAGE, CREATE ON SCHEMA {schema} TO {owner}"),
            format!("ALTER TABLE {table} OWNER TO {owner}"),
        ]
    }

    /// Whether what takes live's place has a column.
    fn has_column(&self, name: &str) -> bool {
        match &self.candidate {
            Candidate::Staging { .. } => true,
            Candidate::Backup { attributes, .. } => attributes.columns.iter().any(|column| column.name == name),
        }
    }

    /// Live becomes the backup: its name, the names that are unique per schema, its exposure.
    fn step_aside(&self, live: &Attributes) -> Vec<String> {
        let schema = self.options.table.schema();
        let backup = quote_table(&self.options.backup_table());
        let mut marker = Marker::new(self.run_id, &self.options.table, live.oid, self.candidate_oid);
        let (live_name, backup_name) = (quote_table(&self.options.table), quote_ident(&self.options.backup));
        let mut sql = vec![format!("ALTER TABLE {live_name} RENAME TO {backup_name}")];
        for index in &live.indexes {
            let name = marker.backup_name(&index.name);
            sql.push(rename_sql("INDEX", schema, &index.name, &name));
        }
        for sequence in &live.sequences {
            if sequence.identity {
                let name = marker.backup_name(&sequence.name);
                sql.push(rename_sql("SEQUENCE", schema, &sequence.name, &name));
                let name = quote_table(&TableName::new(schema, name));
                sql.push(staging::revoke_all_but_owner("SEQUENCE", "s", &name));
            } else {
                marker.serials.insert(sequence.column.clone(), sequence.table_name());
            }
        }
        for statistics in &live.statistics {
            let name = marker.backup_name(&statistics.name);
            sql.push(rename_sql("STATISTICS", schema, &statistics.name, &name));
        }
        marker.to_validate = rebind::to_validate(&live.dependents);
        marker.rows = self.rows_before;
        sql.push(staging::revoke_all_but_owner("TABLE", "r", &backup));
        sql.push(format!("ALTER TABLE {backup} ENABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY"));
        sql.push(marker.comment_on(&self.options.backup_table()));
        sql
    }

    /// The candidate, under the live name now, gets what could not be attached before.
    fn take_over(&self) -> Vec<String> {
        let table = &self.options.table;
        let (name, schema) = (quote_table(table), table.schema());
        let mut sql = Vec::new();
        if matches!(self.candidate, Candidate::Staging { .. }) {
            sql.push(staging::restore_autovacuum(table, self.live));
        }
        let Some(live) = self.live else { return sql };
        // What the candidate has came with it; live's may be others by now.
        let statistics: Vec<&str> = match &self.candidate {
            Candidate::Staging { .. } => live.statistics.iter().map(|statistics| statistics.name.as_str()).collect(),
            Candidate::Backup { attributes, marker } => {
                attributes.statistics.iter().map(|statistics| marker.original_name(&statistics.name)).collect()
            }
        };
        for statistics in statistics {
            let name = quote_table(&TableName::new(self.run_schema, statistics));
            sql.push(format!("ALTER STATISTICS {name} SET SCHEMA {}", quote_ident(schema)));
        }
        for position in &self.sequences {
            let former = position.sequence.identity.then(|| self.former_name(&position.sequence.name));
            sql.extend(position.setval(schema, former.as_deref()));
        }
        let serials = live.sequences.iter().filter(|sequence| !sequence.identity && self.has_column(&sequence.column));
        for sequence in serials {
            let column = quote_ident(&sequence.column);
            sql.push(format!("ALTER SEQUENCE {} OWNED BY {name}.{column}", quote_table(&sequence.table_name())));
            let default = live.columns.iter().find(|of| of.name == sequence.column).and_then(|of| of.default.as_ref());
            if let Some(default) = default {
                let backup = quote_table(&self.options.backup_table());
                sql.push(format!("ALTER TABLE {backup} ALTER COLUMN {column} DROP DEFAULT"));
                sql.push(format!("ALTER TABLE {name} ALTER COLUMN {column} SET DEFAULT {default}"));
            }
        }
        // Before the policies, which may read them.
        sql.extend(materialized_views::exchange(self.run_schema, live));
        for policy in &live.policies {
            sql.extend(staging::policy(table, policy));
        }
        for trigger in &live.triggers {
            sql.extend(staging::trigger(table, trigger));
        }
        sql.extend(rebind::own_rules(&live.dependents));
        sql.extend(rebind::bind(&live.dependents));
        sql.extend(materialized_views::drop_former(live));
        sql.extend(rebind::create_functions(&live.dependents));
        for publication in &live.publications {
            sql.extend(staging::publication(table, &self.options.backup_table(), publication));
        }
        if let Candidate::Backup { attributes, .. } = &self.candidate {
            sql.extend(staging::privileges(table, live));
            for sequence in
                live.sequences.iter().filter(|sequence| sequence.identity && self.has_column(&sequence.column))
            {
                let name = TableName::new(schema, sequence.name.as_str());
                sql.extend(staging::dress_sequence(&name, sequence, &live.owner));
            }
            let then = |name: &str| attributes.columns.iter().find(|column| column.name == name);
            let commented =
                |column: &&ColumnAttributes| then(&column.name).is_some_and(|then| then.comment != column.comment);
            for column in live.columns.iter().filter(commented) {
                let comment = column.comment.as_deref().map_or_else(|| "NULL".to_owned(), quote_literal);
                sql.push(format!("COMMENT ON COLUMN {name}.{} IS {comment}", quote_ident(&column.name)));
            }
            let comment = live.comment.as_deref().map_or_else(|| "NULL".to_owned(), quote_literal);
            sql.push(format!("COMMENT ON TABLE {name} IS {comment}"));
            let enable = if live.row_security { "ENABLE" } else { "DISABLE" };
            sql.push(format!("ALTER TABLE {name} {enable} ROW LEVEL SECURITY"));
        }
        let force = if live.force_row_security { "FORCE" } else { "NO FORCE" };
        sql.push(format!("ALTER TABLE {name} {force} ROW LEVEL SECURITY"));
        sql
    }

    /// What an identity sequence of live is called once live is the backup. Names are given in the same order as in
    /// [`Swap::step_aside`], so they come out the same.
    fn former_name(&self, original: &str) -> String {
        let Some(live) = self.live else { return original.to_owned() };
        let mut marker = Marker::new(self.run_id, &self.options.table, live.oid, self.candidate_oid);
        for index in &live.indexes {
            marker.backup_name(&index.name);
        }
        for sequence in live.sequences.iter().filter(|sequence| sequence.identity) {
            let name = marker.backup_name(&sequence.name);
            if sequence.name == original {
                return name;
            }
        }
        original.to_owned()
    }
}

impl SequencePosition {
    /// Advances the sequence to the further of where live's former one is and the values in the table; nothing, where
    /// there is neither. A sequence that is there already stays, so that a number that somebody takes at this moment is
    /// not given twice. A `serial` column's sequence stays, so it has no former one.
    pub(super) fn setval(&self, schema: &str, former: Option<&str>) -> Option<String> {
        let sequence = match former {
            Some(_) => quote_table(&TableName::new(schema, self.sequence.name.as_str())),
            None => quote_table(&self.sequence.table_name()),
        };
        let (direction, beyond) = if self.sequence.ascending { ("DESC", ">") } else { ("ASC", "<") };
        let former = former.map(|former| {
            let former = quote_table(&TableName::new(schema, former));
            format!("SELECT last_value, is_called FROM {former}")
        });
        let furthest = self.furthest.map(|furthest| format!("SELECT {furthest}, true"));
        let positions: Vec<String> = former.into_iter().chain(furthest).collect();
        (!positions.is_empty()).then(|| {
            format!(
                "SELECT setval({literal}, p.last_value, p.is_called) \
                 FROM ({}) p(last_value, is_called), {sequence} now, pg_sequence s \
                 WHERE s.seqrelid = {literal}::regclass AND p.last_value BETWEEN s.seqmin AND s.seqmax \
                   AND (p.last_value {beyond} now.last_value \
                        OR p.last_value = now.last_value AND p.is_called AND NOT now.is_called) \
                 ORDER BY p.last_value {direction}, p.is_called DESC LIMIT 1",
                positions.join(" UNION ALL "),
                literal = quote_literal(&sequence),
            )
        })
    }
}
