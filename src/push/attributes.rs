//! Everything attached to a table that a push carries over, read from the catalogues in one query.
//!
//! All expressions and definitions are deparsed with only `pg_catalog` in the search path, so every other name in them
//! is qualified and means the same wherever it is run.

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use crate::pg::{TypeCatalog, quote_ident, quote_literal, quote_table};
use crate::schema::{ColumnSchema, PgType, TableName};

use super::dependents::{self, Dependents, bound_sql};
use super::error::PushError;

/// A table and what is attached to it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Attributes {
    pub(super) oid: u32,
    pub(super) kind: char,
    pub(super) persistence: char,
    pub(super) owner: String,
    /// Whether our role may act as the owner.
    pub(super) owner_is_ours: bool,
    pub(super) access_method: Option<String>,
    pub(super) tablespace: Option<String>,
    pub(super) row_security: bool,
    pub(super) force_row_security: bool,
    pub(super) replica_identity: char,
    pub(super) options: Vec<String>,
    pub(super) toast_options: Vec<String>,
    pub(super) comment: Option<String>,
    pub(super) rows_estimated: Option<f64>,
    pub(super) bytes: u64,
    pub(super) privileges: Vec<Privilege>,
    pub(super) columns: Vec<ColumnAttributes>,
    pub(super) constraints: Vec<Constraint>,
    pub(super) indexes: Vec<Index>,
    pub(super) policies: Vec<Policy>,
    pub(super) triggers: Vec<Trigger>,
    pub(super) statistics: Vec<Statistics>,
    pub(super) publications: Vec<Publication>,
    pub(super) sequences: Vec<OwnedSequence>,
    /// What is bound to the table by identity; asked for after the rest.
    #[serde(skip_deserializing, default)]
    pub(super) dependents: Dependents,
}

/// One entry of an access control list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Privilege {
    /// `None` for everybody.
    pub(super) grantee: Option<String>,
    pub(super) right: String,
    pub(super) grantable: bool,
    pub(super) grantor: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ColumnAttributes {
    pub(super) name: String,
    pub(super) type_name: String,
    pub(super) type_oid: u32,
    pub(super) typmod: i32,
    /// What oid and modifier stand for; asked for after the rest.
    #[serde(skip, default = "unknown_type")]
    pub(super) pg_type: PgType,
    pub(super) not_null: bool,
    /// The default, or a generated column's expression.
    pub(super) default: Option<String>,
    /// Filled from other columns by the server, never by a load.
    pub(super) generated: bool,
    pub(super) identity: bool,
    /// Collation, storage, compression, kind of identity: what only decides whether two columns are the same.
    pub(super) physical: String,
    /// `p`lain, `e`xternal, `m`ain, e`x`tended.
    pub(super) storage: char,
    /// `p`glz or `l`z4, where one is set.
    pub(super) compression: Option<String>,
    pub(super) statistics_target: Option<i32>,
    pub(super) options: Vec<String>,
    pub(super) comment: Option<String>,
    pub(super) privileges: Vec<Privilege>,
}

impl ColumnAttributes {
    /// The column as the encoder needs it.
    pub(super) fn schema(&self) -> ColumnSchema {
        ColumnSchema {
            name: self.name.clone(),
            type_name: self.type_name.clone(),
            type_oid: self.type_oid,
            typmod: self.typmod,
            pg_type: self.pg_type.clone(),
            // An identity or default does not help a null that is sent.
            not_null: self.not_null,
        }
    }

    /// What `ALTER COLUMN` has to set for a column made by a query to be kept as this one.
    pub(super) fn storage_settings(&self) -> Vec<String> {
        let storage = match self.storage {
            'p' => "PLAIN",
            'e' => "EXTERNAL",
            'm' => "MAIN",
            _ => "EXTENDED",
        };
        let compression = match self.compression.as_deref() {
            Some("p") => Some("pglz"),
            Some("l") => Some("lz4"),
            _ => None,
        };
        let storage = format!("SET STORAGE {storage}");
        std::iter::once(storage).chain(compression.map(|method| format!("SET COMPRESSION {method}"))).collect()
    }
}

fn unknown_type() -> PgType {
    PgType::ViaText
}

impl Attributes {
    /// Whether a staging table made like this table is also made like `other`: only what is attached after the load
    /// may differ.
    pub(super) fn is_made_like(&self, other: &Self) -> bool {
        let sequence = |sequence: &OwnedSequence| (sequence.table_name(), sequence.column.clone(), sequence.identity);
        self.oid == other.oid
            && self.has_columns_of(other)
            && self.sequences.iter().map(sequence).eq(other.sequences.iter().map(sequence))
    }

    /// Whether the columns are the same, one by one.
    pub(super) fn has_columns_of(&self, other: &Self) -> bool {
        let column = |column: &ColumnAttributes| {
            (
                column.name.clone(),
                column.type_name.clone(),
                (column.not_null, column.generated, column.identity),
                column.default.clone(),
                column.physical.clone(),
            )
        };
        self.columns.iter().map(column).eq(other.columns.iter().map(column))
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "flags of the catalogue, one by one")]
pub(super) struct Constraint {
    pub(super) name: String,
    /// `p`rimary, `u`nique, `c`heck, e`x`clusion or a key without overlaps, `f`oreign, `n`ot null, constraint `t`rigger.
    pub(super) kind: char,
    pub(super) definition: String,
    pub(super) index: Option<String>,
    pub(super) deferrable: bool,
    pub(super) deferred: bool,
    pub(super) validated: bool,
    pub(super) enforced: bool,
    pub(super) comment: Option<String>,
    /// Of a foreign key.
    pub(super) reference: Option<Reference>,
}

/// What a foreign key refers to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Reference {
    /// Whether that is the table itself.
    pub(super) itself: bool,
    /// What the definition must begin with for the table it refers to to be replaceable.
    pub(super) head: String,
    /// Whether our role may refer to that table.
    pub(super) is_allowed: bool,
    pub(super) columns: Vec<String>,
    /// Whether it is checked at every change.
    pub(super) enabled: bool,
}

impl Constraint {
    /// The definition of the same foreign key of another table: one to itself refers to that other table.
    pub(super) fn reference_from(&self, table: &TableName) -> Option<String> {
        let reference = self.reference.as_ref()?;
        if !reference.itself {
            return Some(self.definition.clone());
        }
        let tail = self.definition.strip_prefix(&reference.head)?;
        let columns: Vec<String> = reference.columns.iter().map(|column| quote_ident(column)).collect();
        Some(format!("FOREIGN KEY ({}) REFERENCES {}{tail}", columns.join(", "), quote_table(table)))
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "flags of the catalogue, one by one")]
pub(super) struct Index {
    pub(super) name: String,
    pub(super) definition: String,
    /// What the definition must begin with for its table to be replaceable.
    pub(super) head: String,
    pub(super) unique: bool,
    pub(super) valid: bool,
    pub(super) clustered: bool,
    pub(super) replica_identity: bool,
    pub(super) tablespace: Option<String>,
    pub(super) comment: Option<String>,
    pub(super) bytes: u64,
    /// Statistics targets of expression columns: position and target.
    pub(super) statistics_targets: Vec<(i32, i32)>,
}

impl Index {
    /// The same index over another table, under the same name.
    pub(super) fn definition_on(&self, table: &TableName) -> Option<String> {
        let tail = self.definition.strip_prefix(&self.head)?;
        let unique = if self.unique { "UNIQUE " } else { "" };
        Some(format!("CREATE {unique}INDEX {} ON {} {tail}", quote_ident(&self.name), quote_table(table)))
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Policy {
    pub(super) name: String,
    pub(super) permissive: bool,
    pub(super) command: char,
    /// `None` for everybody.
    pub(super) roles: Vec<Option<String>>,
    pub(super) using: Option<String>,
    pub(super) check: Option<String>,
    pub(super) comment: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Trigger {
    pub(super) name: String,
    /// The statement that creates it; it names the table, and so means whichever table has the name.
    pub(super) definition: String,
    /// `O`rigin, `D`isabled, `R`eplica, `A`lways.
    pub(super) enabled: char,
    pub(super) comment: Option<String>,
}

/// Extended statistics.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Statistics {
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) definition: String,
    /// What the definition must begin and end with for its table to be replaceable.
    pub(super) head: String,
    pub(super) tail: String,
    pub(super) owner: String,
    pub(super) target: Option<i32>,
    pub(super) comment: Option<String>,
}

impl Statistics {
    /// The kinds and columns, without name and table.
    fn middle(&self) -> Option<&str> {
        self.definition.strip_prefix(&self.head)?.strip_suffix(&self.tail)
    }

    /// Whether the same statistics can be made for another table.
    pub(super) fn is_replaceable(&self) -> bool {
        self.middle().is_some()
    }

    /// The same statistics for another table, under the same name in that table's schema.
    pub(super) fn definition_on(&self, table: &TableName) -> Option<String> {
        let name = quote_table(&TableName::new(table.schema(), self.name.as_str()));
        Some(format!("CREATE STATISTICS {name}{} FROM {}", self.middle()?, quote_table(table)))
    }
}

/// A publication that names the table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Publication {
    pub(super) name: String,
    pub(super) owner_is_ours: bool,
    /// The columns it is limited to, quoted.
    pub(super) columns: Option<String>,
    /// The rows it is limited to.
    pub(super) filter: Option<String>,
}

/// A sequence that belongs to a column.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct OwnedSequence {
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) column: String,
    /// `smallint`, `integer` or `bigint`.
    pub(super) type_name: String,
    /// Of an identity column; otherwise of a `serial` one.
    pub(super) identity: bool,
    pub(super) ascending: bool,
    pub(super) comment: Option<String>,
    pub(super) privileges: Vec<Privilege>,
}

impl OwnedSequence {
    pub(super) fn table_name(&self) -> TableName {
        TableName::new(self.schema.as_str(), self.name.as_str())
    }
}

/// What the names of column options begin with that the server itself keeps; recent minor versions do, and ignore
/// whoever sets one.
const SERVER_OPTIONS: &str = "pg_";

/// SQL that tells whether constraint `k` is a key `WITHOUT OVERLAPS`, of PostgreSQL 18 and later. Its index is that of an
/// exclusion constraint, and neither can be built apart from the constraint.
const TEMPORAL_KEY: &str = "k.contype IN ('p', 'u') AND (to_jsonb(k) ->> 'conperiod')::bool";

/// SQL that lists an access control list's entries as JSON.
pub(super) fn privileges_sql(acl: &str, order: &str) -> String {
    format!(
        "(SELECT coalesce(json_agg(json_build_object( \
            'grantee', CASE WHEN e.grantee <> 0 THEN pg_get_userbyid(e.grantee) END, 'right', e.privilege_type, \
            'grantable', e.is_grantable, 'grantor', pg_get_userbyid(e.grantor)) ORDER BY {order}), '[]') \
          FROM aclexplode({acl}) e)"
    )
}

/// Reads a table, everything attached to it and what is bound to it; `None` when there is no such relation.
pub(super) async fn read(client: &Client, table: &TableName) -> Result<Option<Attributes>, PushError> {
    let Some(mut attributes) = read_relation(client, table).await? else { return Ok(None) };
    if attributes.kind == 'r' {
        attributes.dependents = dependents::read(client, table, attributes.oid).await?;
    }
    Ok(Some(attributes))
}

/// Reads a table or materialized view and everything attached to it, without what is bound to it.
pub(super) async fn read_relation(client: &Client, table: &TableName) -> Result<Option<Attributes>, PushError> {
    let order = "e.grantee, e.privilege_type";
    let table_privileges = privileges_sql("coalesce(c.relacl, acldefault('r', c.relowner))", order);
    let column_privileges = privileges_sql("a.attacl", order);
    let sequence_privileges = privileges_sql("coalesce(s.relacl, acldefault('s', s.relowner))", order);
    let sql = format!(
        "SELECT json_build_object( \
           'oid', c.oid::bigint, 'kind', c.relkind, 'persistence', c.relpersistence, \
           'owner', pg_get_userbyid(c.relowner), 'owner_is_ours', pg_has_role(c.relowner, 'USAGE'), \
           'access_method', (SELECT amname FROM pg_am WHERE oid = c.relam), \
           'tablespace', (SELECT spcname FROM pg_tablespace WHERE oid = c.reltablespace), \
           'row_security', c.relrowsecurity, 'force_row_security', c.relforcerowsecurity, \
           'replica_identity', c.relreplident, 'options', coalesce(to_json(c.reloptions), '[]'), \
           'toast_options', coalesce((SELECT to_json(t.reloptions) FROM pg_class t WHERE t.oid = c.reltoastrelid), '[]'), \
           'comment', obj_description(c.oid, 'pg_class'), \
           'rows_estimated', nullif(greatest(c.reltuples, -1), -1), \
           'bytes', CASE WHEN c.relkind IN ('r', 'm') THEN pg_total_relation_size(c.oid) ELSE 0 END, \
           'privileges', {table_privileges}, \
           'columns', (SELECT coalesce(json_agg(json_build_object( \
                'name', a.attname, 'type_name', format_type(a.atttypid, a.atttypmod), \
                'type_oid', b.type::bigint, 'typmod', b.typmod, 'not_null', a.attnotnull, 'default', (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d WHERE d.adrelid = c.oid AND d.adnum = a.attnum), \
                'generated', a.attgenerated <> '', 'identity', a.attidentity <> '', \
                'physical', concat_ws(' ', a.attcollation, a.attstorage, to_jsonb(a) ->> 'attcompression', a.attidentity, a.attgenerated), \
                'storage', a.attstorage, 'compression', nullif(to_jsonb(a) ->> 'attcompression', ''), \
                'statistics_target', nullif(a.attstattarget, -1), \
                'options', (SELECT coalesce(json_agg(o), '[]') FROM unnest(a.attoptions) o WHERE NOT starts_with(o, '{SERVER_OPTIONS}')), 'comment', col_description(c.oid, a.attnum), \
                'privileges', {column_privileges}) ORDER BY a.attnum), '[]') \
              FROM pg_attribute a, LATERAL ( \
                WITH RECURSIVE base(type, typmod) AS (SELECT a.atttypid, a.atttypmod UNION ALL \
                  SELECT t.typbasetype, CASE WHEN t.typtypmod >= 0 THEN t.typtypmod ELSE base.typmod END \
                  FROM base JOIN pg_type t ON t.oid = base.type WHERE t.typtype = 'd') \
                SELECT base.type, base.typmod FROM base JOIN pg_type t ON t.oid = base.type WHERE t.typtype <> 'd') b \
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), \
           'constraints', (SELECT coalesce(json_agg(json_build_object( \
                'name', k.conname, 'kind', CASE WHEN {TEMPORAL_KEY} THEN 'x' ELSE k.contype END, 'definition', pg_get_constraintdef(k.oid), \
                'index', (SELECT i.relname FROM pg_class i WHERE i.oid = k.conindid AND k.contype IN ('p', 'u', 'x')), \
                'deferrable', k.condeferrable, 'deferred', k.condeferred, 'validated', k.convalidated, \
                'enforced', coalesce((to_jsonb(k) ->> 'conenforced')::bool, true), \
                'comment', obj_description(k.oid, 'pg_constraint'), \
                'reference', (SELECT json_build_object('itself', k.confrelid = c.oid, \
                     'head', format('FOREIGN KEY (%s) REFERENCES %I.%I', string_agg(quote_ident(a.attname), ', ' ORDER BY u.place), \
                         t.relnamespace::regnamespace::name, t.relname), \
                     'is_allowed', has_table_privilege(t.oid, 'REFERENCES') \
                         OR bool_and(has_column_privilege(t.oid, u.parent, 'REFERENCES')), \
                     'columns', json_agg(a.attname ORDER BY u.place), \
                     'enabled', NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgconstraint = k.oid AND g.tgenabled <> 'O')) \
                   FROM unnest(k.conkey, k.confkey) WITH ORDINALITY u(child, parent, place) \
                   JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = u.child JOIN pg_class t ON t.oid = k.confrelid \
                   WHERE k.contype = 'f' GROUP BY t.oid, t.relname, t.relnamespace)) ORDER BY k.oid), '[]') \
              FROM pg_constraint k WHERE k.conrelid = c.oid AND k.conparentid = 0), \
           'indexes', (SELECT coalesce(json_agg(json_build_object( \
                'name', i.relname, 'definition', pg_get_indexdef(i.oid), \
                'head', 'CREATE ' || CASE WHEN x.indisunique THEN 'UNIQUE ' ELSE '' END || 'INDEX ' || quote_ident(i.relname) \
                     || ' ON ' || quote_ident(n.nspname) || '.' || quote_ident(c.relname) || ' ', \
                'unique', x.indisunique, 'valid', x.indisvalid AND x.indisready, 'clustered', x.indisclustered, \
                'replica_identity', x.indisreplident, \
                'tablespace', (SELECT spcname FROM pg_tablespace WHERE oid = i.reltablespace), \
                'comment', obj_description(i.oid, 'pg_class'), 'bytes', pg_relation_size(i.oid), \
                'statistics_targets', (SELECT coalesce(json_agg(json_build_array(a.attnum, a.attstattarget) ORDER BY a.attnum), '[]') \
                     FROM pg_attribute a WHERE a.attrelid = i.oid AND a.attstattarget >= 0)) ORDER BY i.relname), '[]') \
              FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid WHERE x.indrelid = c.oid), \
           'policies', (SELECT coalesce(json_agg(json_build_object( \
                'name', p.polname, 'permissive', p.polpermissive, 'command', p.polcmd, \
                'roles', (SELECT json_agg(CASE WHEN r <> 0 THEN pg_get_userbyid(r) END) FROM unnest(p.polroles) r), \
                'using', pg_get_expr(p.polqual, p.polrelid), 'check', pg_get_expr(p.polwithcheck, p.polrelid), \
                'comment', obj_description(p.oid, 'pg_policy')) ORDER BY p.polname), '[]') \
              FROM pg_policy p WHERE p.polrelid = c.oid), \
           'triggers', (SELECT coalesce(json_agg(json_build_object( \
                'name', t.tgname, 'definition', pg_get_triggerdef(t.oid), 'enabled', t.tgenabled, \
                'comment', obj_description(t.oid, 'pg_trigger')) ORDER BY t.tgname), '[]') \
              FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal), \
           'statistics', (SELECT coalesce(json_agg(json_build_object( \
                'schema', en.nspname, 'name', e.stxname, 'definition', pg_get_statisticsobjdef(e.oid), \
                'head', 'CREATE STATISTICS ' || quote_ident(en.nspname) || '.' || quote_ident(e.stxname), \
                'tail', ' FROM ' || quote_ident(n.nspname) || '.' || quote_ident(c.relname), \
                'owner', pg_get_userbyid(e.stxowner), 'target', nullif((to_jsonb(e) ->> 'stxstattarget')::int, -1), \
                'comment', obj_description(e.oid, 'pg_statistic_ext')) ORDER BY e.stxname), '[]') \
              FROM pg_statistic_ext e JOIN pg_namespace en ON en.oid = e.stxnamespace WHERE e.stxrelid = c.oid), \
           'publications', (SELECT coalesce(json_agg(json_build_object( \
                'name', p.pubname, 'owner_is_ours', pg_has_role(p.pubowner, 'USAGE'), \
                'columns', (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_attribute a \
                     WHERE a.attrelid = c.oid AND to_jsonb(r) -> 'prattrs' @> to_jsonb(a.attnum)), \
                'filter', (SELECT to_jsonb(f) ->> 'rowfilter' FROM pg_publication_tables f WHERE f.pubname = p.pubname \
                     AND f.schemaname = n.nspname AND f.tablename = c.relname)) ORDER BY p.pubname), '[]') \
              FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE r.prrelid = c.oid), \
           'sequences', (SELECT coalesce(json_agg(json_build_object( \
                'schema', sn.nspname, 'name', s.relname, 'column', a.attname, 'type_name', format_type(q.seqtypid, NULL), \
                'identity', d.deptype = 'i', 'ascending', q.seqincrement > 0, \
                'comment', obj_description(s.oid, 'pg_class'), 'privileges', {sequence_privileges}) ORDER BY a.attnum), '[]') \
              FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' \
              JOIN pg_namespace sn ON sn.oid = s.relnamespace JOIN pg_sequence q ON q.seqrelid = s.oid \
              JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid \
              WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid \
                AND d.deptype IN ('a', 'i')))::text \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = $1 AND c.relname = $2"
    );
    let failed = |source| PushError::at("read the catalogue", table, source);
    let row = client.query_opt(&sql, &[&table.schema(), &table.name()]).await.map_err(failed)?;
    let Some(row) = row else { return Ok(None) };
    let text: String = row.get(0);
    let mut attributes: Attributes =
        serde_json::from_str(&text).map_err(|source| PushError::Catalogue { table: table.clone(), source })?;
    let oids: Vec<u32> = attributes.columns.iter().map(|column| column.type_oid).collect();
    let types = TypeCatalog::load(client, &oids).await.map_err(failed)?;
    for column in &mut attributes.columns {
        // Postgres does not enforce how many dimensions an array is declared with.
        column.pg_type = types.resolve(column.type_oid, column.typmod, 1).pg_type;
    }
    Ok(Some(attributes))
}

/// SQL for a hash that changes with every DDL, GRANT and COMMENT on a table and on what is attached or bound to it, and
/// not with writes, vacuum, analyze or a refresh: the transactions that last wrote their catalogue rows.
pub(super) fn fingerprint_sql(oid: u32) -> String {
    let of = |class: &str, condition: &str| {
        format!(
            "SELECT {}::text || '/' || oid::text || ':' || xmin::text AS fact FROM pg_catalog.{class} WHERE {condition}",
            quote_literal(class)
        )
    };
    let bound = |class: &str| format!("(SELECT objid FROM bound WHERE classid = 'pg_catalog.{class}'::regclass)");
    // A refresh rewrites the `pg_class` rows of a materialized view and its indexes, so only what it keeps counts.
    let kept = |condition: &str| {
        format!(
            "SELECT 'kept/' || pg_catalog.concat_ws('/', oid, relname, relnamespace, relowner, relacl, reloptions) \
             FROM pg_catalog.pg_class WHERE {condition}"
        )
    };
    let family = "(SELECT oid FROM relations UNION ALL \
          SELECT x.indexrelid FROM pg_catalog.pg_index x JOIN relations r ON r.oid = x.indrelid UNION ALL \
          SELECT d.objid FROM pg_catalog.pg_depend d JOIN relations r ON r.oid = d.refobjid \
            WHERE d.refclassid = 'pg_catalog.pg_class'::regclass AND d.classid = 'pg_catalog.pg_class'::regclass \
              AND d.deptype IN ('a', 'i'))";
    let own = format!(
        "(SELECT {oid}::oid UNION ALL SELECT indexrelid FROM pg_catalog.pg_index WHERE indrelid = {oid} \
          UNION ALL SELECT objid FROM pg_catalog.pg_depend WHERE refclassid = 'pg_catalog.pg_class'::regclass \
            AND refobjid = {oid} AND classid = 'pg_catalog.pg_class'::regclass AND deptype IN ('a', 'i'))"
    );
    let rules = bound("pg_rewrite");
    let owners = format!("(SELECT ev_class FROM pg_catalog.pg_rewrite WHERE oid IN {rules})");
    let constraints =
        "(SELECT k.oid FROM pg_catalog.pg_constraint k JOIN relations r ON r.oid IN (k.conrelid, k.confrelid))";
    let (policies, functions) = (bound("pg_policy"), bound("pg_proc"));
    let statistics = bound("pg_statistic_ext");
    let triggers = "(SELECT t.oid FROM pg_catalog.pg_trigger t JOIN relations r ON r.oid = t.tgrelid)";
    let others = format!(
        "oid IN (SELECT conrelid FROM pg_catalog.pg_constraint WHERE oid IN {constraints}) \
         OR oid IN (SELECT polrelid FROM pg_catalog.pg_policy WHERE oid IN {policies}) OR oid IN {owners}"
    );
    let facts = [
        of("pg_class", &format!("oid IN {own} OR relkind = 'v' AND oid IN {owners}")),
        kept(&format!("oid IN {family} OR {others}")),
        format!(
            "SELECT 'pg_attribute/' || attrelid::text || '.' || attnum::text || ':' || xmin::text FROM pg_catalog.pg_attribute WHERE attrelid IN {family}"
        ),
        of("pg_attrdef", &format!("adrelid = {oid}")),
        of("pg_constraint", &format!("oid IN {constraints}")),
        of("pg_trigger", &format!("oid IN {triggers} OR tgconstraint IN {constraints}")),
        of("pg_policy", &format!("oid IN {policies}")),
        of("pg_rewrite", &format!("oid IN {rules} OR ev_class = {oid}")),
        of("pg_statistic_ext", &format!("oid IN {statistics}")),
        of("pg_proc", &format!("oid IN {functions}")),
        of("pg_publication_rel", &format!("prrelid = {oid}")),
        format!(
            "SELECT 'pg_sequence/' || seqrelid::text || ':' || xmin::text FROM pg_catalog.pg_sequence WHERE seqrelid IN {own}"
        ),
        format!(
            "SELECT 'pg_inherits/' || inhrelid::text || ':' || xmin::text FROM pg_catalog.pg_inherits WHERE inhparent = {oid} OR inhrelid = {oid}"
        ),
        format!(
            "SELECT 'pg_description/' || objoid::text || '.' || objsubid::text || ':' || xmin::text FROM pg_catalog.pg_description \
             WHERE objoid IN {family} OR objoid IN {constraints} OR objoid IN {triggers} OR objoid IN {policies} \
               OR objoid IN {rules} OR objoid IN {statistics} OR objoid IN {functions} OR objoid IN {owners}"
        ),
        "SELECT 'pg_depend/' || d.classid::text || '.' || d.objid::text || ':' || d.xmin::text FROM relations r \
           JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = r.oid \
           WHERE d.deptype <> 'i'"
            .to_owned(),
        "SELECT 'pg_depend/' || d.classid::text || '.' || d.objid::text || ':' || d.xmin::text FROM types t \
           JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_type'::regclass AND d.refobjid = t.oid"
            .to_owned(),
    ];
    format!(
        "{} SELECT pg_catalog.md5(pg_catalog.string_agg(fact, ',' ORDER BY fact COLLATE \"C\")) FROM ({}) facts",
        bound_sql(&oid.to_string()),
        facts.join(" UNION ALL ")
    )
}
