//! Whether a table can be merged into, and which columns take part.

use arrow::datatypes::Schema;
use tokio_postgres::Client;

use crate::pg::{DatabaseUrl, Session};
use crate::push::attributes::{self, Attributes};
use crate::push::backup;
use crate::push::blockers::SEE_ALL_ROWS;
use crate::push::columns::ColumnMatch;
use crate::push::error::{Blocker, PushError};
use crate::push::followers;
use crate::push::generations::Generations;
use crate::push::key_index::UNIQUE_INDEX;
use crate::push::options::TargetOptions;
use crate::push::plan::{self, PushMode, PushPlan};
use crate::push::session;
use crate::schema::TableName;

/// The columns that a merge works with.
#[derive(Debug, Clone, Default)]
pub(super) struct Shape {
    /// By which rows are found.
    pub(super) key: Vec<String>,
    /// What an update sets: what the source has besides the key and identities.
    pub(super) set: Vec<String>,
    /// By which two rows with one key differ.
    pub(super) compared: Vec<String>,
    /// What the source gives to a new row besides the key.
    pub(super) inserted: Vec<String>,
    /// Columns of other unique indexes among those that are set.
    pub(super) moving: Vec<String>,
    /// All columns of the live table that are stored as they are given.
    pub(super) stored: Vec<String>,
}

/// A foreign key that refers to the live table.
#[derive(Debug, Clone)]
pub(super) struct Child {
    pub(super) constraint: String,
    /// The table that refers, quoted.
    pub(super) table: String,
    /// Its columns, and the live table's that they refer to.
    pub(super) columns: Vec<(String, String)>,
}

/// A live table that can be merged into.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) live: Attributes,
    pub(super) fingerprint: String,
    /// The backups that make room.
    pub(super) backups: Generations,
    pub(super) shape: Shape,
    pub(super) children: Vec<Child>,
}

/// A plan, and the table unless there is none.
pub(super) struct Found {
    pub(super) plan: PushPlan,
    pub(super) target: Option<Target>,
}

/// What a push with mode `merge` would do; a table that does not exist is created.
pub(in crate::push) async fn plan_merge(
    session: &Session,
    options: &TargetOptions,
    dataset: &Schema,
) -> Result<PushPlan, PushError> {
    inspect(session, options, dataset).await.map(|found| found.plan)
}

/// What a push with mode `auto` would do: a swap if nothing stands in its way, else a merge, else nothing, with what
/// stands in the way of either.
pub(in crate::push) async fn plan_auto(
    session: &Session,
    options: &TargetOptions,
    dataset: &Schema,
) -> Result<PushPlan, PushError> {
    let mut swap = plan::inspect(session, options, dataset).await?.plan;
    if swap.blockers.is_empty() || !swap.live_exists {
        return Ok(swap);
    }
    let mut merge = inspect(session, options, dataset).await?.plan;
    if merge.blockers.is_empty() {
        let why: Vec<String> = swap.blockers.iter().map(ToString::to_string).collect();
        merge.notes.insert(0, format!("a swap is not possible: {}", why.join("; ")));
        return Ok(merge);
    }
    for blocker in merge.blockers {
        if !swap.blockers.contains(&blocker) {
            let object = format!("for a merge, {}", blocker.object);
            swap.blockers.push(Blocker { object, ..blocker });
        }
    }
    Ok(swap)
}

/// How a push would get the dataset in place, by its mode and by what the server says.
///
/// # Errors
/// [`PushError::Blocked`] when it would not.
pub async fn choose(
    url: &DatabaseUrl,
    options: &TargetOptions,
    dataset: &Schema,
    run_id: &str,
) -> Result<PushMode, PushError> {
    let (session, _) = session::open(url, &options.table, run_id).await?;
    let plan = plan::plan(&session, options, dataset).await?;
    if plan.blockers.is_empty() {
        Ok(plan.mode)
    } else {
        Err(PushError::Blocked { table: plan.table, blockers: plan.blockers })
    }
}

pub(super) async fn inspect(session: &Session, options: &TargetOptions, dataset: &Schema) -> Result<Found, PushError> {
    let table = &options.table;
    let Some(found) = attributes::read(session, table).await? else {
        let plan = plan::inspect(session, options, dataset).await?.plan;
        return Ok(Found { plan, target: None });
    };
    // What is read must not be older than the fingerprint, or a change between the two would go unnoticed.
    let fingerprint = plan::fingerprint(session, table, found.oid).await?;
    let live = attributes::read(session, table).await?.unwrap_or(found);
    let (columns, mismatches) = ColumnMatch::with_table(options, dataset, &live);
    let mut blockers = plan::permissions(session, options).await?;
    let shape = of_dataset(options, &columns, &live, &mut blockers);
    blockers.extend(mismatches);
    let (target, more) = conditions(session, options, live, fingerprint, shape).await?;
    blockers.extend(more);
    let live = &target.live;
    let live_bytes = live.bytes;
    let mut notes = notes(table, live);
    // The staging table and the backup, at least.
    notes.extend(followers::of_slots(session, table, live_bytes.saturating_mul(2)).await?);
    let plan = PushPlan {
        table: table.clone(),
        mode: PushMode::Merge,
        live_exists: true,
        columns,
        carried: Vec::new(),
        blockers,
        live_rows_estimated: backup::rows(live),
        live_bytes,
        replaces_backup: backup::backup_status(session, options).await?,
        // The staging table and the backup, as much log for both, and the versions of rows that change.
        disk_bytes_needed: live_bytes.saturating_mul(4),
        notes,
    };
    Ok(Found { plan, target: Some(target) })
}

fn notes(table: &TableName, live: &Attributes) -> Vec<String> {
    let mut notes = vec![format!(
        "the table stays itself, with everything attached to it; writers of {table} wait while its rows are compared and \
         changed, readers do not"
    )];
    let triggers = live.triggers.iter().filter(|trigger| fires(trigger.enabled)).count();
    if triggers > 0 {
        notes.push(format!("{triggers} triggers of {table} do not run for the changed rows"));
    }
    notes
}

/// Whether a trigger in this state runs for what a merge does.
pub(super) fn fires(enabled: char) -> bool {
    matches!(enabled, 'O' | 'A')
}

fn of_dataset(options: &TargetOptions, columns: &ColumnMatch, live: &Attributes, blockers: &mut Vec<Blocker>) -> Shape {
    let given = columns.load.iter().map(|(_, column)| &column.name).chain(&columns.left_null);
    let inserted: Vec<String> = given.filter(|name| !options.key.contains(name)).cloned().collect();
    blockers.extend(columns.missing_key(&options.key));
    for (name, _) in &columns.added {
        blockers.push(blocker(
            format!("column {name}"),
            "a merge does not add columns, because that would make readers wait",
            "add it to the table first, ignore new columns, or swap",
        ));
    }
    for column in live.columns.iter().filter(|column| column.identity && inserted.contains(&column.name)) {
        blockers.push(blocker(
            format!("column {}", column.name),
            "it is an identity, which a merge cannot set in rows that are there",
            "leave it out of the dataset, or make it the key",
        ));
    }
    let compared = inserted.iter().filter(|name| !options.merge.ignore_columns.contains(name)).cloned().collect();
    Shape { key: options.key.clone(), set: inserted.clone(), compared, inserted, ..Shape::default() }
}

fn blocker(object: String, why: &str, alternative: &str) -> Blocker {
    Blocker { object, why: why.to_owned(), alternative: alternative.to_owned() }
}

/// What a merge needs of the table, and what it has to know about it besides its columns.
pub(super) async fn conditions(
    session: &Client,
    options: &TargetOptions,
    live: Attributes,
    fingerprint: String,
    mut shape: Shape,
) -> Result<(Target, Vec<Blocker>), PushError> {
    let table = &options.table;
    let failed = |source| PushError::at("look for what stands in the way of a merge", table, source);
    let the_table = || format!("table {table}");
    let mut blockers = Vec::new();
    if live.kind != 'r' {
        blockers.push(blocker(the_table(), "it is not a plain table", "push into a plain table"));
    }
    if !live.owner_is_ours {
        let why = format!("it belongs to {}, and our role is not a member of it", live.owner);
        blockers.push(blocker(the_table(), &why, "push as the owner, or grant the owner's role to ours"));
    }
    let mut key = options.key.clone();
    key.sort_unstable();
    let row = session.query_one(&facts_sql(), &[&live.oid, &key]).await.map_err(failed)?;
    if !row.get::<_, bool>(0) {
        let why = format!("no unique index over ({}) keeps two rows with one key apart", options.key.join(", "));
        blockers.push(blocker(the_table(), &why, "create one, or correct the key in the pipeline file"));
    }
    if row.get(1) {
        let why = "row-level security hides rows from our role, so it cannot tell which are missing";
        blockers.push(blocker(the_table(), why, "push as the owner or as a role with BYPASSRLS"));
    }
    if row.get(2) {
        let why = "a swap or merge would break its inheritance";
        blockers.push(blocker(the_table(), why, "push into a table without parents and children"));
    }
    for rule in row.get::<_, Vec<String>>(3) {
        let why = "it would change what a merge does to rows";
        blockers.push(blocker(format!("rule {rule}"), why, "disable it for the push"));
    }
    for subscription in row.get::<_, Vec<String>>(4) {
        let why = "it writes into the table";
        blockers.push(blocker(format!("subscription {subscription}"), why, "end the subscription for this table"));
    }
    for column in live.columns.iter().filter(|column| options.key.contains(&column.name) && !column.not_null) {
        let why = "it is part of the key and may be null, and null is not equal to null";
        let alternative = "ALTER TABLE … ALTER COLUMN … SET NOT NULL";
        blockers.push(blocker(format!("column {}", column.name), why, alternative));
    }
    shape.stored = live.columns.iter().filter(|column| !column.generated).map(|column| column.name.clone()).collect();
    shape.moving = moving(session, &live, &shape).await.map_err(failed)?;
    let mut children = Vec::new();
    for row in session.query(CHILDREN, &[&live.oid]).await.map_err(failed)? {
        let (constraint, of, to_itself): (String, String, bool) = (row.get(0), row.get(1), row.get(2));
        let object = format!("foreign key {constraint} of {of}");
        if to_itself {
            let why = "rows refer to rows of the same table, which a merge changes in batches";
            blockers.push(blocker(object, why, "swap instead"));
            continue;
        }
        if !shape.moving.is_empty() {
            let why = format!(
                "rows whose {} changes leave the table for a moment, and rows that refer to them would go too",
                shape.moving.join(", ")
            );
            blockers.push(blocker(object, &why, "swap instead"));
            continue;
        }
        if row.get(5) {
            let why = "row-level security hides rows of its table from our role, so it cannot tell which refer to rows that go";
            blockers.push(blocker(object, why, SEE_ALL_ROWS));
            continue;
        }
        let (from, to): (Vec<String>, Vec<String>) = (row.get(3), row.get(4));
        children.push(Child { constraint, table: of, columns: from.into_iter().zip(to).collect() });
    }
    let backups = Generations::read(session, options).await?;
    blockers.extend(backups.blockers(options.keep_backups));
    Ok((Target { live, fingerprint, backups, shape, children }, blockers))
}

/// Unique index over the key; hidden rows; inheritance; rules; subscriptions.
fn facts_sql() -> String {
    format!(
        "SELECT {UNIQUE_INDEX}, row_security_active($1::oid), \
                EXISTS (SELECT FROM pg_inherits WHERE $1 IN (inhrelid, inhparent)), \
                ARRAY(SELECT rulename::text FROM pg_rewrite WHERE ev_class = $1 AND rulename <> '_RETURN' AND ev_enabled <> 'D' ORDER BY 1), \
                ARRAY(SELECT srsubid::text FROM pg_subscription_rel WHERE srrelid = $1 ORDER BY 1)"
    )
}

/// Columns of unique indexes and exclusion constraints among those that are set; all that are set, where an expression
/// is indexed.
async fn moving(session: &Client, live: &Attributes, shape: &Shape) -> Result<Vec<String>, tokio_postgres::Error> {
    let sql = "SELECT i.indexprs IS NOT NULL OR i.indpred IS NOT NULL, \
                      ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = $1 AND a.attnum = ANY (i.indkey)) \
               FROM pg_index i WHERE i.indrelid = $1 AND (i.indisunique OR i.indisexclusion)";
    let mut moving = Vec::new();
    for row in session.query(sql, &[&live.oid]).await? {
        let (any, names): (bool, Vec<String>) = (row.get(0), row.get(1));
        moving.extend(shape.set.iter().filter(|name| any || names.contains(name)).cloned());
    }
    moving.sort_unstable();
    moving.dedup();
    Ok(moving)
}

/// Foreign keys that refer to the table: name, table, whether to itself, columns of both sides, whether rows of that
/// table are hidden from our role.
const CHILDREN: &str = "SELECT k.conname::text, format('%I.%I', n.nspname, c.relname), k.conrelid = k.confrelid, \
        ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u(num, at) \
              JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.num ORDER BY u.at), \
        ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY u(num, at) \
              JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.num ORDER BY u.at), \
        row_security_active(k.conrelid) \
    FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE k.confrelid = $1 AND k.contype = 'f' ORDER BY k.conname";
