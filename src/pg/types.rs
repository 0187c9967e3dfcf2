//! Types from the catalogue: what an oid stands for, with all that it consists of.

use std::collections::HashMap;

use serde::Deserialize;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::schema::{ARRAY_DIMENSIONS_MAX, CompositeField, NO_TYPMOD, PgType, TypeRef};

/// Types within types beyond this depth are carried as text.
const DEPTH_MAX: u8 = 16;
/// `money`, whose fraction digits are a setting of the server.
const MONEY: u32 = 790;

/// All types that some oids stand for or consist of.
#[derive(Debug, Default)]
pub struct TypeCatalog {
    rows: HashMap<u32, TypeRow>,
    money_scale: u8,
}

/// A column's type with its domains resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedType {
    /// The oid of the base type.
    pub oid: u32,
    /// The type modifier, which a domain may bring.
    pub typmod: i32,
    /// The type.
    pub pg_type: PgType,
}

#[derive(Debug, Deserialize)]
struct TypeRow {
    oid: u32,
    name: String,
    /// `typtype`
    kind: char,
    /// The element's oid, only of true arrays.
    element: Option<u32>,
    base: u32,
    base_typmod: i32,
    dimensions: i32,
    /// What the bounds of a range or multirange are.
    bound: Option<u32>,
    labels: Option<Vec<String>>,
    attributes: Option<Vec<AttributeRow>>,
    extension: Option<String>,
}

#[derive(Debug, Deserialize)]
struct AttributeRow {
    name: String,
    type_oid: u32,
    typmod: i32,
    dimensions: i32,
}

/// Rows of `pg_type` for some oids and everything that they consist of, as one JSON text. `to_jsonb` reads what
/// servers before 14 lack.
const TYPES_SQL: &str = "WITH RECURSIVE used(oid) AS ( \
         SELECT unnest($1::oid[]) \
       UNION \
         SELECT part.oid FROM used JOIN pg_type t ON t.oid = used.oid, LATERAL ( \
             SELECT t.typelem WHERE t.typelem <> 0 \
             UNION ALL SELECT t.typbasetype WHERE t.typbasetype <> 0 \
             UNION ALL SELECT r.rngsubtype FROM pg_range r \
                 WHERE t.oid IN (r.rngtypid, (to_jsonb(r) ->> 'rngmultitypid')::oid) \
             UNION ALL SELECT a.atttypid FROM pg_attribute a \
                 WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) part(oid)) \
     SELECT coalesce(json_agg(json_build_object( \
         'oid', t.oid::bigint, 'name', t.typname, 'kind', t.typtype, \
         'element', (SELECT e.oid::bigint FROM pg_type e WHERE e.oid = t.typelem AND e.typarray = t.oid), \
         'base', t.typbasetype::bigint, 'base_typmod', t.typtypmod, 'dimensions', t.typndims, \
         'bound', (SELECT r.rngsubtype::bigint FROM pg_range r \
              WHERE t.oid IN (r.rngtypid, (to_jsonb(r) ->> 'rngmultitypid')::oid)), \
         'labels', (SELECT json_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid), \
         'attributes', (SELECT json_agg(json_build_object('name', a.attname, 'type_oid', a.atttypid::bigint, \
                  'typmod', a.atttypmod, 'dimensions', a.attndims) ORDER BY a.attnum) FROM pg_attribute a \
              WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped), \
         'extension', (SELECT x.extname FROM pg_depend d JOIN pg_extension x ON x.oid = d.refobjid \
              WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e' \
                AND d.refclassid = 'pg_extension'::regclass))), '[]')::text \
     FROM pg_type t WHERE t.oid IN (SELECT oid FROM used)";

/// The smallest unit of one unit of money, which is a setting of the server.
const MONEY_SQL: &str = "SELECT length(('x' || encode(cash_send(1::money), 'hex'))::bit(64)::bigint::text) - 1";

impl TypeCatalog {
    /// Reads what the oids stand for; asks the server only when there is one that its number does not tell.
    ///
    /// # Errors
    /// The client's.
    pub async fn load(client: &Client, oids: &[u32]) -> Result<Self, tokio_postgres::Error> {
        let unknown: Vec<u32> =
            oids.iter().copied().filter(|oid| PgType::from_catalogue(*oid, NO_TYPMOD).is_none()).collect();
        if unknown.is_empty() {
            return Ok(Self::default());
        }
        let text: String = client.query_typed_one(TYPES_SQL, &[(&unknown, Type::OID_ARRAY)]).await?.get(0);
        // A row this program cannot read leaves its type to be carried as text.
        let rows: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap_or_default();
        let rows = rows.into_iter().filter_map(|row| serde_json::from_value::<TypeRow>(row).ok());
        let rows: HashMap<u32, TypeRow> = rows.map(|row| (row.oid, row)).collect();
        let money_scale = match rows.contains_key(&MONEY) {
            true => client.query_typed_one(MONEY_SQL, &[]).await?.get::<_, i32>(0),
            false => 0,
        };
        Ok(Self { rows, money_scale: u8::try_from(money_scale).unwrap_or(0) })
    }

    /// What a column's type is; one that contains something without a known binary form is carried as text.
    pub fn resolve(&self, oid: u32, typmod: i32, dimensions: i32) -> ResolvedType {
        let mut resolved = self.tree(oid, typmod, dimensions, 0);
        if resolved.pg_type.is_via_text() {
            resolved.pg_type = PgType::ViaText;
        }
        resolved
    }

    fn tree(&self, oid: u32, typmod: i32, dimensions: i32, depth: u8) -> ResolvedType {
        let found = |pg_type| ResolvedType { oid, typmod, pg_type };
        if oid == MONEY {
            return found(PgType::Money { scale: self.money_scale });
        }
        if let Some(known) = PgType::from_catalogue(oid, typmod) {
            return found(known);
        }
        let Some(row) = self.rows.get(&oid).filter(|_| depth < DEPTH_MAX) else { return found(PgType::ViaText) };
        let part = |oid, typmod, dimensions| TypeRef {
            oid,
            typmod,
            pg_type: self.tree(oid, typmod, dimensions, depth + 1).pg_type,
        };
        found(match (row.kind, row.element, row.bound) {
            ('d', ..) => {
                let typmod = if row.base_typmod == NO_TYPMOD { typmod } else { row.base_typmod };
                return self.tree(row.base, typmod, row.dimensions.max(dimensions), depth + 1);
            }
            ('e', ..) => PgType::Enum { labels: row.labels.clone().unwrap_or_default() },
            ('r', _, Some(bound)) => PgType::Range(Box::new(part(bound, NO_TYPMOD, 0))),
            ('m', _, Some(bound)) => PgType::Multirange(Box::new(part(bound, NO_TYPMOD, 0))),
            ('c', ..) => {
                let attributes = row.attributes.iter().flatten();
                let fields: Vec<CompositeField> = attributes
                    .map(|attribute| CompositeField {
                        name: attribute.name.clone(),
                        of: part(attribute.type_oid, attribute.typmod, attribute.dimensions),
                    })
                    .collect();
                // Parquet has no group without fields.
                if fields.is_empty() { PgType::ViaText } else { PgType::Composite { fields } }
            }
            ('b', Some(element), _) => PgType::Array {
                element: Box::new(part(element, typmod, 0)),
                dimensions: u8::try_from(usize::try_from(dimensions).unwrap_or(1).clamp(1, ARRAY_DIMENSIONS_MAX))
                    .unwrap_or(1),
                lower_bound: 1,
            },
            _ => row.of_extension(typmod),
        })
    }
}

impl TypeRow {
    /// The type of an extension, told by both names: another extension's `vector` is another type.
    fn of_extension(&self, typmod: i32) -> PgType {
        let dimensions = u32::try_from(typmod).ok();
        match (self.extension.as_deref(), self.name.as_str()) {
            (Some("citext"), "citext") => PgType::Citext,
            (Some("hstore"), "hstore") => PgType::Hstore,
            (Some("ltree"), "ltree" | "lquery" | "ltxtquery") => PgType::VersionedText,
            (Some("vector"), "vector") => PgType::Vector { dimensions },
            (Some("vector"), "halfvec") => PgType::HalfVector { dimensions },
            (Some("postgis"), "geometry" | "geography") => PgType::Geometry,
            _ => PgType::ViaText,
        }
    }
}
