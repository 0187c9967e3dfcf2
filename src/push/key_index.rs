//! The unique index that keeps two rows with one key apart.

/// SQL that tells whether the table `$1` has a unique index over exactly the columns `$2`, an array of names in order,
/// that `ON CONFLICT` and a join by key can rely on: valid, immediate, over all rows, without expressions.
pub(super) const UNIQUE_INDEX: &str = "EXISTS (SELECT FROM pg_index i WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid \
        AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL \
        AND (SELECT array_agg(a.attname::text ORDER BY a.attname::text COLLATE \"C\") FROM pg_attribute a \
             WHERE a.attrelid = $1 AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])) = $2::text[])";
