//! What is attached to a live table that a push would lose: each is named before anything is loaded.
//!
//! Nothing is guessed. Whatever depends on the table and is not known to be carried over is a blocker.

use tokio_postgres::Client;

use crate::schema::TableName;

use super::attributes::{Attributes, Privilege};
use super::error::{Blocker, PushError};

/// What the operator can do about something a push does not carry.
const DROP_AND_RECREATE: &str = "drop it before the push and create it again after it, in one script";

/// The one publication whose subscribers want changes and not the table: a push carries it over.
const REALTIME_PUBLICATION: &str = "supabase_realtime";

/// Finds everything that stands in the way of replacing the table.
pub(super) async fn find(
    client: &Client,
    table: &TableName,
    attributes: &Attributes,
) -> Result<Vec<Blocker>, PushError> {
    let mut blockers = of_the_table(table, attributes);
    if attributes.kind != 'r' {
        return Ok(blockers);
    }
    let rows = client
        .query(&dependents_sql(), &[&attributes.oid])
        .await
        .map_err(|source| PushError::at("look for what depends on the table", table, source))?;
    blockers.extend(rows.iter().map(|row| {
        let (object, kind): (String, String) = (row.get(0), row.get(1));
        let (why, alternative) = reason(&kind);
        Blocker { object, why: why.to_owned(), alternative: alternative.to_owned() }
    }));
    Ok(blockers)
}

fn reason(kind: &str) -> (&'static str, &'static str) {
    match kind {
        "rule" | "foreign key out" => ("it would stay on the backup", DROP_AND_RECREATE),
        "foreign key in" => ("it would go on pointing at the backup", DROP_AND_RECREATE),
        "view" => ("it would go on reading the backup", DROP_AND_RECREATE),
        "all tables" => ("it would publish the load itself", "publish the tables that need it by name"),
        "schema" => ("it would publish the backup too", "publish the tables that need it by name"),
        "subscription" => ("it writes into the table", "end the subscription for this table"),
        "inheritance" => ("a swap would break the inheritance", "push into a table without parents and children"),
        "label" => ("security labels are not carried over", "remove the label"),
        "extension" => ("the table belongs to it", "push into a table of your own"),
        "typed" => ("the table is bound to a composite type", "push into a plain table"),
        _ => ("it depends on the table and would stay with the backup", DROP_AND_RECREATE),
    }
}

/// What the table's own properties rule out.
fn of_the_table(table: &TableName, attributes: &Attributes) -> Vec<Blocker> {
    let blocker = |object: String, why: &str, alternative: &str| Blocker {
        object,
        why: why.to_owned(),
        alternative: alternative.to_owned(),
    };
    let mut blockers = Vec::new();
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
        blockers.push(blocker(format!("table {table}"), &format!("it is {kind}"), "push into a plain table"));
        return blockers;
    }
    if attributes.persistence != 'p' {
        blockers.push(blocker(
            format!("table {table}"),
            "it is unlogged or temporary, and a crash would empty it",
            "ALTER TABLE … SET LOGGED",
        ));
    }
    if !attributes.owner_is_ours {
        blockers.push(blocker(
            format!("table {table}"),
            &format!("it belongs to {}, and our role is not a member of it", attributes.owner),
            "push as the owner, or grant the owner's role to ours",
        ));
    }
    if attributes.access_method.as_deref() != Some("heap") {
        blockers.push(blocker(
            format!("table {table}"),
            "its access method is not heap",
            "ALTER TABLE … SET ACCESS METHOD heap",
        ));
    }
    let tablespaces = attributes.indexes.iter().map(|index| (format!("index {}", index.name), &index.tablespace));
    for (object, tablespace) in tablespaces.chain([(format!("table {table}"), &attributes.tablespace)]) {
        if let Some(tablespace) = tablespace {
            let why = format!("it is in tablespace {tablespace}, which is not carried over");
            blockers.push(blocker(object, &why, "move it into the default tablespace"));
        }
    }
    for index in &attributes.indexes {
        if !index.valid {
            let why = "it is not valid, so it cannot be built again as it is";
            blockers.push(blocker(format!("index {}", index.name), why, "drop it or rebuild it"));
        }
        if !index.definition.starts_with(&index.head) {
            let why = "its definition does not begin as expected";
            blockers.push(blocker(format!("index {}", index.name), why, DROP_AND_RECREATE));
        }
    }
    for constraint in &attributes.constraints {
        if !matches!(constraint.kind, 'p' | 'u' | 'c' | 'x' | 'f' | 'n' | 't') {
            let why = "constraints of this kind are not carried over";
            blockers.push(blocker(format!("constraint {}", constraint.name), why, DROP_AND_RECREATE));
        }
    }
    for statistics in &attributes.statistics {
        let object = format!("statistics {}", statistics.name);
        if statistics.schema != table.schema() {
            blockers.push(blocker(object, "they are in another schema than the table", DROP_AND_RECREATE));
        } else if !statistics.is_replaceable() {
            blockers.push(blocker(object, "their definition does not look as expected", DROP_AND_RECREATE));
        }
    }
    for view in &attributes.views {
        let object = format!("view {}", view.table_name());
        if view.has_row_type {
            let why = "a column of it has the table's row type, which the new table cannot have";
            blockers.push(blocker(object, why, DROP_AND_RECREATE));
        } else if !view.owner_is_ours {
            let why = format!("it belongs to {}, and our role is not a member of it", view.owner);
            blockers.push(blocker(object, &why, "push as a member of its owner"));
        }
    }
    for publication in &attributes.publications {
        let object = format!("publication {}", publication.name);
        if publication.name != REALTIME_PUBLICATION {
            let why = "the rows of a push are not sent to subscribers, which would then silently differ";
            blockers.push(blocker(object, why, "take the table out of the publication"));
        } else if !publication.owner_is_ours {
            let why = "our role is not a member of its owner";
            blockers.push(blocker(object, why, "take the table out of the publication"));
        }
    }
    let sequences =
        attributes.sequences.iter().map(|sequence| (format!("sequence {}", sequence.name), &sequence.privileges));
    let columns = attributes.columns.iter().map(|column| (format!("column {}", column.name), &column.privileges));
    for (object, privileges) in sequences.chain(columns).chain([(format!("table {table}"), &attributes.privileges)]) {
        for grantor in foreign_grantors(privileges, &attributes.owner) {
            let why = format!("{grantor}, who is not the owner, granted privileges on it");
            blockers.push(blocker(object.clone(), &why, "let the owner grant them instead"));
        }
    }
    blockers
}

fn foreign_grantors<'a>(privileges: &'a [Privilege], owner: &str) -> Vec<&'a str> {
    let mut grantors: Vec<&str> =
        privileges.iter().map(|privilege| privilege.grantor.as_str()).filter(|grantor| *grantor != owner).collect();
    grantors.sort_unstable();
    grantors.dedup();
    grantors
}

/// Objects outside the table that hold on to it, by description and kind.
fn dependents_sql() -> String {
    "WITH live AS (SELECT c.oid, c.reltype, c.reloftype, c.relnamespace FROM pg_class c WHERE c.oid = $1), \
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
     known AS ( \
        SELECT 'pg_attrdef'::regclass AS classid, a.oid AS objid FROM live JOIN pg_attrdef a ON a.adrelid = live.oid \
        UNION ALL SELECT 'pg_policy'::regclass, p.oid FROM live JOIN pg_policy p ON p.polrelid = live.oid \
        UNION ALL SELECT 'pg_class'::regclass, d.objid FROM live JOIN pg_depend d ON d.refobjid = live.oid \
            AND d.refclassid = 'pg_class'::regclass AND d.classid = 'pg_class'::regclass AND d.deptype = 'a' \
            JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' \
        UNION ALL SELECT 'pg_trigger'::regclass, t.oid FROM live JOIN pg_trigger t ON t.tgrelid = live.oid \
        UNION ALL SELECT 'pg_trigger'::regclass, t.oid FROM pg_trigger t WHERE t.tgisinternal \
        UNION ALL SELECT 'pg_rewrite'::regclass, r.oid FROM live JOIN pg_rewrite r ON r.ev_class = live.oid \
        UNION ALL SELECT 'pg_statistic_ext'::regclass, e.oid FROM live JOIN pg_statistic_ext e ON e.stxrelid = live.oid \
        UNION ALL SELECT 'pg_constraint'::regclass, k.oid FROM live JOIN pg_constraint k ON k.confrelid = live.oid \
        UNION ALL SELECT 'pg_publication_rel'::regclass, p.oid FROM live JOIN pg_publication_rel p ON p.prrelid = live.oid) \
     SELECT DISTINCT object, kind FROM ( \
        SELECT pg_describe_object('pg_class'::regclass, v.oid, 0) AS object, 'view' AS kind \
            FROM dependents d JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid \
            JOIN pg_class v ON v.oid = r.ev_class AND v.relkind IN ('v', 'm') \
            WHERE v.relkind = 'm' OR NOT EXISTS (SELECT FROM live JOIN pg_rewrite w ON w.ev_class = v.oid JOIN pg_depend e \
                ON e.classid = 'pg_rewrite'::regclass AND e.objid = w.oid AND e.refclassid = 'pg_class'::regclass \
                AND e.refobjid = live.oid) \
        UNION ALL \
        SELECT pg_describe_object(d.classid, d.objid, d.objsubid), 'other' FROM dependents d \
            LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid \
            LEFT JOIN pg_class v ON v.oid = r.ev_class AND v.relkind IN ('v', 'm') \
            WHERE v.oid IS NULL AND NOT EXISTS (SELECT FROM known k WHERE k.classid = d.classid AND k.objid = d.objid) \
        UNION ALL SELECT pg_describe_object('pg_rewrite'::regclass, r.oid, 0), 'rule' \
            FROM live JOIN pg_rewrite r ON r.ev_class = live.oid \
        UNION ALL SELECT pg_describe_object('pg_constraint'::regclass, k.oid, 0), 'foreign key out' \
            FROM live JOIN pg_constraint k ON k.conrelid = live.oid AND k.contype = 'f' \
        UNION ALL SELECT pg_describe_object('pg_constraint'::regclass, k.oid, 0), 'foreign key in' \
            FROM live JOIN pg_constraint k ON k.confrelid = live.oid AND k.conrelid <> live.oid \
        UNION ALL SELECT 'publication ' || p.pubname, 'all tables' FROM pg_publication p WHERE p.puballtables \
        UNION ALL SELECT 'publication ' || t.pubname, 'schema' \
            FROM live JOIN pg_namespace n ON n.oid = live.relnamespace JOIN pg_class c ON c.oid = live.oid \
            JOIN pg_publication_tables t ON t.schemaname = n.nspname AND t.tablename = c.relname \
            JOIN pg_publication p ON p.pubname = t.pubname AND NOT p.puballtables \
            WHERE NOT EXISTS (SELECT FROM pg_publication_rel r WHERE r.prrelid = live.oid AND r.prpubid = p.oid) \
        UNION ALL SELECT 'subscription ' || r.srsubid::text, 'subscription' \
            FROM live JOIN pg_subscription_rel r ON r.srrelid = live.oid \
        UNION ALL SELECT 'inheritance between ' || i.inhrelid::regclass || ' and ' || i.inhparent::regclass, 'inheritance' \
            FROM live JOIN pg_inherits i ON live.oid IN (i.inhrelid, i.inhparent) \
        UNION ALL SELECT 'security label of provider ' || l.provider, 'label' \
            FROM live JOIN pg_seclabel l ON l.objoid = live.oid AND l.classoid = 'pg_class'::regclass \
        UNION ALL SELECT pg_describe_object(d.refclassid, d.refobjid, 0), 'extension' \
            FROM live JOIN pg_depend d ON d.objid = live.oid AND d.classid = 'pg_class'::regclass AND d.deptype IN ('e', 'x') \
        UNION ALL SELECT 'type ' || format_type(live.reloftype, NULL), 'typed' FROM live WHERE live.reloftype <> 0 \
     ) found ORDER BY kind, object"
        .to_owned()
}
