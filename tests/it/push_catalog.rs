//! A push loses nothing: what the catalogues say of the table, and of everything bound to it, is the same before and after.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

use anyhow::{Context, Result};
use racealpha::pg::Session;
use racealpha::push::{self, MissingColumns, PushError, TargetOptions};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::push::{HeldPush, Hosted, PUSH_WAITS, difference, options, rows, until};

/// A table with everything that is carried over, and everything that can be bound to it.
const RICH: &str = include_str!("push_catalog/rich.sql");
/// Lists everything the catalogues say.
const DUMP: &str = include_str!("push_catalog/dump.sql");
/// Single changes of the rich table and what is bound to it, one a line.
const CHANGES: &str = include_str!("push_catalog/changes.sql");

/// A database with the rich table.
async fn rich(name: &str) -> Result<(Hosted, TargetOptions)> {
    let hosted = Hosted::new(name).await?;
    hosted.owner.batch_execute(RICH).await?;
    // What it has written so far is not to count as written during a push.
    hosted.owner.batch_execute("ANALYZE public.dataset; SELECT pg_stat_force_next_flush()").await?;
    let mut options = options();
    options.missing_columns = MissingColumns::Null;
    options.publications = vec!["lists".to_owned()];
    Ok((hosted, options))
}

/// Everything the catalogues say, one fact a line.
async fn dump(client: &Client) -> Result<Vec<String>> {
    // Compiling the query would take a hundred times as long as running it.
    client.batch_execute("SET search_path = pg_catalog; SET jit = off").await?;
    Ok(client.query(DUMP, &[]).await?.iter().map(|row| row.get(0)).collect())
}

const NOTHING: [String; 0] = [];

#[tokio::test(flavor = "multi_thread")]
async fn everything_attached_and_bound_survives_push_rollback_and_redo() -> Result<()> {
    let (hosted, options) = rich("push_rich").await?;
    let before = dump(&hosted.admin).await?;
    assert!(before.len() > 600, "{before:#?}");
    let plan = push::plan(&Session::open(&hosted.url, "test").await?, &options, &rows(0, 1, 1).schema()).await?;
    assert_eq!(plan.blockers, []);
    assert_eq!(plan.columns.filled_by_server, ["nr", "ticket", "twice", "made", "note"]);
    assert_eq!(plan.columns.left_null, ["span", "sire"]);
    let [stale, listeners] = plan.notes.as_slice() else { panic!("{:?}", plan.notes) };
    assert!(stale.contains("of_names"), "{stale}");
    assert!(listeners.starts_with("listeners of supabase_realtime may miss changes"), "{listeners}");
    for round in 1..=2 {
        let report = hosted.push(&options, &format!("r{round}"), rows(0, 500, round)).await?;
        assert_eq!(report.warnings, NOTHING);
        assert_eq!(difference(&before, &dump(&hosted.admin).await?), NOTHING, "push {round}");
        let sql =
            format!("SELECT count(*) FROM public.dataset WHERE round = {round} AND twice = 2 * id AND note = 'x'");
        assert_eq!(hosted.number(&sql).await?, 500);
        assert_eq!(hosted.number(&format!("SELECT \"the runs\" FROM public.rounds WHERE round = {round}")).await?, 500);
    }
    for (round, expected) in [(3, 1), (4, 2)] {
        let report = hosted.rollback(&options, &format!("r{round}")).await?;
        assert_eq!(report.warnings, NOTHING);
        assert_eq!(difference(&before, &dump(&hosted.admin).await?), NOTHING, "rollback {round}");
        assert_eq!(hosted.number("SELECT min(round)::int8 FROM public.dataset").await?, expected);
        assert_eq!(hosted.number("SELECT min(round)::int8 FROM public.rounds").await?, expected);
    }
    // Vacuumed and analyzed.
    let ready = "SELECT count(*) FROM pg_class c WHERE oid IN ('public.dataset'::regclass, 'public.rounds'::regclass)
         AND relallvisible = relpages AND EXISTS (SELECT FROM pg_stats WHERE tablename = c.relname)";
    assert_eq!(hosted.number(ready).await?, 2);
    // No number is given twice, whichever table is live.
    let next = "INSERT INTO public.dataset (id, round) VALUES (-1, 9) RETURNING nr::int8";
    hosted.owner.batch_execute("ALTER TABLE public.dataset DROP CONSTRAINT unproven").await?;
    let next: i64 = hosted.owner.query_one(next, &[]).await?.get(0);
    assert!(next > 1000 + 5 * (100 + 500 + 500 - 1), "{next}");
    assert_eq!(hosted.number("SELECT count(*) - count(DISTINCT ticket) FROM public.dataset").await?, 0);
    assert_eq!(hosted.run_schemas().await?, NOTHING);
    // What is bound to the table works on the new one.
    assert_eq!(hosted.number("SELECT public.body()").await?, 500);
    assert_eq!(hosted.texts("SELECT public.label(d) FROM public.dataset d WHERE id = 1").await?, ["horse 12"]);
    assert_eq!(hosted.number("SELECT id FROM public.latest(1)").await?, 499);
    hosted.owner.batch_execute("INSERT INTO public.names (id, round) VALUES (1000, 2); CALL public.clean()").await?;
    assert_eq!(hosted.number("SELECT count(*) FROM public.dataset WHERE id = 1000 OR id < 0").await?, 1);
    let orphan = hosted.owner.execute("INSERT INTO public.child VALUES (5000)", &[]).await.unwrap_err();
    assert_eq!(orphan.code(), Some(&SqlState::FOREIGN_KEY_VIOLATION));
    backup_is_inert(&hosted).await
}

/// The backup holds on to nothing, nothing holds on to it, and nobody but its owner gets at it.
async fn backup_is_inert(hosted: &Hosted) -> Result<()> {
    let backup = hosted.facts("public._backup_training_push").await?;
    assert!(backup[0].contains("rls t"), "{}", backup[0]);
    let strangers = backup.iter().filter(|fact| fact.starts_with("privilege") && !fact.contains("to app"));
    assert_eq!(strangers.count(), 0, "{backup:#?}");
    assert!(!backup.iter().any(|fact| fact.contains("FOREIGN KEY")), "{backup:#?}");
    assert!(!backup.iter().any(|fact| fact.starts_with("publication")), "{backup:#?}");
    for role in ["anon", "authenticated", "service_role"] {
        hosted.admin.batch_execute(&format!("SET ROLE {role}")).await?;
        let refused = hosted.admin.query("SELECT FROM public._backup_training_push", &[]).await.unwrap_err();
        hosted.admin.batch_execute("RESET ROLE").await?;
        assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{role}");
    }
    hosted.owner.batch_execute("DROP TABLE public._backup_training_push").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_single_change_shows_in_the_dump() -> Result<()> {
    let (hosted, _) = rich("push_dump").await?;
    let before = dump(&hosted.admin).await?;
    let mut unseen = Vec::new();
    for change in CHANGES.lines() {
        hosted.admin.batch_execute(&format!("BEGIN; {change}")).await.with_context(|| change.to_owned())?;
        if dump(&hosted.admin).await? == before {
            unseen.push(change);
        }
        hosted.admin.batch_execute("ROLLBACK").await?;
    }
    assert_eq!(unseen, Vec::<&str>::new());
    assert_eq!(difference(&before, &dump(&hosted.admin).await?), NOTHING);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_between_dressing_and_swap_is_carried_too() -> Result<()> {
    let (hosted, options) = rich("push_late").await?;
    hosted.owner.batch_execute("BEGIN; SELECT count(*) FROM public.dataset").await?;
    let held = HeldPush::start(&hosted, &options, "r1", rows(0, 100, 1), rows(100, 200, 1));
    held.go_on.send(()).ok();
    until(&hosted.admin, "the push waits for the lock", PUSH_WAITS).await?;
    // What is being prepared is closed to everybody else.
    for (role, relation) in [("anon", "dataset"), ("authenticated", "rounds"), ("service_role", "dataset")] {
        let read = format!("SET ROLE {role}; SELECT FROM _push_r1.{relation}");
        let refused = hosted.admin.batch_execute(&read).await.unwrap_err();
        hosted.admin.batch_execute("RESET ROLE").await?;
        assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{role}: {refused:?}");
    }
    hosted
        .admin
        .batch_execute(
            "SET ROLE app; GRANT INSERT ON public.dataset TO anon; COMMENT ON FUNCTION public.body() IS 'late';
             GRANT SELECT ON public.rounds TO anon; COMMENT ON INDEX public.rounds_last IS 'late';
             CREATE FUNCTION public.late() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT max(id) FROM public.dataset; END;
             CREATE VIEW public.late_view AS SELECT * FROM public.rounds; COMMENT ON POLICY those ON public.guarded IS 'late';
             RESET ROLE",
        )
        .await?;
    hosted
        .owner
        .batch_execute(
            "CREATE MATERIALIZED VIEW public.late_rounds AS SELECT max(round) FROM public.dataset;
             CREATE POLICY late ON public.dataset USING (round > 0); CREATE INDEX late_index ON public.dataset (made);
             ALTER TABLE public.child DROP CONSTRAINT pair; COMMIT",
        )
        .await?;
    let mut before = dump(&hosted.admin).await?;
    before.retain(|fact| !fact.contains("_push_r1"));
    let report = held.task.await??;
    assert_eq!((report.rows, report.warnings), (200, Vec::new()));
    assert_eq!(difference(&before, &dump(&hosted.admin).await?), NOTHING);
    assert_eq!(hosted.number("SELECT max::int8 FROM public.late_rounds").await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_other_tables_are_never_left_without_partner() -> Result<()> {
    let (hosted, options) = rich("push_orphans").await?;
    let before = dump(&hosted.admin).await?;
    let error = hosted.push(&options, "r1", rows(10, 500, 1)).await.unwrap_err();
    let PushError::Orphans { child, constraint, keys, .. } = &error else { panic!("{error:?}") };
    assert_eq!((child.to_string().as_str(), constraint.as_str()), ("public.child", "of_dataset"));
    assert_eq!(keys.0, "the keys are 1; 2; 3; 4; 5; 6; 7; 8; 9");
    // A round that the parent table lacks.
    let error = hosted.push(&options, "r2", rows(0, 500, 77)).await.unwrap_err();
    assert!(matches!(error, PushError::ServerRefused { step: "attach the foreign keys", .. }), "{error:?}");
    assert_eq!(difference(&before, &dump(&hosted.admin).await?), NOTHING);
    assert_eq!(hosted.run_schemas().await?, NOTHING);
    // New rows of the child may come before the rollback; their partners are in the new table only.
    hosted.push(&options, "r3", rows(0, 500, 1)).await?;
    hosted.owner.batch_execute("INSERT INTO public.child VALUES (300)").await?;
    let error = hosted.rollback(&options, "r4").await.unwrap_err();
    assert!(matches!(&error, PushError::Orphans { keys, .. } if keys.0 == "the keys are 300"), "{error:?}");
    assert_eq!(hosted.run_schemas().await?, NOTHING);
    hosted
        .owner
        .batch_execute("DELETE FROM public.child WHERE id = 300; DELETE FROM public.parent WHERE id = 0")
        .await?;
    // The old rows stand on a row of the parent table that is gone: the rollback says so and does not depend on it.
    let report = hosted.rollback(&options, "r5").await?;
    assert_eq!(report.warnings.len(), 1, "{:?}", report.warnings);
    let said = "constraint of_round of public.dataset holds for new rows only";
    assert!(report.warnings[0].starts_with(said), "{:?}", report.warnings);
    // Which row it is stays with the server: reports are kept and logged.
    assert!(!report.warnings[0].contains("(round)=(0)"), "{:?}", report.warnings);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn seven_hundred_columns_and_the_longest_names_survive() -> Result<()> {
    let hosted = Hosted::new("push_wide").await?;
    let columns: String = (0..700).map(|number| format!(", \"Column {number}\" int")).collect();
    let long = "n".repeat(62);
    let indexes: String =
        (0..6).map(|number| format!("CREATE INDEX {long}{number} ON public.dataset (\"Column {number}\");")).collect();
    hosted
        .owner
        .batch_execute(&format!(
            "CREATE TABLE public.dataset (id bigint CONSTRAINT {long}x PRIMARY KEY, name text, round int{columns}); {indexes}
             COMMENT ON COLUMN public.dataset.\"Column 699\" IS 'the last';
             CREATE MATERIALIZED VIEW public.{long}m AS SELECT * FROM public.dataset;
             CREATE INDEX {long}y ON public.{long}m (id)"
        ))
        .await?;
    let before = dump(&hosted.admin).await?;
    let mut options = options();
    options.missing_columns = MissingColumns::Null;
    let report = hosted.push(&options, "r1", rows(0, 20, 1)).await?;
    assert_eq!(report.warnings, NOTHING);
    assert!(report.swap.batch_ms < 2000.0, "{:?}", report.swap);
    assert_eq!(difference(&before, &dump(&hosted.admin).await?), NOTHING);
    hosted.rollback(&options, "r2").await?;
    assert_eq!(difference(&before, &dump(&hosted.admin).await?), NOTHING);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_would_take_columns_from_a_view_is_refused_by_name() -> Result<()> {
    let hosted = Hosted::new("push_lost_columns").await?;
    hosted.owner.batch_execute("CREATE TABLE public.dataset (id bigint PRIMARY KEY, round int)").await?;
    let mut options = options();
    options.new_columns = push::NewColumns::Add;
    hosted.push(&options, "r1", rows(0, 20, 1)).await?;
    hosted.owner.batch_execute("CREATE VIEW public.named AS SELECT name FROM public.dataset").await?;
    let before = dump(&hosted.admin).await?;
    let error = hosted.rollback(&options, "r2").await.unwrap_err();
    assert!(error.to_string().contains("view public.named: it stands on column name"), "{error}");
    assert_eq!(difference(&before, &dump(&hosted.admin).await?), NOTHING);
    Ok(())
}
