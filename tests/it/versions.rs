//! The other versions of Postgres: what `script/bootstrap --versions` has fetched of them holds every type and every kind of table,
//! and takes a push and a rollback as the installed one does.

use std::env;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use nix::unistd::Uid;
use racealpha::pg::{LocalServer, ServerOptions};
use tokio_postgres::Client;

use crate::support::{Workspace, cluster, connect};
use crate::{sources, types};

/// The supported major versions.
const MAJORS: std::ops::RangeInclusive<u32> = 13..=18;

/// A live table with what has changed from version to version: constraints, generated columns, privileges.
const LIVE: &str = "
    CREATE TABLE source (id int PRIMARY KEY, v text NOT NULL, f float8);
    INSERT INTO source SELECT i, 'v' || i, i FROM generate_series(1, 1000) i;
    CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent SELECT generate_series(1, 1000);
    CREATE TABLE t (
        id int PRIMARY KEY REFERENCES parent, v text CONSTRAINT named NOT NULL CONSTRAINT filled CHECK (v <> ''), f float8,
        made timestamptz DEFAULT now(), twice float8 GENERATED ALWAYS AS (f * 2) STORED);
    INSERT INTO t (id, v, f) VALUES (7, 'old', 1);
    CREATE TABLE child (id int REFERENCES t DEFERRABLE); INSERT INTO child VALUES (7);
    CREATE INDEX t_lower ON t (lower(v)) WHERE f > 1; CREATE STATISTICS t_both ON id, f FROM t;
    CREATE VIEW seen AS SELECT id, v, twice FROM t; CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS n FROM t;
    CREATE ROLE reader; GRANT SELECT ON t, seen TO reader; COMMENT ON COLUMN t.v IS 'words';
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TRIGGER touched BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION touch();";

/// What only a version and those after it have.
const NEWER: [(u32, &str); 4] = [
    (14, "ALTER TABLE t ALTER v SET COMPRESSION pglz"),
    (15, "ALTER TABLE t ADD CONSTRAINT once UNIQUE NULLS NOT DISTINCT (v, f)"),
    (17, "GRANT MAINTAIN ON t TO reader"),
    (
        18,
        "ALTER TABLE t ADD lazy float8 GENERATED ALWAYS AS (f * 3) VIRTUAL; ALTER TABLE source ADD lazy float8 GENERATED ALWAYS AS (f * 3) VIRTUAL;
         ALTER TABLE t ADD CONSTRAINT loose CHECK (f < 0) NOT ENFORCED;
         CREATE EXTENSION btree_gist; ALTER TABLE t ADD span int4range NOT NULL DEFAULT '[1,2)', ADD CONSTRAINT one_at_a_time UNIQUE (id, span WITHOUT OVERLAPS)",
    ),
];

/// Every fact about the live table and what is bound to it.
const FACTS: &str = "
    SELECT format('%s column %s %s %s %s %s', a.attrelid::regclass, a.attname, format_type(a.atttypid, a.atttypmod),
                  a.attnotnull, to_jsonb(a) ->> 'attcompression', a.attgenerated::text || coalesce(pg_get_expr(d.adbin, d.adrelid), ''))
    FROM pg_attribute a LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
    WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attrelid IN ('t'::regclass, 'seen'::regclass, 'counted'::regclass)
    UNION ALL SELECT format('%s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid)) FROM pg_constraint
    WHERE conrelid IN ('t'::regclass, 'child'::regclass)
    UNION ALL SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 't'::regclass
    UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 't'::regclass AND NOT tgisinternal
    UNION ALL SELECT pg_get_statisticsobjdef(oid) FROM pg_statistic_ext
    WHERE stxrelid = 't'::regclass
    UNION ALL SELECT format('%s %s', oid::regclass, relacl) FROM pg_class WHERE oid IN ('t'::regclass, 'seen'::regclass)
    UNION ALL SELECT pg_get_viewdef('seen'::regclass)
    UNION ALL SELECT col_description('t'::regclass, 2)
    ORDER BY 1";

const PIPELINE: &str = "[[tables]]\nname = \"source\"\nkey = [\"id\"]\n[dataset]\nname = \"d\"\nkey = [\"id\"]\nphases = \"sql\"\n\
                        [target]\ntable = \"t\"\nbackup = \"t_backup\"\n";
const PHASE: &str = "-- grain: one row per row of the source\n-- reads: source\n-- writes: d\n-- why: all rows\n\
                     CREATE TABLE d AS SELECT id, v, f FROM source;\n";

/// Where `script/bootstrap` puts the programs of a version. The server's user may not enter root's own folder.
fn fetched(major: u32) -> Result<PathBuf> {
    let cache = if Uid::effective().is_root() {
        PathBuf::from("/var/cache")
    } else if let Some(cache) = env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty()) {
        PathBuf::from(cache)
    } else {
        PathBuf::from(env::var_os("HOME").context("a home")?).join(".cache")
    };
    Ok(cache.join("racealpha/postgres").join(major.to_string()).join("bin"))
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::print_stderr, reason = "which versions were there is part of the result")]
async fn every_version_there_is_holds_all_types_and_tables_and_takes_a_push() -> Result<()> {
    // All other tests run on this one.
    let installed = cluster().major_version();
    for major in MAJORS.filter(|major| *major != installed) {
        let programs = fetched(major)?;
        if !programs.join("postgres").exists() {
            eprintln!("PostgreSQL {major} is not there; script/bootstrap --versions fetches it where npm can");
            continue;
        }
        let begun = Instant::now();
        let options = ServerOptions::default().programs(programs).set("shared_buffers", "32MB");
        let server = LocalServer::start(&options)?;
        assert_eq!(server.major_version(), major);
        all_on(&server).await.with_context(|| format!("on PostgreSQL {}", server.version()))?;
        eprintln!("PostgreSQL {}: all hold, in {:.1} s", server.version(), begun.elapsed().as_secs_f64());
    }
    Ok(())
}

async fn all_on(server: &LocalServer) -> Result<()> {
    let url = server.create_database("types").await?;
    types::there_and_back(url.as_str(), server.major_version()).await.context("types")?;
    let url = server.create_database("sources").await?;
    sources::every_kind_and_name(url.as_str()).await.context("tables")?;
    let url = server.create_database("pushes").await?;
    rebuilt_and_rolled_back(url.as_str(), server.major_version()).await.context("push")
}

/// A rebuild replaces the rows and nothing else, a rollback brings them back, and another one the new ones.
async fn rebuilt_and_rolled_back(url: &str, version: u32) -> Result<()> {
    let client = connect(url).await?;
    client.batch_execute(LIVE).await?;
    for (_, sql) in NEWER.iter().filter(|(since, _)| version >= *since) {
        client.batch_execute(sql).await?;
    }
    let before = facts(&client).await?;
    let workspace = Workspace::at(url)?;
    std::fs::create_dir(workspace.path().join("sql"))?;
    std::fs::write(workspace.path().join("sql/01_all.sql"), PHASE)?;
    std::fs::write(workspace.path().join("pipeline.toml"), PIPELINE)?;
    for (command, rows) in [("rebuild", 1000), ("rollback", 1), ("rollback", 1000)] {
        workspace.run([command])?.ok()?;
        assert_eq!(facts(&client).await?, before, "{command}");
        let counts = "SELECT count(*), (SELECT n FROM counted), count(*) FILTER (WHERE twice = 2 * f) FROM t";
        let counts = client.query_one(counts, &[]).await?;
        assert_eq!([0, 1, 2].map(|column| counts.get::<_, i64>(column)), [rows; 3], "{command}");
    }
    if version >= 18 {
        let lazy = workspace.run(["--json", "query", "SELECT count(*) AS n FROM source WHERE lazy = 3 * f"])?.ok()?;
        assert_eq!(lazy.json()?[0]["n"], 1000, "virtual columns are pulled");
    }
    Ok(())
}

async fn facts(client: &Client) -> Result<Vec<Option<String>>> {
    Ok(client.query(FACTS, &[]).await?.iter().map(|row| row.get(0)).collect())
}
