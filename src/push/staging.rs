//! The staging table: created like the live table, then dressed in everything attached to it.
//!
//! Nobody else can see it, so nothing here makes a reader wait. All statements are composed from what
//! [`Attributes`] read; what can only be bound to the table once it carries the live
//! name (policies) is left to the swap.

use arrow::datatypes::Schema;

use crate::pg::{quote_ident, quote_literal, quote_table};
use crate::schema::{DESCRIPTION_KEY, TableName};

use super::attributes::{Attributes, Constraint, Index, OwnedSequence, Policy, Privilege, Publication, Trigger};
use super::columns::ColumnMatch;

/// The version from which tables have a compression method per column.
const VERSION_WITH_COMPRESSION: i32 = 140_000;

/// Creates the staging table with the live table's columns, defaults, identities and storage.
pub(super) fn create_like(
    staging: &TableName,
    live: &TableName,
    attributes: &Attributes,
    columns: &ColumnMatch,
    version: i32,
) -> Vec<String> {
    let compression = if version >= VERSION_WITH_COMPRESSION { " INCLUDING COMPRESSION" } else { "" };
    let table = quote_table(staging);
    let create = format!(
        "CREATE TABLE {table} (LIKE {} INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING IDENTITY \
         INCLUDING STORAGE{compression}) WITH ({})",
        quote_table(live),
        storage_options(attributes)
    );
    let added = columns.added.iter().map(|(column, type_name)| {
        let column = quote_ident(column);
        format!("ALTER TABLE {table} ADD COLUMN {column} {type_name}")
    });
    std::iter::once(create).chain(added).collect()
}

/// Creates the table of a first push.
pub(super) fn create_first(staging: &TableName, columns: &ColumnMatch) -> String {
    let columns: Vec<String> = columns
        .load
        .iter()
        .map(|(_, column)| {
            let not_null = if column.not_null { " NOT NULL" } else { "" };
            format!("{} {}{not_null}", quote_ident(&column.name), column.type_name)
        })
        .collect();
    format!("CREATE TABLE {} ({}) WITH (autovacuum_enabled = off)", quote_table(staging), columns.join(", "))
}

/// The live table's storage options, with autovacuum off until the swap: it would only compete with the load.
pub(super) fn storage_options(attributes: &Attributes) -> String {
    let toast = attributes.toast_options.iter().map(|option| (true, option));
    let mut options: Vec<String> = attributes
        .options
        .iter()
        .map(|option| (false, option))
        .chain(toast)
        .filter(|(toast, option)| *toast || !is_autovacuum_enabled(option))
        .filter_map(|(toast, option)| {
            let (name, value) = option.split_once('=')?;
            let prefix = if toast { "toast." } else { "" };
            Some(format!("{prefix}{} = {}", quote_ident(name), quote_literal(value)))
        })
        .collect();
    options.push("autovacuum_enabled = off".to_owned());
    options.join(", ")
}

fn is_autovacuum_enabled(option: &str) -> bool {
    option.starts_with("autovacuum_enabled=")
}

/// Takes off a staging table everything that [`build_indexes`] and [`dress`] put on it, so that it can be dressed anew
/// in what the live table has by now.
pub(super) fn undress(staging: &TableName, staged: &Attributes, live: &Attributes) -> Vec<String> {
    let table = quote_table(staging);
    let mut sql = vec![format!("ALTER TABLE {table} REPLICA IDENTITY DEFAULT")];
    // References to itself stand on the keys; those to other tables stay as long as they are what live has.
    let references = staged.constraints.iter().filter(|constraint| is_to_itself(constraint));
    let keys = staged.constraints.iter().filter(|constraint| matches!(constraint.kind, 'p' | 'u' | 'c' | 'x'));
    for constraint in references.chain(keys) {
        sql.push(format!("ALTER TABLE {table} DROP CONSTRAINT {}", quote_ident(&constraint.name)));
    }
    for index in &staged.indexes {
        let name = quote_table(&TableName::new(staging.schema(), index.name.as_str()));
        sql.push(format!("DROP INDEX IF EXISTS {name}"));
    }
    for statistics in &staged.statistics {
        let name = quote_table(&TableName::new(staging.schema(), statistics.name.as_str()));
        sql.push(format!("DROP STATISTICS {name}"));
    }
    for column in &staged.columns {
        let name = quote_ident(&column.name);
        if column.statistics_target.is_some() {
            sql.push(format!("ALTER TABLE {table} ALTER COLUMN {name} SET STATISTICS -1"));
        }
        for (option, _) in column.options.iter().filter_map(|option| option.split_once('=')) {
            sql.push(format!("ALTER TABLE {table} ALTER COLUMN {name} RESET ({})", quote_ident(option)));
        }
        if column.comment.is_some() {
            sql.push(format!("COMMENT ON COLUMN {table}.{name} IS NULL"));
        }
    }
    sql.push(format!("COMMENT ON TABLE {table} IS NULL"));
    for sequence in staged.sequences.iter().filter(|sequence| sequence.identity) {
        let name = quote_table(&TableName::new(staging.schema(), sequence.name.as_str()));
        sql.push(format!("COMMENT ON SEQUENCE {name} IS NULL"));
    }
    let toast = staged.toast_options.iter().map(|option| format!("toast.{option}"));
    let options = staged.options.iter().cloned().chain(toast);
    let options: Vec<String> =
        options.filter_map(|option| option.split_once('=').map(|(name, _)| name.to_owned())).collect();
    if !options.is_empty() {
        sql.push(format!("ALTER TABLE {table} RESET ({})", options.join(", ")));
    }
    sql.push(format!("ALTER TABLE {table} SET ({})", storage_options(live)));
    sql.push(format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"));
    sql
}

/// Whether a constraint is a reference of the table to itself.
pub(super) fn is_to_itself(constraint: &Constraint) -> bool {
    constraint.reference.as_ref().is_some_and(|reference| reference.itself)
}

/// Gives autovacuum back what the live table says about it.
pub(super) fn restore_autovacuum(table: &TableName, attributes: Option<&Attributes>) -> String {
    let option = attributes.and_then(|live| live.options.iter().find(|option| is_autovacuum_enabled(option)));
    match option.and_then(|option| option.split_once('=')) {
        Some((_, value)) => {
            format!("ALTER TABLE {} SET (autovacuum_enabled = {})", quote_table(table), quote_literal(value))
        }
        None => format!("ALTER TABLE {} RESET (autovacuum_enabled)", quote_table(table)),
    }
}

/// Puts a new identity sequence where live's is, so that rows without an id do not reuse numbers, and gives it live's
/// name.
pub(super) fn position_identity(run_schema: &str, staging: &TableName, sequence: &OwnedSequence) -> String {
    // The new sequence's name is the server's choice, so it is looked up; it may be the right one already.
    let rename = format!(
        "DECLARE made text := pg_catalog.pg_get_serial_sequence({table}, {column}); \
         BEGIN \
           EXECUTE pg_catalog.format('ALTER SEQUENCE %s RENAME TO %I', made, {name}); \
         EXCEPTION WHEN duplicate_table THEN NULL; \
         END",
        table = quote_literal(&quote_table(staging)),
        column = quote_literal(&sequence.column),
        name = quote_literal(&sequence.name),
    );
    let made = format!("{}.{}", quote_ident(run_schema), quote_ident(&sequence.name));
    // `LIKE` copies an identity's limits and not its sequence's type.
    format!(
        "DO {}; ALTER SEQUENCE {made} AS {}; SELECT pg_catalog.setval({}, last_value, is_called) FROM {}",
        quote_literal(&rename),
        sequence.type_name,
        quote_literal(&made),
        quote_table(&sequence.table_name()),
    )
}

/// Builds the indexes, largest first. Each statement comes with the index's name.
pub(super) fn build_indexes<'a>(staging: &TableName, attributes: &'a Attributes) -> Vec<(&'a str, String)> {
    let mut indexes: Vec<&Index> = attributes.indexes.iter().filter(|index| !is_exclusion(attributes, index)).collect();
    indexes.sort_by_key(|index| std::cmp::Reverse(index.bytes));
    indexes
        .into_iter()
        .filter_map(|index| index.definition_on(staging).map(|definition| (index.name.as_str(), definition)))
        .collect()
}

fn is_exclusion(attributes: &Attributes, index: &Index) -> bool {
    attributes.constraints.iter().any(|key| key.kind == 'x' && key.index.as_deref() == Some(&index.name))
}

/// The comments that the dataset's fields carry. A column's definition is the dataset's, so they win over comments
/// made by hand on the live table, which are carried over where the dataset says nothing.
pub(super) fn descriptions(staging: &TableName, columns: &ColumnMatch, dataset: &Schema) -> Vec<String> {
    let table = quote_table(staging);
    described(columns, dataset)
        .map(|(column, text)| format!("COMMENT ON COLUMN {table}.{} IS {}", quote_ident(column), quote_literal(text)))
        .collect()
}

/// Columns that the dataset says something about, and what it says.
pub(super) fn described<'a>(
    columns: &'a ColumnMatch,
    dataset: &'a Schema,
) -> impl Iterator<Item = (&'a String, &'a String)> {
    columns.load.iter().filter_map(|(index, column)| {
        Some((&column.name, dataset.fields().get(*index)?.metadata().get(DESCRIPTION_KEY)?))
    })
}

/// Everything that is attached before the swap, besides indexes and foreign keys: constraints, settings, comments, owner, privileges,
/// row-level security. `ANALYZE` comes after it, because it fills what the settings ask for. `descriptions` come after
/// the comments that are carried over.
pub(super) fn dress(staging: &TableName, attributes: &Attributes, descriptions: Vec<String>) -> Vec<String> {
    let table = quote_table(staging);
    let mut sql = constraints(staging, attributes);
    let mut owners = Vec::new();
    for column in &attributes.columns {
        let name = quote_ident(&column.name);
        if let Some(target) = column.statistics_target {
            sql.push(format!("ALTER TABLE {table} ALTER COLUMN {name} SET STATISTICS {target}"));
        }
        for (option, value) in column.options.iter().filter_map(|option| option.split_once('=')) {
            let (option, value) = (quote_ident(option), quote_literal(value));
            sql.push(format!("ALTER TABLE {table} ALTER COLUMN {name} SET ({option} = {value})"));
        }
        if let Some(comment) = &column.comment {
            sql.push(format!("COMMENT ON COLUMN {table}.{name} IS {}", quote_literal(comment)));
        }
    }
    sql.extend(descriptions);
    let kind = if attributes.kind == 'm' { "MATERIALIZED VIEW" } else { "TABLE" };
    sql.extend(comment(attributes).map(|comment| format!("COMMENT ON {kind} {table} IS {comment}")));
    for index in &attributes.indexes {
        let name = quote_table(&TableName::new(staging.schema(), index.name.as_str()));
        for (column, target) in &index.statistics_targets {
            sql.push(format!("ALTER INDEX {name} ALTER COLUMN {column} SET STATISTICS {target}"));
        }
        if let Some(comment) = &index.comment {
            sql.push(format!("COMMENT ON INDEX {name} IS {}", quote_literal(comment)));
        }
        if index.clustered {
            sql.push(format!("ALTER TABLE {table} CLUSTER ON {}", quote_ident(&index.name)));
        }
    }
    sql.extend(replica_identity(staging, attributes));
    for statistics in &attributes.statistics {
        let name = quote_table(&TableName::new(staging.schema(), statistics.name.as_str()));
        sql.extend(statistics.definition_on(staging));
        sql.extend(statistics.target.map(|target| format!("ALTER STATISTICS {name} SET STATISTICS {target}")));
        if let Some(comment) = &statistics.comment {
            sql.push(format!("COMMENT ON STATISTICS {name} IS {}", quote_literal(comment)));
        }
        owners.push(format!("ALTER STATISTICS {name} OWNER TO {}", quote_ident(&statistics.owner)));
    }
    let (schema, owner) = (quote_ident(staging.schema()), quote_ident(&attributes.owner));
    let all_owners = attributes.statistics.iter().map(|statistics| &statistics.owner).chain([&attributes.owner]);
    sql.extend(all_owners.map(|owner| format!("GRANT USAGE, CREATE ON SCHEMA {schema} TO {}", quote_ident(owner))));
    sql.append(&mut owners);
    sql.push(format!("ALTER TABLE {table} OWNER TO {owner}"));
    sql.extend(attributes.sequences.iter().filter(|sequence| sequence.identity).flat_map(|sequence| {
        let name = TableName::new(staging.schema(), sequence.name.as_str());
        dress_sequence(&name, sequence, &attributes.owner)
    }));
    sql.extend(privileges(staging, attributes));
    if attributes.row_security {
        sql.push(format!("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"));
    }
    sql
}

/// Gives an identity sequence the privileges and the comment of another.
pub(super) fn dress_sequence(name: &TableName, sequence: &OwnedSequence, owner: &str) -> Vec<String> {
    let name = quote_table(name);
    let comment = sequence.comment.as_deref().map_or_else(|| "NULL".to_owned(), quote_literal);
    let mut sql = vec![revoke_all_but_owner("SEQUENCE", "s", &name)];
    sql.extend(grants("SEQUENCE", &name, &sequence.privileges, owner));
    sql.push(format!("COMMENT ON SEQUENCE {name} IS {comment}"));
    sql
}

fn comment(attributes: &Attributes) -> Option<String> {
    attributes.comment.as_deref().map(quote_literal)
}

fn constraints(staging: &TableName, attributes: &Attributes) -> Vec<String> {
    let table = quote_table(staging);
    let mut sql = Vec::new();
    for constraint in &attributes.constraints {
        let name = quote_ident(&constraint.name);
        let keyword = match constraint.kind {
            'p' => "PRIMARY KEY",
            'u' => "UNIQUE",
            'c' | 'x' | 'n' => "",
            _ => continue,
        };
        if constraint.kind == 'n' {
            // The column came with it.
        } else if let (Some(index), false) = (&constraint.index, keyword.is_empty()) {
            let deferral = match (constraint.deferrable, constraint.deferred) {
                (true, true) => " DEFERRABLE INITIALLY DEFERRED",
                (true, false) => " DEFERRABLE",
                _ => "",
            };
            let index = quote_ident(index);
            sql.push(format!("ALTER TABLE {table} ADD CONSTRAINT {name} {keyword} USING INDEX {index}{deferral}"));
        } else {
            sql.push(format!("ALTER TABLE {table} ADD CONSTRAINT {name} {}", constraint.definition));
        }
        if let Some(comment) = &constraint.comment {
            sql.push(format!("COMMENT ON CONSTRAINT {name} ON {table} IS {}", quote_literal(comment)));
        }
    }
    sql
}

fn replica_identity(staging: &TableName, attributes: &Attributes) -> Option<String> {
    let identity = match attributes.replica_identity {
        'f' => "FULL".to_owned(),
        'n' => "NOTHING".to_owned(),
        'i' => {
            let index = attributes.indexes.iter().find(|index| index.replica_identity)?;
            format!("USING INDEX {}", quote_ident(&index.name))
        }
        _ => return None,
    };
    Some(format!("ALTER TABLE {} REPLICA IDENTITY {identity}", quote_table(staging)))
}

/// The live table's privileges and no others: what default privileges gave is taken away first.
pub(super) fn privileges(table: &TableName, attributes: &Attributes) -> Vec<String> {
    let name = quote_table(table);
    let mut sql = vec![revoke_all_but_owner("TABLE", "r", &name)];
    sql.extend(grants("TABLE", &name, &attributes.privileges, &attributes.owner));
    for column in &attributes.columns {
        for privilege in &column.privileges {
            sql.push(format!(
                "GRANT {} ({}) ON TABLE {name} TO {}{}",
                privilege.right,
                quote_ident(&column.name),
                role(privilege.grantee.as_deref()),
                grant_option(privilege),
            ));
        }
    }
    sql
}

/// Takes a table's or sequence's privileges from everybody but its owner, column privileges included.
pub(super) fn revoke_all_but_owner(kind: &str, default: &str, name: &str) -> String {
    let body = format!(
        "DECLARE grantee text; \
         BEGIN \
           FOR grantee IN \
             SELECT DISTINCT CASE e.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(e.grantee)) END \
             FROM pg_catalog.pg_class c, LATERAL ( \
               SELECT e.grantee FROM pg_catalog.aclexplode(coalesce(c.relacl, pg_catalog.acldefault('{default}', c.relowner))) e \
               UNION ALL \
               SELECT e.grantee FROM pg_catalog.pg_attribute a, LATERAL pg_catalog.aclexplode(a.attacl) e \
               WHERE a.attrelid = c.oid AND NOT a.attisdropped) e \
             WHERE c.oid = {oid}::pg_catalog.regclass AND e.grantee <> c.relowner \
           LOOP \
             EXECUTE pg_catalog.format('REVOKE ALL ON {kind} %s FROM %s CASCADE', {name}, grantee); \
           END LOOP; \
         END",
        oid = quote_literal(name),
        name = quote_literal(name),
    );
    format!("DO {}", quote_literal(&body))
}

pub(super) fn grants(kind: &str, name: &str, privileges: &[Privilege], owner: &str) -> Vec<String> {
    let mut sql = Vec::new();
    let owners = privileges.iter().filter(|privilege| privilege.grantee.as_deref() == Some(owner));
    // An owner has everything until something is taken away, so only a difference from that is spelt out.
    let owners: Vec<&str> = owners.map(|privilege| privilege.right.as_str()).collect();
    sql.push(format!("REVOKE ALL ON {kind} {name} FROM {}", quote_ident(owner)));
    if !owners.is_empty() {
        sql.push(format!("GRANT {} ON {kind} {name} TO {}", owners.join(", "), quote_ident(owner)));
    }
    for privilege in privileges.iter().filter(|privilege| privilege.grantee.as_deref() != Some(owner)) {
        let (grantee, option) = (role(privilege.grantee.as_deref()), grant_option(privilege));
        sql.push(format!("GRANT {} ON {kind} {name} TO {grantee}{option}", privilege.right));
    }
    sql
}

/// Takes a function's privileges from everybody but its owner.
pub(super) fn revoke_routine_from_all_but_owner(signature: &str) -> String {
    let body = format!(
        "DECLARE grantee text; \
         BEGIN \
           FOR grantee IN \
             SELECT DISTINCT CASE e.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(e.grantee)) END \
             FROM pg_catalog.pg_proc p, LATERAL pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) e \
             WHERE p.oid = {name}::pg_catalog.regprocedure AND e.grantee <> p.proowner \
           LOOP \
             EXECUTE pg_catalog.format('REVOKE ALL ON ROUTINE %s FROM %s CASCADE', {name}, grantee); \
           END LOOP; \
         END",
        name = quote_literal(signature),
    );
    format!("DO {}", quote_literal(&body))
}

fn role(grantee: Option<&str>) -> String {
    grantee.map_or_else(|| "PUBLIC".to_owned(), quote_ident)
}

fn grant_option(privilege: &Privilege) -> &'static str {
    if privilege.grantable { " WITH GRANT OPTION" } else { "" }
}

/// Creates a trigger anew on the table that now carries the live name.
pub(super) fn trigger(table: &TableName, trigger: &Trigger) -> Vec<String> {
    let (name, table) = (quote_ident(&trigger.name), quote_table(table));
    let state = match trigger.enabled {
        'D' => Some("DISABLE"),
        'R' => Some("ENABLE REPLICA"),
        'A' => Some("ENABLE ALWAYS"),
        _ => None,
    };
    let state = state.map(|state| format!("ALTER TABLE {table} {state} TRIGGER {name}"));
    let comment = trigger.comment.as_deref().map(quote_literal);
    let comment = comment.map(|comment| format!("COMMENT ON TRIGGER {name} ON {table} IS {comment}"));
    std::iter::once(trigger.definition.clone()).chain(state).chain(comment).collect()
}

/// Publishes the table that now carries the live name in place of the backup.
pub(super) fn publication(table: &TableName, backup: &TableName, publication: &Publication) -> Vec<String> {
    let name = quote_ident(&publication.name);
    let columns = publication.columns.as_ref().map(|columns| format!(" ({columns})")).unwrap_or_default();
    let filter = publication.filter.as_ref().map(|filter| format!(" WHERE ({filter})")).unwrap_or_default();
    vec![
        format!("ALTER PUBLICATION {name} DROP TABLE {}", quote_table(backup)),
        format!("ALTER PUBLICATION {name} ADD TABLE {}{columns}{filter}", quote_table(table)),
    ]
}

/// Creates a policy anew on the table that now carries the live name.
pub(super) fn policy(table: &TableName, policy: &Policy) -> Vec<String> {
    let (name, table) = (quote_ident(&policy.name), quote_table(table));
    let kind = if policy.permissive { "PERMISSIVE" } else { "RESTRICTIVE" };
    let command = match policy.command {
        'r' => "SELECT",
        'a' => "INSERT",
        'w' => "UPDATE",
        'd' => "DELETE",
        _ => "ALL",
    };
    let roles: Vec<String> = policy.roles.iter().map(|grantee| role(grantee.as_deref())).collect();
    let expression = |keyword: &str, expression: &Option<String>| {
        expression.as_ref().map(|expression| format!(" {keyword} ({expression})")).unwrap_or_default()
    };
    let create = format!(
        "CREATE POLICY {name} ON {table} AS {kind} FOR {command} TO {}{}{}",
        roles.join(", "),
        expression("USING", &policy.using),
        expression("WITH CHECK", &policy.check)
    );
    let comment = policy.comment.as_deref().map(quote_literal);
    let comment = comment.map(|comment| format!("COMMENT ON POLICY {name} ON {table} IS {comment}"));
    std::iter::once(create).chain(comment).collect()
}
