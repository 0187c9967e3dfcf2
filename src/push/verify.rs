//! Whether what arrived is what the lake holds, and whether it is enough.

use tokio_postgres::Client;

use crate::pg::quote_table;
use crate::schema::TableName;

use super::copy_in::Loaded;
use super::error::PushError;
use super::options::TargetOptions;
use super::tally::ServerForms;

/// Aggregates asked for at once; a row of the server has at most 1664 columns.
const AGGREGATES_MAX: usize = 1600;

/// Refuses a dataset that is much smaller than the live table: rather something went wrong on the way than that so many
/// rows are gone. Answers the live table's rows, if they had to be counted.
pub(super) async fn enough_rows(client: &Client, options: &TargetOptions, rows: u64) -> Result<Option<u64>, PushError> {
    let table = &options.table;
    if options.min_rows_of_live <= 0.0 {
        return Ok(None);
    }
    let sql = format!("SELECT count(*) FROM {}", quote_table(table));
    let failed = |source| PushError::at("count the live table's rows", table, source);
    let live: i64 = client.query_one(&sql, &[]).await.map_err(failed)?.get(0);
    let live = u64::try_from(live).unwrap_or(0);
    let least = least_rows(live, options.min_rows_of_live);
    if rows < least { Err(PushError::TooFewRows { table: table.clone(), rows, live, least }) } else { Ok(Some(live)) }
}

/// The least rows that are a share of the live table's, in whole thousandths.
pub fn least_rows(live: u64, share: f64) -> u64 {
    /// Shares are compared to three digits.
    const WHOLE: u128 = 1000;
    let thousandths = format!("{:.0}", share.clamp(0.0, 1.0) * 1000.0).parse::<u128>().unwrap_or(WHOLE);
    u64::try_from((u128::from(live) * thousandths).div_ceil(WHOLE)).unwrap_or(u64::MAX)
}

/// Asks the server for the rows and each column's values, least, greatest and sum, and compares with what the
/// lake holds.
///
/// One pass over the table answers for a few hundred columns; a parallel plan cannot have more aggregates.
pub(super) async fn check(
    client: &Client,
    table: &TableName,
    staging: &TableName,
    loaded: &Loaded,
) -> Result<(), PushError> {
    let differs = |what| PushError::Verify { table: table.clone(), what };
    let mut tallies = loaded.tallies.as_slice();
    loop {
        let mut asked: Vec<String> = Vec::new();
        let mut lengths = Vec::new();
        for tally in tallies {
            let expressions = tally.expressions();
            if asked.len() + expressions.len() > AGGREGATES_MAX {
                break;
            }
            lengths.push(expressions.len());
            asked.extend(expressions);
        }
        let answers = ask(client, table, staging, &asked).await?;
        let (about_server, answers) = answers.split_at_checked(2).unwrap_or_default();
        let server = ServerForms::of(about_server);
        let (rows, mut answers) = answers.split_first().ok_or_else(|| differs("no rows were counted".to_owned()))?;
        let rows = rows.as_deref().and_then(|rows| rows.parse().ok()).unwrap_or(0);
        if rows != loaded.rows {
            return Err(differs(format!("{rows} rows arrived of {}", loaded.rows)));
        }
        let (now, later) = tallies.split_at_checked(lengths.len()).unwrap_or_default();
        for (tally, length) in now.iter().zip(lengths) {
            let (of_column, rest) = answers.split_at_checked(length).unwrap_or_default();
            if let Some(what) = tally.difference(rows, of_column, server) {
                return Err(differs(what));
            }
            answers = rest;
        }
        if later.is_empty() {
            return Ok(());
        }
        tallies = later;
    }
}

async fn ask(
    client: &Client,
    table: &TableName,
    staging: &TableName,
    asked: &[String],
) -> Result<Vec<Option<String>>, PushError> {
    let rows = std::iter::once("count(*)::text".to_owned());
    let all: Vec<String> = rows.chain(asked.iter().cloned()).collect();
    let sql = format!("SELECT ARRAY[{}, {}] FROM {}", ServerForms::SQL, all.join(", "), quote_table(staging));
    let row = client.query_one(&sql, &[]).await.map_err(|source| PushError::at("verify the load", table, source))?;
    Ok(row.get(0))
}
