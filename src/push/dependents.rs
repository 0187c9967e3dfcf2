//! What is bound to a table by identity and would stay with the backup: views, functions, rules and policies of other
//! relations, foreign keys of other tables, materialized views.
//!
//! A swap replaces the table, and with it each materialized view that reads it directly: those have no `CREATE OR
//! REPLACE`. So everything is looked for at all replaced relations, not at the table alone.

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use crate::pg::{quote_ident, quote_literal, quote_table};
use crate::schema::TableName;

use super::attributes::{self, Attributes, Privilege, privileges_sql};
use super::error::PushError;

/// Everything that is bound to a table by identity.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Dependents {
    /// Views that read a replaced relation themselves, the inner ones before those that read them.
    pub(super) views: Vec<View>,
    /// Rules that name a replaced relation: the table's own and those of other relations.
    pub(super) rules: Vec<Rule>,
    /// Policies of other tables that read a replaced relation.
    pub(super) policies: Vec<BoundPolicy>,
    pub(super) functions: Vec<Function>,
    /// Foreign keys of other tables that refer to the table.
    pub(super) foreign_keys: Vec<ForeignKeyIn>,
    /// Materialized views that read a view above the table, and so are only as fresh as their last refresh.
    pub(super) stale: Vec<String>,
    /// Catalogue and oid of each of these, for telling what is not known.
    #[serde(skip_serializing)]
    pub(super) known: Vec<(String, u32)>,
    /// Materialized views that are replaced too, the inner ones before those that read them.
    #[serde(skip_deserializing, default)]
    pub(super) materialized_views: Vec<MaterializedView>,
    #[serde(skip_serializing)]
    materialized: Vec<Materialized>,
}

/// A relation that is not replaced.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Relation {
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) kind: char,
    pub(super) owner: String,
    /// Whether our role may act as the owner.
    pub(super) owner_is_ours: bool,
}

impl Relation {
    pub(super) fn table_name(&self) -> TableName {
        TableName::new(self.schema.as_str(), self.name.as_str())
    }

    /// A statement that locks this relation alone and changes nothing; `LOCK TABLE` would lock what is beneath a view
    /// too, and refuses materialized views.
    pub(super) fn lock(&self) -> String {
        let (name, owner) = (quote_table(&self.table_name()), quote_ident(&self.owner));
        match self.kind {
            'v' => format!("ALTER VIEW {name} OWNER TO {owner}"),
            'm' => format!("ALTER MATERIALIZED VIEW {name} OWNER TO {owner}"),
            _ => format!("LOCK TABLE ONLY {name} IN ACCESS EXCLUSIVE MODE"),
        }
    }
}

/// A view that reads a replaced relation itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct View {
    pub(super) relation: Relation,
    pub(super) options: Vec<String>,
    pub(super) definition: String,
    /// Whether a column of it has a replaced relation's row type, which the new one cannot have.
    pub(super) has_row_type: bool,
}

/// A rule that names a replaced relation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Rule {
    pub(super) object: String,
    /// What it is a rule of.
    pub(super) relation: Relation,
    pub(super) name: String,
    /// Whether it is a rule of the table itself.
    pub(super) own: bool,
    pub(super) definition: String,
    /// `O`rigin, `D`isabled, `R`eplica, `A`lways.
    pub(super) enabled: char,
    pub(super) comment: Option<String>,
}

/// A policy of another table that reads a replaced relation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct BoundPolicy {
    pub(super) object: String,
    pub(super) relation: Relation,
    pub(super) name: String,
    pub(super) using: Option<String>,
    pub(super) check: Option<String>,
}

/// A function whose body or signature names a replaced relation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Function {
    pub(super) object: String,
    /// Its name with the types of its arguments.
    pub(super) signature: String,
    pub(super) definition: Option<String>,
    /// Whether an argument or its result has a replaced relation's row type: then it is dropped and made anew.
    pub(super) has_row_type: bool,
    pub(super) owner: String,
    pub(super) owner_is_ours: bool,
    /// Whether our role may make a function in its language.
    pub(super) language_is_ours: bool,
    /// What depends on it.
    pub(super) dependents: Vec<String>,
    pub(super) comment: Option<String>,
    pub(super) privileges: Vec<Privilege>,
}

/// A foreign key of another table that refers to the table.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "flags of the catalogue, one by one")]
pub(super) struct ForeignKeyIn {
    pub(super) object: String,
    /// The table that has it.
    pub(super) relation: Relation,
    pub(super) name: String,
    pub(super) definition: String,
    pub(super) validated: bool,
    pub(super) enforced: bool,
    /// Whether it refers to periods.
    pub(super) period: bool,
    /// Whether it is checked at every change.
    pub(super) enabled: bool,
    /// Whether row-level security hides rows of that table from our role.
    pub(super) hides_rows: bool,
    /// Column of the child, operator, column of the table.
    pub(super) columns: Vec<(String, String, String)>,
    pub(super) comment: Option<String>,
}

/// A materialized view as the first query finds it.
#[derive(Debug, Clone, Deserialize)]
struct Materialized {
    schema: String,
    name: String,
    oid: u32,
    populated: bool,
    reads_views: bool,
    sees_all_rows: bool,
}

/// A materialized view that reads a replaced relation itself, and so is replaced too.
#[derive(Debug, Clone, Serialize)]
pub(super) struct MaterializedView {
    pub(super) relation: Relation,
    #[serde(skip)]
    pub(super) oid: u32,
    /// Its query, with the names of the table's schema unqualified.
    pub(super) definition: String,
    pub(super) populated: bool,
    /// Whether it also reads views above the table, which show the old rows while it is filled.
    pub(super) reads_views: bool,
    /// Whether row-level security hides no rows of the table from its owner.
    pub(super) sees_all_rows: bool,
    pub(super) attributes: Attributes,
}

impl MaterializedView {
    pub(super) fn name(&self) -> &str {
        &self.relation.name
    }
}

impl Dependents {
    /// The oids of all relations that are replaced along with the table `oid`.
    pub(super) fn replaced(&self, oid: u32) -> Vec<u32> {
        std::iter::once(oid).chain(self.materialized_views.iter().map(|view| view.oid)).collect()
    }

    /// Relations that the swap has to lock, in the order in which others reach the table through them: other tables,
    /// then views from the outside in.
    pub(super) fn locks(&self) -> Vec<&Relation> {
        let tables = self.foreign_keys.iter().map(|key| &key.relation);
        let policies = self.policies.iter().map(|policy| &policy.relation);
        let rules = self.rules.iter().filter(|rule| !rule.own).map(|rule| &rule.relation);
        let views = self.views.iter().rev().map(|view| &view.relation);
        let materialized = self.materialized_views.iter().rev().map(|view| &view.relation);
        let mut locks: Vec<&Relation> = Vec::new();
        for relation in tables.chain(policies).chain(rules).chain(views).chain(materialized) {
            if !locks.iter().any(|known| known.table_name() == relation.table_name()) {
                locks.push(relation);
            }
        }
        locks
    }

    /// One line per thing, with what happens to it.
    pub(super) fn lines(&self) -> Vec<String> {
        let views = self
            .views
            .iter()
            .map(|view| format!("view {}: bound to the new table by the swap", view.relation.table_name()));
        let materialized = self.materialized_views.iter().map(|view| {
            let name = view.relation.table_name();
            format!("materialized view {name}: made anew over the new table before the swap, and exchanged by it")
        });
        let rules = self.rules.iter().map(|rule| {
            let how = if rule.own { "made anew" } else { "bound to the new table" };
            format!("{}: {how} by the swap", rule.object)
        });
        let policies =
            self.policies.iter().map(|policy| format!("{}: bound to the new table by the swap", policy.object));
        let functions = self.functions.iter().map(|function| {
            let how = if function.has_row_type { "dropped and made anew" } else { "bound to the new table" };
            format!("{}: {how} by the swap", function.object)
        });
        let keys = self.foreign_keys.iter().map(|key| {
            let after = if key.validated && key.enforced { ", and validated after it" } else { "" };
            format!("{}: bound to the new table by the swap{after}", key.object)
        });
        views.chain(materialized).chain(rules).chain(policies).chain(functions).chain(keys).collect()
    }

    /// Things worth knowing before a push, one sentence each.
    pub(super) fn notes(&self) -> Vec<String> {
        let stale = self.stale.iter().map(|view| {
            format!("materialized view {view} reads the table through a view: refresh it to have the new rows in it")
        });
        let mixed = self.materialized_views.iter().filter(|view| view.reads_views).map(|view| {
            let name = view.relation.table_name();
            format!("materialized view {name} also reads views above the table: refresh it to have the new rows of those in it")
        });
        stale.chain(mixed).collect()
    }
}

/// SQL for a relation `alias` as [`Relation`] reads it.
fn relation_sql(alias: &str) -> String {
    format!(
        "json_build_object('schema', {alias}.relnamespace::regnamespace::name, 'name', {alias}.relname, \
         'kind', {alias}.relkind, 'owner', pg_get_userbyid({alias}.relowner), \
         'owner_is_ours', pg_has_role({alias}.relowner, 'USAGE'))"
    )
}

/// Common table expressions that find, from the table whose oid `table` is: `reach`, all relations that read it, with
/// their distance and whether they are replaced; `relations`, those that are replaced; `types`, their row types;
/// `bound`, catalogue and oid of what is bound to any of these. Also used in the guard of the swap.
pub(super) fn bound_sql(table: &str) -> String {
    format!(
        "WITH RECURSIVE reach(oid, depth, replaced) AS ( \
            SELECT {table}::oid, 0, true \
            UNION SELECT v.oid, r.depth + 1, r.replaced AND v.relkind = 'm' FROM reach r \
              JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = r.oid \
                AND d.classid = 'pg_catalog.pg_rewrite'::regclass \
              JOIN pg_catalog.pg_rewrite w ON w.oid = d.objid AND w.rulename = '_RETURN' \
              JOIN pg_catalog.pg_class v ON v.oid = w.ev_class AND v.relkind IN ('v', 'm') AND v.oid <> r.oid), \
         relations AS (SELECT oid, max(depth) AS depth FROM reach WHERE replaced GROUP BY oid), \
         types AS (SELECT unnest(ARRAY[t.oid, t.typarray]) AS oid FROM relations r JOIN pg_catalog.pg_type t ON t.typrelid = r.oid), \
         bound AS ( \
            SELECT d.classid, d.objid FROM relations r JOIN pg_catalog.pg_depend d \
              ON d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = r.oid \
            UNION SELECT d.classid, d.objid FROM types t JOIN pg_catalog.pg_depend d \
              ON d.refclassid = 'pg_catalog.pg_type'::regclass AND d.refobjid = t.oid)"
    )
}

fn dependents_sql() -> String {
    let (bound, relation) = (bound_sql("$1"), relation_sql("c"));
    let privileges = privileges_sql("coalesce(p.proacl, acldefault('f', p.proowner))", "e.grantee, e.privilege_type");
    format!(
        "{bound}, \
         views AS (SELECT v.oid, v.reloptions, w.oid AS rule, (SELECT max(r.depth) FROM reach r WHERE r.oid = v.oid) AS depth \
            FROM bound b JOIN pg_rewrite w ON b.classid = 'pg_rewrite'::regclass AND w.oid = b.objid AND w.rulename = '_RETURN' \
            JOIN pg_class v ON v.oid = w.ev_class AND v.relkind = 'v'), \
         rules AS (SELECT w.* FROM bound b JOIN pg_rewrite w ON b.classid = 'pg_rewrite'::regclass AND w.oid = b.objid \
            WHERE w.rulename <> '_RETURN'), \
         policies AS (SELECT p.* FROM bound b JOIN pg_policy p ON b.classid = 'pg_policy'::regclass AND p.oid = b.objid \
            WHERE p.polrelid <> $1), \
         functions AS (SELECT p.* FROM bound b JOIN pg_proc p ON b.classid = 'pg_proc'::regclass AND p.oid = b.objid), \
         keys AS (SELECT k.* FROM pg_constraint k WHERE k.contype = 'f' AND k.confrelid = $1 AND k.conrelid <> $1 AND k.conparentid = 0) \
         SELECT json_build_object( \
           'views', (SELECT coalesce(json_agg(json_build_object('relation', {relation}, \
                'options', coalesce(to_json(c.reloptions), '[]'), 'definition', pg_get_viewdef(c.oid), \
                'has_row_type', EXISTS (SELECT FROM pg_attribute a JOIN types t ON t.oid = a.atttypid WHERE a.attrelid = c.oid)) \
                ORDER BY v.depth, c.oid), '[]') FROM views v JOIN pg_class c ON c.oid = v.oid), \
           'rules', (SELECT coalesce(json_agg(json_build_object('object', pg_describe_object('pg_rewrite'::regclass, w.oid, 0), \
                'relation', {relation}, 'name', w.rulename, 'own', w.ev_class = $1, 'definition', pg_get_ruledef(w.oid), \
                'enabled', w.ev_enabled, 'comment', obj_description(w.oid, 'pg_rewrite')) \
                ORDER BY c.relnamespace::regnamespace::text, c.relname, w.rulename), '[]') FROM rules w JOIN pg_class c ON c.oid = w.ev_class), \
           'policies', (SELECT coalesce(json_agg(json_build_object('object', pg_describe_object('pg_policy'::regclass, p.oid, 0), \
                'relation', {relation}, 'name', p.polname, 'using', pg_get_expr(p.polqual, p.polrelid), \
                'check', pg_get_expr(p.polwithcheck, p.polrelid)) \
                ORDER BY c.relnamespace::regnamespace::text, c.relname, p.polname), '[]') FROM policies p JOIN pg_class c ON c.oid = p.polrelid), \
           'functions', (SELECT coalesce(json_agg(json_build_object('object', pg_describe_object('pg_proc'::regclass, p.oid, 0), \
                'signature', p.oid::regprocedure, 'definition', CASE WHEN p.prokind <> 'a' THEN pg_get_functiondef(p.oid) END, \
                'has_row_type', EXISTS (SELECT FROM types t WHERE t.oid = p.prorettype OR t.oid = ANY(p.proargtypes) OR t.oid = ANY(p.proallargtypes)), \
                'owner', pg_get_userbyid(p.proowner), 'owner_is_ours', pg_has_role(p.proowner, 'USAGE'), \
                'language_is_ours', l.lanpltrusted AND has_language_privilege(l.oid, 'USAGE') \
                     OR (SELECT rolsuper FROM pg_roles WHERE rolname = current_user), \
                'dependents', (SELECT coalesce(json_agg(DISTINCT pg_describe_object(d.classid, d.objid, 0)), '[]') FROM pg_depend d \
                     WHERE d.refclassid = 'pg_proc'::regclass AND d.refobjid = p.oid), \
                'comment', obj_description(p.oid, 'pg_proc'), 'privileges', {privileges}) \
                ORDER BY p.oid::regprocedure::text), '[]') FROM functions p JOIN pg_language l ON l.oid = p.prolang), \
           'foreign_keys', (SELECT coalesce(json_agg(json_build_object('object', pg_describe_object('pg_constraint'::regclass, k.oid, 0), \
                'relation', {relation}, 'name', k.conname, 'definition', pg_get_constraintdef(k.oid), 'validated', k.convalidated, \
                'enforced', coalesce((to_jsonb(k) ->> 'conenforced')::bool, true), \
                'period', coalesce((to_jsonb(k) ->> 'conperiod')::bool, false), \
                'enabled', NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgconstraint = k.oid AND t.tgenabled <> 'O'), \
                'hides_rows', row_security_active(k.conrelid), \
                'columns', (SELECT json_agg(json_build_array(ca.attname, \
                     format('OPERATOR(%I.%s)', o.oprnamespace::regnamespace::name, o.oprname), pa.attname) ORDER BY u.place) \
                   FROM unnest(k.conkey, k.confkey, k.conpfeqop) WITH ORDINALITY u(child, parent, operator, place) \
                   JOIN pg_attribute ca ON ca.attrelid = k.conrelid AND ca.attnum = u.child \
                   JOIN pg_attribute pa ON pa.attrelid = k.confrelid AND pa.attnum = u.parent \
                   JOIN pg_operator o ON o.oid = u.operator), \
                'comment', obj_description(k.oid, 'pg_constraint')) \
                ORDER BY c.relnamespace::regnamespace::text, c.relname, k.conname), '[]') FROM keys k JOIN pg_class c ON c.oid = k.conrelid), \
           'stale', (SELECT coalesce(json_agg(DISTINCT c.oid::regclass::text), '[]') FROM reach r JOIN pg_class c ON c.oid = r.oid \
                WHERE c.relkind = 'm' AND r.oid NOT IN (SELECT oid FROM relations)), \
           'materialized', (SELECT coalesce(json_agg(json_build_object('schema', c.relnamespace::regnamespace::name, 'name', c.relname, \
                'oid', c.oid::bigint, 'populated', c.relispopulated, \
                'reads_views', EXISTS (SELECT FROM reach o WHERE o.oid = r.oid AND NOT o.replaced), \
                'sees_all_rows', (SELECT NOT live.relrowsecurity OR role.rolsuper OR role.rolbypassrls \
                     OR NOT live.relforcerowsecurity AND pg_has_role(c.relowner, live.relowner, 'USAGE') \
                     FROM pg_class live, pg_roles role WHERE live.oid = $1 AND role.oid = c.relowner)) \
                ORDER BY r.depth, c.oid), '[]') FROM relations r JOIN pg_class c ON c.oid = r.oid WHERE c.oid <> $1), \
           'known', (SELECT coalesce(json_agg(json_build_array(class, oid::bigint)), '[]') FROM ( \
                SELECT 'pg_rewrite' AS class, rule AS oid FROM views UNION ALL SELECT 'pg_rewrite', oid FROM rules \
                UNION ALL SELECT 'pg_policy', oid FROM policies UNION ALL SELECT 'pg_proc', oid FROM functions \
                UNION ALL SELECT 'pg_constraint', oid FROM keys \
                UNION ALL SELECT 'pg_rewrite', w.oid FROM pg_rewrite w JOIN relations r ON r.oid = w.ev_class AND r.oid <> $1) k))::text"
    )
}

/// Reads what is bound to the table `oid`.
pub(super) async fn read(client: &Client, table: &TableName, oid: u32) -> Result<Dependents, PushError> {
    let failed = |source| PushError::at("read what depends on the table", table, source);
    let row = client.query_one(&dependents_sql(), &[&oid]).await.map_err(failed)?;
    let text: String = row.get(0);
    let mut found: Dependents =
        serde_json::from_str(&text).map_err(|source| PushError::Catalogue { table: table.clone(), source })?;
    if found.materialized.is_empty() {
        return Ok(found);
    }
    let definitions = definitions(client, table, &found.materialized).await?;
    for (view, definition) in std::mem::take(&mut found.materialized).into_iter().zip(definitions) {
        let name = TableName::new(view.schema.as_str(), view.name.as_str());
        // Dropped since the first query: the fingerprint then differs too.
        let Some(attributes) = attributes::read_relation(client, &name).await? else { continue };
        let relation = Relation {
            schema: view.schema,
            name: view.name,
            kind: 'm',
            owner: attributes.owner.clone(),
            owner_is_ours: attributes.owner_is_ours,
        };
        found.materialized_views.push(MaterializedView {
            relation,
            oid: view.oid,
            definition,
            populated: view.populated,
            reads_views: view.reads_views,
            sees_all_rows: view.sees_all_rows,
            attributes,
        });
    }
    Ok(found)
}

/// The queries of materialized views, deparsed so that what is in the table's schema has no schema before its name:
/// the same text then means the staging table where that schema comes first.
async fn definitions(client: &Client, table: &TableName, views: &[Materialized]) -> Result<Vec<String>, PushError> {
    let failed = |source| PushError::at("read the materialized views over the table", table, source);
    let path: String = client.query_one("SELECT current_setting('search_path')", &[]).await.map_err(failed)?.get(0);
    let set = |path: &str| format!("SELECT set_config('search_path', {}, false)", quote_literal(path));
    client.batch_execute(&set(&quote_ident(table.schema()))).await.map_err(failed)?;
    let oids: Vec<u32> = views.iter().map(|view| view.oid).collect();
    let sql = "SELECT pg_get_viewdef(v.oid) FROM unnest($1::oid[]) WITH ORDINALITY v(oid, place) ORDER BY place";
    let rows = client.query(sql, &[&oids]).await;
    client.batch_execute(&set(&path)).await.map_err(failed)?;
    Ok(rows.map_err(failed)?.iter().map(|row| row.get::<_, Option<String>>(0).unwrap_or_default()).collect())
}
