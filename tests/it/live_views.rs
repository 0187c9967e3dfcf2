//! The views beside the live table: what an application sees of a runner today is what the dataset says of it.

use anyhow::{Context, Result};
use tokio_postgres::Client;

use crate::support::{TestDb, Workspace, racing};

/// Columns of a view, the dataset's column that each is, and the value of a runner without a row.
type Columns = &'static [(&'static str, &'static str, &'static str)];

const HORSE: Columns = &[
    ("last_5_win_rate", "last_5_win_rate", "0"),
    ("last_5_place_rate", "last_5_place_rate", "0"),
    ("last_5_avg_position", "last_5_avg_position", "NULL"),
    ("form_momentum", "form_momentum", "0"),
    ("days_since_last_race", "days_since_last_race", "NULL"),
    ("total_races", "total_races", "0"),
    ("wins", "wins", "0"),
    ("places", "places", "0"),
    ("win_percentage", "win_percentage", "0"),
    ("place_percentage", "place_percentage", "0"),
    ("consistency_score", "consistency_score", "0"),
    ("runs_last_60_days", "runs_last_60_days", "0"),
    ("runs_last_90_days", "runs_last_90_days", "0"),
    ("avg_days_between_runs", "avg_days_between_runs", "NULL"),
    ("current_elo", "horse_elo", "1200"),
    ("running_style", "running_style", "'unknown'"),
    ("early_speed_score", "early_speed_score", "0.5"),
    ("avg_early_position_800m", "avg_early_position_800m", "NULL"),
    ("avg_pos_400m", "avg_pos_400m", "NULL"),
    ("avg_late_surge", "avg_late_surge", "NULL"),
    ("closing_ability_score", "closing_ability_score", "0.5"),
    ("avg_pos_200m", "avg_pos_200m", "NULL"),
    ("early_speed_pct", "early_speed_pct", "NULL"),
    ("strong_finish_pct", "strong_finish_pct", "NULL"),
    ("pos_volatility_800", "pos_volatility_800", "NULL"),
    ("finishing_kick_consistency", "finishing_kick_consistency", "NULL"),
    ("avg_sectional_400m", "avg_sectional_400m", "NULL"),
    ("sectional_time_consistency", "sectional_time_consistency", "NULL"),
    ("historical_speed_vs_field", "historical_speed_vs_field", "NULL"),
];
const JOCKEY: Columns = &[
    ("jockey_win_rate", "jockey_win_rate", "0"),
    ("jockey_place_rate", "jockey_place_rate", "0"),
    ("avg_position_20", "jockey_avg_position_20", "6"),
    ("avg_position_50", "jockey_avg_position_50", "6"),
];
const TRAINER: Columns = &[
    ("trainer_win_rate", "trainer_win_rate", "0"),
    ("trainer_place_rate", "trainer_place_rate", "0"),
    ("avg_position_50", "trainer_avg_position_50", "6"),
    ("avg_position_100", "trainer_avg_position_100", "6"),
];
const JOCKEY_AND_HORSE: Columns = &[
    ("connection_races", "jockey_horse_connection_races", "0"),
    ("connection_wins", "jockey_horse_connection_wins", "0"),
    ("connection_win_rate", "jockey_horse_connection_win_rate", "0"),
];
const JOCKEY_AND_TRAINER: Columns = &[
    ("connection_races", "jockey_trainer_connection_races", "0"),
    ("connection_wins", "jockey_trainer_connection_wins", "0"),
    ("connection_win_rate", "jockey_trainer_connection_win_rate", "0"),
];
/// The views with the columns that lead to their rows.
const VIEWS: [(&str, &[&str], Columns); 5] = [
    ("horse_current_form", &["horse_location_slug"], HORSE),
    ("jockey_current_form", &["jockey_location_slug"], JOCKEY),
    ("trainer_current_form", &["trainer_location_slug"], TRAINER),
    ("jockey_horse_connection_stats", &["horse_location_slug", "jockey_slug"], JOCKEY_AND_HORSE),
    ("jockey_trainer_connection_stats", &["jockey_slug", "trainer_slug"], JOCKEY_AND_TRAINER),
];

/// A source whose races to come are today's, and the workspace that has rebuilt it with them.
async fn rebuilt_for_today(name: &str) -> Result<(TestDb, Client, Workspace)> {
    let db = racing(name, 800).await?;
    let client = db.client().await?;
    client
        .batch_execute("UPDATE races SET race_date = race_date + (CURRENT_DATE - (SELECT max(race_date) FROM races))")
        .await?;
    let workspace = Workspace::at(db.url())?;
    workspace.run(["pull"])?.ok()?;
    workspace.run(["run", "--with-upcoming"])?.ok()?;
    Ok((db, client, workspace))
}

fn push<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["--json", "push", "--set", "validate.min_rows=1"], more].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn todays_form_is_what_the_dataset_says_of_todays_runners() -> Result<()> {
    let (_db, client, workspace) = rebuilt_for_today("views").await?;
    workspace.run(push(&["horse_elo_ratings"]))?.ok()?;
    let report = workspace.run(push(&["--set", "target.views=true"]))?.ok()?.json()?;
    assert_eq!(report["views"]["created"].as_bool(), Some(true), "{report:#}");

    for (view, keys, columns) in VIEWS {
        let join: Vec<String> = keys.iter().map(|key| format!("v.{key} = d.{key}")).collect();
        for (column, feature, otherwise) in columns {
            let sql = format!(
                "SELECT count(*), count(v.{0}), \
                        count(*) FILTER (WHERE d.{feature} IS DISTINCT FROM \
                                               CASE WHEN v.{0} IS NULL THEN {otherwise} ELSE v.{column} END) \
                 FROM race_training_dataset AS d LEFT JOIN {view} AS v ON {1} \
                 WHERE d.final_position IS NULL AND d.race_date = CURRENT_DATE",
                keys[0],
                join.join(" AND ")
            );
            let row = client.query_one(&sql, &[]).await.with_context(|| sql.clone())?;
            let (runners, found, different): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
            assert!(runners > 20, "{runners} runners today");
            assert!(found > 0, "{view} has none of today's runners");
            assert_eq!(different, 0, "{view}.{column} differs from {feature} for {different} of {runners} runners");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn views_keep_their_privileges_and_are_refreshed_while_their_sql_stays_the_same() -> Result<()> {
    let (_db, client, workspace) = rebuilt_for_today("views_again").await?;
    let with_views = push(&["--set", "target.views=true"]);
    workspace.run(&with_views)?.ok()?;
    client
        .batch_execute(
            "DO $$ BEGIN CREATE ROLE form_reader; EXCEPTION WHEN duplicate_object THEN NULL; END $$; \
             GRANT SELECT ON horse_current_form TO form_reader; DELETE FROM race_results",
        )
        .await?;
    let rows = async || {
        Ok::<i64, anyhow::Error>(client.query_one("SELECT count(*) FROM horse_current_form", &[]).await?.get(0))
    };
    assert!(rows().await? > 0);

    let report = workspace.run(&with_views)?.ok()?.json()?;
    assert_eq!(report["views"]["created"].as_bool(), Some(false), "{report:#}");
    assert_eq!(rows().await?, 0, "refreshed from the emptied table");

    // Made by other SQL, as the comment says.
    client.batch_execute("COMMENT ON MATERIALIZED VIEW jockey_current_form IS 'by hand'").await?;
    let report = workspace.run(&with_views)?.ok()?.json()?;
    assert_eq!(report["views"]["created"].as_bool(), Some(true), "{report:#}");
    let granted = "SELECT has_table_privilege('form_reader', 'horse_current_form', 'SELECT')";
    assert!(client.query_one(granted, &[]).await?.get::<_, bool>(0));

    let left = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE '\\_push\\_%'";
    assert_eq!(client.query_one(left, &[]).await?.get::<_, i64>(0), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn views_that_cannot_be_made_leave_the_push_and_the_old_views() -> Result<()> {
    let (_db, client, workspace) = rebuilt_for_today("views_fail").await?;
    client.batch_execute("CREATE TABLE jockey_current_form (mine text)").await?;
    let ran = workspace.run(push(&["--set", "target.views=true"]))?;
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("public.race_training_dataset is up to date"), "{}", ran.stderr);
    assert!(ran.stderr.contains("jockey_current_form"), "{}", ran.stderr);
    let upcoming = "SELECT count(*) FROM race_training_dataset WHERE final_position IS NULL";
    assert!(client.query_one(upcoming, &[]).await?.get::<_, i64>(0) > 0, "the push is done");
    client.query_one("SELECT count(mine) FROM jockey_current_form", &[]).await?;
    Ok(())
}
