//! The phases against the reference, value by value, over random small worlds.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngSeed, TestRunner};
use racealpha::pg::quote_ident;
use racealpha::progress::Progress;
use racealpha::transform::{Engine, EngineLimits, PhaseSet, load_data_tables, run_phases, select_phases};
use tokio_util::sync::CancellationToken;

use super::generate::worlds;
use super::world::{World, insert_statements};
use super::{AS_PULLED, COLUMNS, Row, Value, reference};

/// How many worlds are compared. Another number comes from the environment, such as `PROPTEST_CASES=2000`.
const WORLDS: u32 = 32;
/// The worlds are the same in every run.
const SEED: u64 = 20_240_701;
/// The time that `build_time()` gives.
const BUILD_TIME: &str = "2024-07-01 00:00:00+00";
/// How long a failing world is made smaller.
const SHRINKING_MS_MAX: u32 = 60_000;
/// So many differences are shown of a world that has more.
const SHOWN_MAX: usize = 20;

const SCHEMA: &str = include_str!("../../../fixtures/sql/schema.sql");
/// The tables that a world fills.
const TABLES: [&str; 4] = ["races", "race_results", "race_results_sectional_times", "races_derived_sectional_margins"];

/// The rows of a dataset by `race_id` and `horse_slug`.
type Dataset = BTreeMap<(String, String), Row>;

/// An engine that runs the phases over one world after the other.
struct Phases {
    engine: Engine,
    set: PhaseSet,
}

impl Phases {
    fn open() -> Result<Self> {
        let set = PhaseSet::load(None)?;
        let limits = EngineLimits { threads: Some(2), ..EngineLimits::default() };
        let engine = Engine::open(None, &limits, CancellationToken::new())?;
        engine.execute(SCHEMA)?;
        load_data_tables(&engine, &set)?;
        engine.execute(&format!(
            "CREATE MACRO with_upcoming() AS true; CREATE MACRO build_time() AS CAST('{BUILD_TIME}' AS TIMESTAMPTZ)"
        ))?;
        Ok(Self { engine, set })
    }

    fn run(&self, world: &World) -> Result<Dataset> {
        for table in TABLES {
            self.engine.execute(&format!("DELETE FROM {table}"))?;
        }
        self.engine.execute(&insert_statements(world))?;
        run_phases(&self.engine, &select_phases(&self.set, None, None)?, &Progress::new())?;
        let columns: Vec<String> =
            ["race_id", "horse_slug"].iter().chain(&COLUMNS).map(|name| quote_ident(name)).collect();
        let sql = format!("SELECT {} FROM race_training_dataset", columns.join(", "));
        let (_, batches) = self.engine.query(&sql)?;
        let mut dataset = Dataset::new();
        for batch in &batches {
            for (key, row) in rows(batch)? {
                ensure!(dataset.insert(key.clone(), row).is_none(), "two rows for {key:?}");
            }
        }
        Ok(dataset)
    }
}

/// The rows of a batch of `race_id`, `horse_slug` and [`COLUMNS`].
fn rows(batch: &RecordBatch) -> Result<Vec<((String, String), Row)>> {
    let columns: Vec<Vec<Value>> = batch.columns().iter().map(values).collect::<Result<_>>()?;
    let text = |column: usize, row: usize| match &columns[column][row] {
        Value::Text(text) => Ok(text.clone()),
        other => Err(anyhow::anyhow!("a key is {other:?}")),
    };
    let row = |row: usize| {
        let values = columns[2..].iter().map(|column| column[row].clone());
        Ok(((text(0, row)?, text(1, row)?), COLUMNS.into_iter().zip(values).collect()))
    };
    (0..batch.num_rows()).map(row).collect()
}

/// The values of a column. Integers of all widths are alike; a type that no column should have is an error.
fn values(column: &ArrayRef) -> Result<Vec<Value>> {
    let values = match column.data_type() {
        DataType::Boolean => column.as_boolean().iter().map(Value::from).collect(),
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => {
            cast(column, &DataType::Int64)?.as_primitive::<Int64Type>().iter().map(Value::from).collect()
        }
        DataType::Float64 => column.as_primitive::<Float64Type>().iter().map(Value::from).collect(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            cast(column, &DataType::Utf8)?.as_string::<i32>().iter().map(Value::from).collect()
        }
        other => anyhow::bail!("no column should be {other}"),
    };
    Ok(values)
}

/// Whether two values are the same, doubles to the bit.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Float(one), Value::Float(other)) => one.to_bits() == other.to_bits(),
        _ => one == other,
    }
}

/// A line for each difference, with race, horse and column; none when there is none.
fn differences(from_phases: &Dataset, from_reference: &Dataset) -> Vec<String> {
    let mut found = Vec::new();
    for (race, horse) in from_phases.keys().filter(|key| !from_reference.contains_key(key)) {
        found.push(format!("race {race}, horse {horse}: the phases have a row, the reference has none"));
    }
    for ((race, horse), expected) in from_reference {
        let Some(row) = from_phases.get(&(race.clone(), horse.clone())) else {
            found.push(format!("race {race}, horse {horse}: the reference has a row, the phases have none"));
            continue;
        };
        for name in COLUMNS {
            let (phases, reference) = (&row[name], &expected[name]);
            if !is_same(phases, reference) {
                found.push(format!("race {race}, horse {horse}, {name}: phases {phases:?}, reference {reference:?}"));
            }
        }
    }
    found
}

#[test]
fn phases_agree_with_plain_loops_over_random_worlds() -> Result<()> {
    let phases = Phases::open()?;
    let cases =
        std::env::var("PROPTEST_CASES").ok().map_or(Ok(WORLDS), |cases| cases.parse()).context("PROPTEST_CASES")?;
    // Every attempt at a smaller world runs all phases, so they end after a while.
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_time: SHRINKING_MS_MAX,
        rng_seed: RngSeed::Fixed(SEED),
        ..ProptestConfig::default()
    };
    let verdict = TestRunner::new(config).run(&worlds(), |world| {
        let dataset = phases.run(&world).map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
        let found = differences(&dataset, &reference(&world));
        prop_assert!(found.is_empty(), "{}", report(&found));
        Ok(())
    });
    // `Display` has line breaks where `Debug` has `\n`: the world can be copied as SQL.
    verdict.map_err(|failure| anyhow::anyhow!("{failure}"))
}

fn report(found: &[String]) -> String {
    let mut report = format!("{} differences:\n", found.len());
    for line in found.iter().take(SHOWN_MAX) {
        let _ = writeln!(report, "{line}");
    }
    report
}

/// Every column of the dataset is covered, but for those that nothing is done to.
#[test]
fn no_feature_is_without_a_reference() -> Result<()> {
    let set = PhaseSet::load(None)?;
    let mut described: Vec<&str> =
        set.dictionary.iter().filter(|column| !column.is_dropped()).map(|column| column.name.as_str()).collect();
    let mut covered: Vec<&str> = COLUMNS.iter().chain(&AS_PULLED).copied().collect();
    described.sort_unstable();
    covered.sort_unstable();
    ensure!(described == covered, "the dictionary has {described:?}");
    Ok(())
}

/// Nothing is covered that is not listed, and the other way round; and the worlds are as small as they should be.
#[test]
fn the_reference_has_exactly_the_listed_columns() -> Result<()> {
    let mut listed = COLUMNS.to_vec();
    listed.sort_unstable();
    let config =
        ProptestConfig { failure_persistence: None, rng_seed: RngSeed::Fixed(SEED), ..ProptestConfig::default() };
    let mut runner = TestRunner::new(config);
    let world = worlds().new_tree(&mut runner).map_err(|reason| anyhow::anyhow!("{reason}"))?.current();
    let rows = reference(&world);
    ensure!(!rows.is_empty(), "a world without rows");
    for (key, row) in rows {
        ensure!(row.keys().copied().eq(listed.iter().copied()), "{key:?} has {:?}", row.keys());
    }
    Ok(())
}
