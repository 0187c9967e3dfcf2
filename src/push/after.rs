//! What is left to do once a swap has committed, because it takes locks on other tables.
//!
//! Everything is read from the backup and its marker, so whatever a lost connection left undone, the next push does.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::schema::TableName;

use super::attributes;
use super::backup::Marker;
use super::error::PushError;
use super::foreign_keys;

/// Takes the backup's foreign keys off it and validates those of other tables that the swap bound to the new table.
/// Answers what could not be done; the swap stands.
pub(super) async fn finish(client: &Client, table: &TableName, backup: &TableName) -> Result<Vec<String>, PushError> {
    let failed = |source| PushError::at("finish the swap", table, source);
    let Some(attributes) = attributes::read_relation(client, backup).await? else { return Ok(Vec::new()) };
    let Some(mut marker) = Marker::read(attributes.comment.as_deref(), table) else { return Ok(Vec::new()) };
    let mut warnings = Vec::new();
    if let Err(error) = foreign_keys::detach(client, backup, &attributes).await {
        warnings.push(format!("the foreign keys of {backup} could not be dropped: {}", said(&error)));
    }
    let to_validate = std::mem::take(&mut marker.to_validate);
    if to_validate.is_empty() {
        return Ok(warnings);
    }
    for (child, name) in to_validate {
        match foreign_keys::validate(client, &child, &name).await {
            Ok(()) => {}
            // Dropped since.
            Err(error)
                if [SqlState::UNDEFINED_OBJECT, SqlState::UNDEFINED_TABLE]
                    .iter()
                    .any(|code| error.code() == Some(code)) => {}
            Err(error) => {
                warnings.push(format!(
                    "constraint {name} of {child} holds for new rows only: {}; see to its rows, the next push validates it",
                    said(&error)
                ));
                marker.to_validate.push((child, name));
            }
        }
    }
    client.batch_execute(&marker.comment_on(backup)).await.map_err(failed)?;
    Ok(warnings)
}

/// What the server said, or the client; not its detail, which holds values of rows and would stand in the log.
pub(super) fn said(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |said| said.message().to_owned())
}
