//! Whether what arrived is what was sent: the row count, and the nulls of every column.

use tokio_postgres::Client;

use crate::pg::{quote_ident, quote_table};
use crate::schema::TableName;

use super::columns::ColumnMatch;
use super::copy_in::Loaded;
use super::error::PushError;

/// Counts rows and nulls on the server and compares them with the encoder's counts.
pub(super) async fn check(
    client: &Client,
    table: &TableName,
    staging: &TableName,
    columns: &ColumnMatch,
    loaded: &Loaded,
) -> Result<(), PushError> {
    // A column that refuses nulls has none.
    let nullable: Vec<_> = columns.load.iter().zip(&loaded.nulls).filter(|((_, column), _)| !column.not_null).collect();
    let counts = nullable.iter().map(|((_, column), _)| format!(", count({})", quote_ident(&column.name)));
    let sql = format!("SELECT ARRAY[count(*){}] FROM {}", counts.collect::<String>(), quote_table(staging));
    let row = client.query_one(&sql, &[]).await.map_err(|source| PushError::at("verify the load", table, source))?;
    let counts: Vec<i64> = row.get(0);
    let mut counts = counts.into_iter().map(|count| u64::try_from(count).unwrap_or(0));
    let rows = counts.next().unwrap_or(0);
    let differs = |what| PushError::Verify { table: table.clone(), what };
    if rows != loaded.rows {
        return Err(differs(format!("{rows} rows arrived of {}", loaded.rows)));
    }
    for (((_, column), nulls), present) in nullable.into_iter().zip(counts) {
        if rows - present != *nulls {
            let found = rows - present;
            return Err(differs(format!("column {} has {found} nulls and was sent with {nulls}", column.name)));
        }
    }
    Ok(())
}
