//! Statements of the swap that bind what depends on the table to the one that now carries the live name.
//!
//! Each runs the text that was read before, unchanged: the name in it now means the new table.

use crate::pg::{quote_ident, quote_literal, quote_table};
use crate::schema::TableName;

use super::dependents::{BoundPolicy, Dependents, ForeignKeyIn, Function, Rule, View};
use super::staging;

/// Drops functions over the row type, while that type still has its name.
pub(super) fn drop_functions(dependents: &Dependents) -> Vec<String> {
    let functions = dependents.functions.iter().filter(|function| function.has_row_type);
    functions.map(|function| format!("DROP ROUTINE {}", function.signature)).collect()
}

/// Binds views, functions with a body of statements, policies, rules and foreign keys. They keep their identity, so
/// owner, privileges, comments and whatever depends on them stay, except for foreign keys, which are made anew and
/// checked after the swap.
pub(super) fn bind(dependents: &Dependents) -> Vec<String> {
    let bodies = dependents.functions.iter().filter(|function| !function.has_row_type);
    let mut sql: Vec<String> = dependents.views.iter().map(view).collect();
    sql.extend(bodies.filter_map(|function| function.definition.clone()));
    sql.extend(dependents.rules.iter().filter(|rule| !rule.own).flat_map(rule));
    sql.extend(dependents.policies.iter().map(policy));
    sql.extend(dependents.foreign_keys.iter().flat_map(foreign_key));
    sql
}

/// The table's own rules, made anew.
pub(super) fn own_rules(dependents: &Dependents) -> Vec<String> {
    dependents.rules.iter().filter(|rule| rule.own).flat_map(rule).collect()
}

/// Makes functions over the row type anew.
pub(super) fn create_functions(dependents: &Dependents) -> Vec<String> {
    dependents.functions.iter().filter(|function| function.has_row_type).flat_map(create_function).collect()
}

fn view(view: &View) -> String {
    let options = view.options.iter().filter_map(|option| option.split_once('='));
    let options: Vec<String> =
        options.map(|(name, value)| format!("{} = {}", quote_ident(name), quote_literal(value))).collect();
    let options = if options.is_empty() { String::new() } else { format!(" WITH ({})", options.join(", ")) };
    let definition = view.definition.trim_end().trim_end_matches(';');
    format!("CREATE OR REPLACE VIEW {}{options} AS {definition}", quote_table(&view.relation.table_name()))
}

fn rule(rule: &Rule) -> Vec<String> {
    let definition = rule.definition.trim_end().trim_end_matches(';');
    let mut sql = vec![definition.replacen("CREATE RULE ", "CREATE OR REPLACE RULE ", 1)];
    if !rule.own {
        return sql;
    }
    let (name, table) = (quote_ident(&rule.name), quote_table(&rule.relation.table_name()));
    let state = match rule.enabled {
        'D' => Some("DISABLE"),
        'R' => Some("ENABLE REPLICA"),
        'A' => Some("ENABLE ALWAYS"),
        _ => None,
    };
    sql.extend(state.map(|state| format!("ALTER TABLE {table} {state} RULE {name}")));
    let comment = rule.comment.as_deref().map(quote_literal);
    sql.extend(comment.map(|comment| format!("COMMENT ON RULE {name} ON {table} IS {comment}")));
    sql
}

fn policy(policy: &BoundPolicy) -> String {
    let clause = |keyword: &str, expression: &Option<String>| {
        expression.as_ref().map(|expression| format!(" {keyword} ({expression})")).unwrap_or_default()
    };
    format!(
        "ALTER POLICY {} ON {}{}{}",
        quote_ident(&policy.name),
        quote_table(&policy.relation.table_name()),
        clause("USING", &policy.using),
        clause("WITH CHECK", &policy.check)
    )
}

/// The key is enforced for new rows from here on; that the old ones keep it is checked before the swap, and made known
/// to the server after it.
fn foreign_key(key: &ForeignKeyIn) -> Vec<String> {
    let (name, table) = (quote_ident(&key.name), quote_table(&key.relation.table_name()));
    let not_valid = if key.validated && key.enforced { " NOT VALID" } else { "" };
    let definition = format!("{}{not_valid}", key.definition);
    let comment = key.comment.as_deref().map(quote_literal);
    let comment = comment.map(|comment| format!("COMMENT ON CONSTRAINT {name} ON {table} IS {comment}"));
    std::iter::once(format!("ALTER TABLE {table} DROP CONSTRAINT {name}, ADD CONSTRAINT {name} {definition}"))
        .chain(comment)
        .collect()
}

fn create_function(function: &Function) -> Vec<String> {
    let (signature, owner) = (&function.signature, &function.owner);
    let mut sql: Vec<String> = function.definition.iter().cloned().collect();
    sql.push(format!("ALTER ROUTINE {signature} OWNER TO {}", quote_ident(owner)));
    // What default privileges gave is taken away first.
    sql.push(staging::revoke_routine_from_all_but_owner(signature));
    sql.extend(staging::grants("ROUTINE", signature, &function.privileges, owner));
    let comment = function.comment.as_deref().map(quote_literal);
    sql.extend(comment.map(|comment| format!("COMMENT ON ROUTINE {signature} IS {comment}")));
    sql
}

/// Constraints that the server does not know to hold once the swap is through.
pub(super) fn to_validate(dependents: &Dependents) -> Vec<(TableName, String)> {
    let keys = dependents.foreign_keys.iter().filter(|key| key.validated && key.enforced);
    keys.map(|key| (key.relation.table_name(), key.name.clone())).collect()
}
