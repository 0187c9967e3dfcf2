//! What is attached to a live table that a push would lose: each is named before anything is loaded.
//!
//! Nothing is guessed. Whatever depends on the table and is not known to be carried over is a blocker.

use tokio_postgres::Client;

use crate::pg::quote_ident;
use crate::schema::TableName;

use super::attributes::{Attributes, Privilege};
use super::dependents::{Dependents, Function, MaterializedView, Relation};
use super::error::{Blocker, PushError};
use super::options::TargetOptions;

/// What the operator can do about something that a swap does not carry.
const DROP_AND_RECREATE: &str =
    "use --mode merge, or drop it before the push and create it again after it, in one script";
const ACT_AS_OWNER: &str = "push as a member of its owner, or use --mode merge";
pub(super) const SEE_ALL_ROWS: &str =
    "push as a role with BYPASSRLS, or as an owner whom ROW LEVEL SECURITY is not forced upon";
const PUBLISH: &str = "name it in target.publications if its subscribers need not have the rows, or use --mode merge";

/// The one publication whose subscribers want changes and not the table: a push carries it over.
pub(super) const REALTIME_PUBLICATION: &str = "supabase_realtime";

/// Finds everything that stands in the way of replacing the table.
pub(super) async fn find(
    client: &Client,
    options: &TargetOptions,
    table: &TableName,
    attributes: &Attributes,
) -> Result<Vec<Blocker>, PushError> {
    let mut blockers = of_the_table(options, table, attributes);
    if attributes.kind != 'r' {
        return Ok(blockers);
    }
    let dependents = &attributes.dependents;
    blockers.extend(of_dependents(table, attributes));
    let (classes, oids): (Vec<&str>, Vec<u32>) =
        dependents.known.iter().map(|(class, oid)| (class.as_str(), *oid)).unzip();
    let rows = client
        .query(&dependents_sql(), &[&dependents.replaced(attributes.oid), &classes, &oids])
        .await
        .map_err(|source| PushError::at("look for what depends on the table", table, source))?;
    for row in rows {
        let (object, kind, name): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        if matches!(kind.as_str(), "all tables" | "schema") && is_allowed(options, &name) {
            continue;
        }
        let (why, alternative) = reason(&kind);
        blockers.push(blocker(object, why, alternative));
    }
    Ok(blockers)
}

fn blocker(object: impl Into<String>, why: impl Into<String>, alternative: &str) -> Blocker {
    Blocker { object: object.into(), why: why.into(), alternative: alternative.to_owned() }
}

/// Whether the operator says that a publication's subscribers need not have the rows of a push.
fn is_allowed(options: &TargetOptions, publication: &str) -> bool {
    options.publications.iter().any(|allowed| allowed == publication)
}

fn reason(kind: &str) -> (&'static str, &'static str) {
    match kind {
        "all tables" => ("it would publish the load itself", PUBLISH),
        "schema" => ("it would publish the backup too", PUBLISH),
        "subscription" => ("it writes into the table", "end the subscription for this table"),
        "inheritance" => ("a swap would break the inheritance", "push into a table without parents and children"),
        "label" => ("security labels are not carried over", "use --mode merge, or remove the label"),
        "extension" => ("it is tied to an extension, and a swap would lose the tie", "use --mode merge"),
        "typed" => ("the table is bound to a composite type", "use --mode merge, or push into a plain table"),
        _ => ("it depends on the table and would stay with the backup", DROP_AND_RECREATE),
    }
}

/// What is bound to the table and cannot be bound to another, or not by our role.
fn of_dependents(table: &TableName, attributes: &Attributes) -> Vec<Blocker> {
    let Dependents { views, rules, policies, functions, foreign_keys, materialized_views, .. } = &attributes.dependents;
    let mut blockers = Vec::new();
    for view in views {
        let object = format!("view {}", view.relation.table_name());
        if view.has_row_type {
            let why = "a column of it has the table's row type, which the new table cannot have";
            blockers.push(blocker(object.clone(), why, DROP_AND_RECREATE));
        }
        blockers.extend(not_ours(object, &view.relation));
    }
    for rule in rules {
        blockers.extend(not_ours(rule.object.clone(), &rule.relation));
    }
    for policy in policies {
        blockers.extend(not_ours(policy.object.clone(), &policy.relation));
    }
    for key in foreign_keys {
        blockers.extend(not_ours(key.object.clone(), &key.relation));
        if key.relation.kind != 'r' {
            let why = "its table is partitioned, and the server cannot add such a key without checking it at once";
            blockers.push(blocker(key.object.clone(), why, DROP_AND_RECREATE));
        }
        if key.period {
            blockers.push(blocker(key.object.clone(), "it refers to periods", DROP_AND_RECREATE));
        }
        if key.hides_rows && key.validated && key.enforced {
            let why = "row-level security hides rows of its table from our role, so it cannot tell whether all have a partner";
            blockers.push(blocker(key.object.clone(), why, SEE_ALL_ROWS));
        }
        if !key.enabled {
            blockers.push(blocker(key.object.clone(), "its triggers are disabled", DROP_AND_RECREATE));
        }
    }
    for function in functions {
        blockers.extend(of_function(function));
    }
    for view in materialized_views {
        blockers.extend(of_materialized_view(table, view));
    }
    blockers
}

fn not_ours(object: String, relation: &Relation) -> Option<Blocker> {
    let why = format!("{} belongs to {}, and our role is not a member of it", relation.table_name(), relation.owner);
    (!relation.owner_is_ours).then(|| blocker(object, why, ACT_AS_OWNER))
}

fn of_function(function: &Function) -> Vec<Blocker> {
    let mut blockers = Vec::new();
    let mut add = |why: String, alternative: &str| {
        blockers.push(blocker(function.object.clone(), why, alternative));
    };
    if function.definition.is_none() {
        add("it is an aggregate over the table's row type".to_owned(), DROP_AND_RECREATE);
    }
    if !function.owner_is_ours {
        add(format!("it belongs to {}, and our role is not a member of it", function.owner), ACT_AS_OWNER);
    }
    if !function.language_is_ours {
        add("our role may not make functions in its language".to_owned(), ACT_AS_OWNER);
    }
    if function.has_row_type {
        if !function.dependents.is_empty() {
            let why = format!("it has the table's row type, and {} depends on it", function.dependents.join(", "));
            add(why, DROP_AND_RECREATE);
        }
        for grantor in foreign_grantors(&function.privileges, &function.owner) {
            add(
                format!("{grantor}, who is not the owner, granted privileges on it"),
                "let the owner grant them instead",
            );
        }
    }
    blockers
}

fn of_materialized_view(table: &TableName, view: &MaterializedView) -> Vec<Blocker> {
    let name = view.relation.table_name();
    let object = format!("materialized view {name}");
    let mut blockers: Vec<Blocker> = not_ours(object.clone(), &view.relation).into_iter().collect();
    if name.schema() != table.schema() {
        blockers.push(blocker(object.clone(), "it is in another schema than the table", DROP_AND_RECREATE));
    }
    // A name that stays qualified goes on meaning the table of today.
    let forms = |name: &str| [name.to_owned(), quote_ident(name)];
    let (schemas, names) = (forms(table.schema()), forms(table.name()));
    let qualified = schemas.iter().flat_map(|schema| names.iter().map(move |name| format!("{schema}.{name}")));
    if qualified.into_iter().any(|qualified| view.definition.contains(&qualified)) {
        let why = "something in its query has the table's name, so the query cannot be read as one over a new table";
        blockers.push(blocker(object.clone(), why, DROP_AND_RECREATE));
    }
    if !view.sees_all_rows {
        let why = "its owner sees the table's rows only as its policies let";
        blockers.push(blocker(object.clone(), why, DROP_AND_RECREATE));
    }
    blockers.extend(of_relation(&object, &name, &view.attributes));
    blockers
}

/// What rules out that a relation can be made anew with all its indexes, statistics and privileges.
fn of_relation(object: &str, name: &TableName, attributes: &Attributes) -> Vec<Blocker> {
    let mut blockers = Vec::new();
    if attributes.access_method.as_deref() != Some("heap") {
        blockers.push(blocker(object, "its access method is not heap", "ALTER TABLE … SET ACCESS METHOD heap"));
    }
    let tablespaces = attributes.indexes.iter().map(|index| (format!("index {}", index.name), &index.tablespace));
    for (object, tablespace) in tablespaces.chain([(object.to_owned(), &attributes.tablespace)]) {
        if let Some(tablespace) = tablespace {
            let why = format!("it is in tablespace {tablespace}, which is not carried over");
            blockers.push(blocker(object, why, "move it into the default tablespace"));
        }
    }
    for index in &attributes.indexes {
        let object = format!("index {}", index.name);
        if !index.valid {
            let why = "it is not valid, so it cannot be built again as it is";
            blockers.push(blocker(object.clone(), why, "drop it or rebuild it"));
        }
        if !index.definition.starts_with(&index.head) {
            blockers.push(blocker(object, "its definition does not begin as expected", DROP_AND_RECREATE));
        }
    }
    for statistics in &attributes.statistics {
        let object = format!("statistics {}", statistics.name);
        if statistics.schema != name.schema() {
            blockers.push(blocker(object, "they are in another schema than the table", DROP_AND_RECREATE));
        } else if !statistics.is_replaceable() {
            blockers.push(blocker(object, "their definition does not look as expected", DROP_AND_RECREATE));
        }
    }
    let sequences =
        attributes.sequences.iter().map(|sequence| (format!("sequence {}", sequence.name), &sequence.privileges));
    let columns = attributes.columns.iter().map(|column| (format!("column {}", column.name), &column.privileges));
    for (object, privileges) in sequences.chain(columns).chain([(object.to_owned(), &attributes.privileges)]) {
        for grantor in foreign_grantors(privileges, &attributes.owner) {
            let why = format!("{grantor}, who is not the owner, granted privileges on it");
            blockers.push(blocker(object.clone(), why, "use --mode merge, or let the owner grant them instead"));
        }
    }
    blockers
}

/// What the table's own properties rule out.
fn of_the_table(options: &TargetOptions, table: &TableName, attributes: &Attributes) -> Vec<Blocker> {
    let mut blockers = Vec::new();
    let object = format!("table {table}");
    let kind = match attributes.kind {
        'r' => None,
        'p' => Some("a partitioned table"),
        'v' => Some("a view"),
        'm' => Some("a materialized view"),
        'f' => Some("a foreign table"),
        'S' => Some("a sequence"),
        'i' | 'I' => Some("an index"),
        _ => Some("not a table"),
    };
    if let Some(kind) = kind {
        blockers.push(blocker(object, format!("it is {kind}"), "push into a plain table"));
        return blockers;
    }
    if attributes.persistence != 'p' {
        let why = "it is unlogged or temporary, and a crash would empty it";
        blockers.push(blocker(object.clone(), why, "ALTER TABLE … SET LOGGED"));
    }
    if !attributes.owner_is_ours {
        let why = format!("it belongs to {}, and our role is not a member of it", attributes.owner);
        blockers.push(blocker(object.clone(), why, "push as the owner, or grant the owner's role to ours"));
    }
    for constraint in &attributes.constraints {
        let object = format!("constraint {} on table {table}", constraint.name);
        if !matches!(constraint.kind, 'p' | 'u' | 'c' | 'x' | 'f' | 'n' | 't') {
            blockers.push(blocker(object.clone(), "constraints of this kind are not carried over", DROP_AND_RECREATE));
        }
        if let Some(reference) = &constraint.reference {
            if reference.itself && constraint.reference_from(table).is_none() {
                blockers.push(blocker(object, "its definition does not begin as expected", DROP_AND_RECREATE));
            } else if !reference.is_allowed {
                let why = "our role lacks the privilege REFERENCES on the table that it refers to";
                blockers.push(blocker(object, why, "grant it, or use --mode merge"));
            } else if !reference.enabled {
                blockers.push(blocker(object, "its triggers are disabled", DROP_AND_RECREATE));
            }
        }
    }
    for publication in &attributes.publications {
        let object = format!("publication {}", publication.name);
        if publication.name != REALTIME_PUBLICATION && !is_allowed(options, &publication.name) {
            let why = "the rows of a push are not sent to subscribers, which would then silently differ";
            blockers.push(blocker(object.clone(), why, PUBLISH));
        }
        if !publication.owner_is_ours {
            blockers.push(blocker(object, "our role is not a member of its owner", ACT_AS_OWNER));
        }
    }
    blockers.extend(of_relation(&object, table, attributes));
    blockers
}

fn foreign_grantors<'a>(privileges: &'a [Privilege], owner: &str) -> Vec<&'a str> {
    let mut grantors: Vec<&str> =
        privileges.iter().map(|privilege| privilege.grantor.as_str()).filter(|grantor| *grantor != owner).collect();
    grantors.sort_unstable();
    grantors.dedup();
    grantors
}

/// Objects that hold on to the replaced relations `$1` and are not known: description, kind, and the name of a
/// publication. What is known is listed in `$2` and `$3`, catalogue and oid.
fn dependents_sql() -> String {
    "WITH live AS (SELECT c.oid, c.relname, c.reltype, c.reloftype, c.relnamespace, c.relkind FROM pg_class c WHERE c.oid = ANY($1)), \
     family AS ( \
        SELECT 'pg_class'::regclass AS classid, oid AS objid FROM live \
        UNION ALL SELECT 'pg_type'::regclass, reltype FROM live \
        UNION ALL SELECT 'pg_type'::regclass, t.typarray FROM live JOIN pg_type t ON t.oid = live.reltype \
        UNION ALL SELECT 'pg_class'::regclass, x.indexrelid FROM live JOIN pg_index x ON x.indrelid = live.oid \
        UNION ALL SELECT 'pg_constraint'::regclass, k.oid FROM live JOIN pg_constraint k ON k.conrelid = live.oid \
        UNION ALL SELECT 'pg_class'::regclass, d.objid FROM live JOIN pg_depend d ON d.refobjid = live.oid \
            AND d.refclassid = 'pg_class'::regclass AND d.classid = 'pg_class'::regclass AND d.deptype = 'i' \
            JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'), \
     dependents AS ( \
        SELECT DISTINCT d.classid, d.objid, d.objsubid FROM family f \
        JOIN pg_depend d ON d.refclassid = f.classid AND d.refobjid = f.objid \
        WHERE d.deptype IN ('n', 'a', 'x') AND NOT EXISTS (SELECT FROM family o WHERE o.classid = d.classid AND o.objid = d.objid)), \
     carried AS (SELECT class::regclass AS classid, oid AS objid FROM unnest($2::text[], $3::oid[]) k(class, oid)), \
     known AS ( \
        SELECT classid, objid FROM carried \
        UNION ALL SELECT 'pg_attrdef'::regclass, a.oid FROM live JOIN pg_attrdef a ON a.adrelid = live.oid \
        UNION ALL SELECT 'pg_policy'::regclass, p.oid FROM live JOIN pg_policy p ON p.polrelid = live.oid \
        UNION ALL SELECT 'pg_class'::regclass, d.objid FROM live JOIN pg_depend d ON d.refobjid = live.oid \
            AND d.refclassid = 'pg_class'::regclass AND d.classid = 'pg_class'::regclass AND d.deptype = 'a' \
            JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' \
        UNION ALL SELECT 'pg_trigger'::regclass, t.oid FROM live JOIN pg_trigger t ON t.tgrelid = live.oid \
        UNION ALL SELECT 'pg_trigger'::regclass, t.oid FROM pg_trigger t WHERE t.tgisinternal \
        UNION ALL SELECT 'pg_statistic_ext'::regclass, e.oid FROM live JOIN pg_statistic_ext e ON e.stxrelid = live.oid \
        UNION ALL SELECT 'pg_constraint'::regclass, k.oid FROM live JOIN pg_constraint k ON k.confrelid = live.oid \
            WHERE k.conparentid <> 0 \
        UNION ALL SELECT 'pg_publication_rel'::regclass, p.oid FROM live JOIN pg_publication_rel p ON p.prrelid = live.oid), \
     replaced AS ( \
        SELECT classid, objid FROM family \
        UNION ALL SELECT 'pg_trigger'::regclass, t.oid FROM live JOIN pg_trigger t ON t.tgrelid = live.oid WHERE NOT t.tgisinternal \
        UNION ALL SELECT 'pg_statistic_ext'::regclass, e.oid FROM live JOIN pg_statistic_ext e ON e.stxrelid = live.oid \
        UNION ALL SELECT classid, objid FROM carried WHERE classid = 'pg_proc'::regclass) \
     SELECT DISTINCT object, kind, name FROM ( \
        SELECT pg_describe_object(d.classid, d.objid, d.objsubid) AS object, 'other' AS kind, '' AS name FROM dependents d \
            WHERE NOT EXISTS (SELECT FROM known k WHERE k.classid = d.classid AND k.objid = d.objid) \
        UNION ALL SELECT 'publication ' || p.pubname, 'all tables', p.pubname::text FROM pg_publication p WHERE p.puballtables \
        UNION ALL SELECT 'publication ' || t.pubname, 'schema', p.pubname::text \
            FROM live JOIN pg_publication_tables t ON t.schemaname = live.relnamespace::regnamespace::name AND t.tablename = live.relname \
            JOIN pg_publication p ON p.pubname = t.pubname AND NOT p.puballtables \
            WHERE NOT EXISTS (SELECT FROM pg_publication_rel r WHERE r.prrelid = live.oid AND r.prpubid = p.oid) \
        UNION ALL SELECT 'subscription ' || r.srsubid::text, 'subscription', '' \
            FROM live JOIN pg_subscription_rel r ON r.srrelid = live.oid \
        UNION ALL SELECT 'inheritance between ' || i.inhrelid::regclass || ' and ' || i.inhparent::regclass, 'inheritance', '' \
            FROM live JOIN pg_inherits i ON live.oid IN (i.inhrelid, i.inhparent) \
        UNION ALL SELECT 'security label of provider ' || l.provider, 'label', '' \
            FROM replaced r JOIN pg_seclabel l ON l.objoid = r.objid AND l.classoid = r.classid \
        UNION ALL SELECT pg_describe_object(d.classid, d.objid, 0), 'extension', '' \
            FROM replaced r JOIN pg_depend d ON d.objid = r.objid AND d.classid = r.classid AND d.deptype IN ('e', 'x') \
        UNION ALL SELECT 'type ' || format_type(live.reloftype, NULL), 'typed', '' FROM live WHERE live.reloftype <> 0 \
     ) found ORDER BY kind, object"
        .to_owned()
}
