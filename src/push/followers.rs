//! What a push means for those who follow the server's changes: replication slots, which the log of a large load can cut
//! off, and listeners of Realtime.

use tokio_postgres::Client;

use crate::schema::TableName;

use super::attributes::Attributes;
use super::blockers::REALTIME_PUBLICATION;
use super::error::PushError;

/// Says who may miss changes of a table that another takes the place of.
pub(super) fn of_realtime(live: &Attributes) -> Option<String> {
    let published = live.publications.iter().any(|publication| publication.name == REALTIME_PUBLICATION);
    published.then(|| {
        format!(
            "listeners of {REALTIME_PUBLICATION} may miss changes for up to a minute after the swap, until Realtime has \
             subscribed them to the new table"
        )
    })
}

/// Says which replication slots could be cut off by a push that writes about this much of the write-ahead log: the
/// server keeps so much for them and no more.
pub(super) async fn of_slots(client: &Client, table: &TableName, wal_bytes: u64) -> Result<Option<String>, PushError> {
    // Servers before 13 know neither the state of a slot nor the setting.
    let sql = "SELECT (SELECT string_agg(slot_name::text, ', ' ORDER BY slot_name) FROM pg_catalog.pg_replication_slots s \
                       WHERE restart_lsn IS NOT NULL AND (to_jsonb(s) ->> 'wal_status') IS DISTINCT FROM 'lost'), \
                      (SELECT setting::int8 FROM pg_catalog.pg_settings WHERE name = 'max_slot_wal_keep_size')";
    let failed = |source| PushError::at("read the replication slots", table, source);
    let row = client.query_one(sql, &[]).await.map_err(failed)?;
    let (slots, kept_mb): (Option<String>, Option<i64>) = (row.get(0), row.get(1));
    Ok(slots.zip(kept_mb).and_then(|(slots, kept_mb)| slot_note(&slots, kept_mb, wal_bytes)))
}

/// `kept_mb` is negative where the server keeps all of it.
fn slot_note(slots: &str, kept_mb: i64, wal_bytes: u64) -> Option<String> {
    let kept = u64::try_from(kept_mb).ok()?;
    let written = wal_bytes.div_ceil(1 << 20);
    (written > kept / 2).then(|| {
        format!(
            "the push writes about {written} MB of write-ahead log, and replication slots ({slots}) that fall more than \
             {kept} MB behind are cut off (max_slot_wal_keep_size): see that they keep up"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_named_from_half_of_what_is_kept_for_them() {
        let note = |kept, megabytes: u64| slot_note("one, two", kept, megabytes << 20);
        assert_eq!(note(4096, 2048), None);
        assert_eq!(note(-1, 1 << 30), None);
        assert_eq!(
            note(4096, 2049).as_deref(),
            Some(
                "the push writes about 2049 MB of write-ahead log, and replication slots (one, two) that fall more than \
                 4096 MB behind are cut off (max_slot_wal_keep_size): see that they keep up"
            )
        );
    }
}
