//! The dataset beside the live table: only the columns that a merge writes, with a unique index over the key.

use arrow::record_batch::RecordBatch;
use futures::Stream;
use tokio_postgres::Client;

use crate::pg::{quote_ident, quote_table};
use crate::progress::{Progress, Step};
use crate::push::columns::ColumnMatch;
use crate::push::copy_in::{self, Dataset, Loaded};
use crate::push::error::{BoxError, PushError};
use crate::push::options::TargetOptions;
use crate::push::run_schema::RunSchema;

use super::sql::name_list;

/// What takes rows that the server has to cast, in the run schema.
const RAW_TABLE: &str = "_raw";
const OTHER_RAW_TABLE: &str = "_raw_rows";

/// Loads the dataset into the run schema's table of the live table's name.
pub(super) async fn stage<S>(
    client: &Client,
    options: &TargetOptions,
    columns: &ColumnMatch,
    schema: &RunSchema,
    dataset: Dataset<S>,
    progress: &Progress,
) -> Result<Loaded, PushError>
where
    S: Stream<Item = Result<RecordBatch, BoxError>> + Send,
{
    let table = &options.table;
    let failed = |step| move |source| PushError::at(step, table, source);
    let staging = schema.table(table.name());
    let raw_name = if table.name() == RAW_TABLE { OTHER_RAW_TABLE } else { RAW_TABLE };
    let raw = (!columns.cast_by_server.is_empty()).then(|| schema.table(raw_name));
    // Columns that shall be null are not loaded, so they are.
    let names = columns.load.iter().map(|(_, column)| &column.name).chain(&columns.left_null);
    let names: Vec<String> = names.map(|name| quote_ident(name)).collect();
    let mut sql = vec![
        "BEGIN".to_owned(),
        schema.create_sql(),
        format!(
            "CREATE TABLE {} WITH (autovacuum_enabled = off) AS SELECT {} FROM ONLY {} WITH NO DATA",
            quote_table(&staging),
            names.join(", "),
            quote_table(table)
        ),
    ];
    sql.extend(raw.as_ref().map(|raw| columns.create_raw(raw)));
    client.batch_execute(&sql.join(";")).await.map_err(failed("create the staging table"))?;
    let work = progress.start(Step::Push, table.to_string(), Some(dataset.rows));
    let (into, rate) = (raw.as_ref().unwrap_or(&staging), options.merge.max_wal_rate);
    let loaded = copy_in::load(client, options, into, columns, dataset, &work, rate).await?;
    if let Some(raw) = &raw {
        let loaded: Vec<String> = columns.load.iter().map(|(_, column)| quote_ident(&column.name)).collect();
        let fill = format!(
            "INSERT INTO {} ({}) SELECT {} FROM {raw}; DROP TABLE {raw}",
            quote_table(&staging),
            loaded.join(", "),
            columns.cast_values().join(", "),
            raw = quote_table(raw)
        );
        client.batch_execute(&fill).await.map_err(failed("cast the columns loaded as text"))?;
    }
    client.batch_execute("COMMIT").await.map_err(failed("commit the load"))?;
    work.finish();
    let work = progress.start(Step::Push, "index of the key", None);
    let index = format!("CREATE UNIQUE INDEX ON {} ({})", quote_table(&staging), name_list(&options.key));
    client.batch_execute(&index).await.map_err(failed("keep rows with one key apart"))?;
    let analyze = format!("VACUUM (ANALYZE) {}", quote_table(&staging));
    client.batch_execute(&analyze).await.map_err(failed("analyze the staging table"))?;
    work.finish();
    Ok(loaded)
}
