//! The phases stay in the SQL that DuckDB and Apache DataFusion share, read by DataFusion's own parser. What is allowed is
//! what both have run with equal results, so a construct that is new here is to be tried on both first. A parser knows
//! no types: that DataFusion cuts the quotient of whole numbers, and counts rows in unsigned ones, is not seen here.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use anyhow::Result;
use racealpha::transform::PhaseSet;
use sqlparser::ast::{
    BinaryOperator, CastKind, DataType, Distinct, Expr, Function, FunctionArg, FunctionArguments, JoinConstraint,
    JoinOperator, NamedWindowExpr, OrderByExpr, OrderByKind, Query, Select, SelectFlavor, SelectItem, SetExpr,
    SetOperator, SetQuantifier, Statement, TableFactor, UnaryOperator, Visit, Visitor, WildcardAdditionalOptions,
    WindowType, visit_expressions,
};
use sqlparser::dialect::DuckDbDialect;
use sqlparser::parser::Parser;

/// What the phases call by a name that is not in the prelude. Found by running all of them on DataFusion 55.2 with a prelude
/// of its own: each name exists there, and the datasets were equal in every value, as the prelude says.
const SHARED_FUNCTIONS: [&str; 23] = [
    "abs",
    "avg",
    "coalesce",
    "count",
    "dense_rank",
    "greatest",
    "lag",
    "lead",
    "least",
    "ln",
    "lower",
    "max",
    "min",
    "nullif",
    "percent_rank",
    "rank",
    "regexp_replace",
    "replace",
    "round",
    "row_number",
    "sqrt",
    "sum",
    "upper",
];
/// Macros that come from the runner instead of the prelude.
const RUNNER_MACROS: [&str; 2] = ["build_time", "with_upcoming"];
/// Joins of one FROM that may share a column by USING: with a third, DataFusion calls the column ambiguous.
const JOINS_USING_ONE_COLUMN_MAX: usize = 2;

/// What is in the statements of one file that only one of the engines understands, or each in its own way.
struct Findings<'a> {
    macros: &'a BTreeSet<String>,
    found: Vec<String>,
}

/// The findings of a file, none if it is in the shared SQL.
fn findings(sql: &str, macros: &BTreeSet<String>) -> Vec<String> {
    let statements = match Parser::parse_sql(&DuckDbDialect {}, sql) {
        Ok(statements) => statements,
        Err(error) => return vec![format!("does not parse: {error}")],
    };
    let mut findings = Findings { macros, found: Vec::new() };
    let _done = statements.visit(&mut findings);
    findings.found
}

impl Findings<'_> {
    fn refuse_if(&mut self, is_foreign: bool, what: impl Into<String>) {
        if is_foreign {
            self.found.push(what.into());
        }
    }

    fn check_order(&mut self, order: &[OrderByExpr]) {
        for by in order {
            let is_open = by.options.asc == Some(false) && by.options.nulls_first.is_none();
            self.refuse_if(is_open, format!("nulls are not placed: {by}"));
        }
    }

    fn check_body(&mut self, body: &SetExpr) {
        match body {
            SetExpr::Select(_) | SetExpr::Query(_) | SetExpr::Values(_) => {}
            SetExpr::SetOperation { left, op: SetOperator::Union, set_quantifier: SetQuantifier::All, right } => {
                self.check_body(left);
                self.check_body(right);
            }
            other => self.found.push(format!("rows from elsewhere than SELECT and UNION ALL: {other}")),
        }
    }

    fn check_wildcard(&mut self, options: &WildcardAdditionalOptions) {
        let WildcardAdditionalOptions { opt_ilike, opt_except, opt_replace, opt_rename, .. } = options;
        let is_foreign = opt_ilike.is_some() || opt_except.is_some() || opt_replace.is_some() || opt_rename.is_some();
        self.refuse_if(is_foreign, format!("a star with more than EXCLUDE: {options}"));
    }

    fn check_joins(&mut self, select: &Select) {
        for from in &select.from {
            let mut joins_using = BTreeMap::<String, usize>::new();
            for join in &from.joins {
                match &join.join_operator {
                    JoinOperator::CrossJoin(JoinConstraint::None)
                    | JoinOperator::Join(JoinConstraint::On(_))
                    | JoinOperator::Left(JoinConstraint::On(_)) => {}
                    JoinOperator::Join(JoinConstraint::Using(columns))
                    | JoinOperator::Left(JoinConstraint::Using(columns)) => {
                        for column in columns {
                            *joins_using.entry(column.to_string()).or_default() += 1;
                        }
                    }
                    _ => self.found.push(format!("another join than JOIN, LEFT JOIN and CROSS JOIN: {join}")),
                }
            }
            for (column, joins) in joins_using {
                self.refuse_if(
                    joins > JOINS_USING_ONE_COLUMN_MAX,
                    format!("{joins} joins USING ({column}), to be joined ON"),
                );
            }
        }
    }

    fn check_function(&mut self, function: &Function) {
        let name = function.name.to_string().to_lowercase();
        let is_known = self.macros.contains(&name) || SHARED_FUNCTIONS.contains(&name.as_str());
        self.refuse_if(!is_known, format!("neither in the prelude nor known to both engines: {name}"));
        if let Some(WindowType::WindowSpec(window)) = &function.over {
            self.check_order(&window.order_by);
        }
        let is_plain = match &function.args {
            FunctionArguments::List(list) => {
                list.clauses.is_empty() && list.args.iter().all(|arg| matches!(arg, FunctionArg::Unnamed(_)))
            }
            FunctionArguments::None | FunctionArguments::Subquery(_) => false,
        };
        self.refuse_if(!is_plain, format!("more than a list of arguments: {function}"));
    }
}

/// Whether an operand may take more than the comparison that it belongs to: DataFusion reads `a IS DISTINCT FROM b AND c` as
/// `a IS DISTINCT FROM (b AND c)`.
fn is_open_operand(operand: &Expr) -> bool {
    matches!(operand, Expr::BinaryOp { .. } | Expr::IsDistinctFrom(..) | Expr::IsNotDistinctFrom(..))
}

/// Whether an expression has a window function with a window of its own.
fn has_own_window(expr: &Expr) -> bool {
    let is_own = |expr: &Expr| matches!(expr, Expr::Function(Function { over: Some(WindowType::WindowSpec(_)), .. }));
    visit_expressions(expr, |part| if is_own(part) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        .is_break()
}

impl Visitor for Findings<'_> {
    type Break = ();

    fn pre_visit_statement(&mut self, statement: &Statement) -> ControlFlow<()> {
        let is_shared = match statement {
            Statement::CreateTable(table) => table.query.is_some(),
            Statement::CreateView(_) => true,
            _ => false,
        };
        self.refuse_if(!is_shared, format!("another statement than CREATE TABLE AS and CREATE VIEW: {statement}"));
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.check_body(&query.body);
        match query.order_by.as_ref().map(|order| &order.kind) {
            Some(OrderByKind::Expressions(order)) => self.check_order(order),
            Some(OrderByKind::All(_)) => self.found.push("ORDER BY ALL".to_owned()),
            None => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        self.refuse_if(select.flavor != SelectFlavor::Standard, format!("FROM without SELECT before it: {select}"));
        self.refuse_if(matches!(select.distinct, Some(Distinct::On(_))), "DISTINCT ON");
        self.check_joins(select);
        for item in &select.projection {
            if let SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(_, options) = item {
                self.check_wildcard(options);
            }
        }
        for window in &select.named_window {
            if let NamedWindowExpr::WindowSpec(window) = &window.1 {
                self.check_order(&window.order_by);
            }
        }
        if let Some(condition) = &select.qualify {
            // DataFusion wants a window function in the condition, and does not find it by the name of a window.
            self.refuse_if(!has_own_window(condition), format!("QUALIFY without a window of its own: {condition}"));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        let is_shared = match factor {
            TableFactor::Table { args, sample, .. } => args.is_none() && sample.is_none(),
            TableFactor::Derived { lateral, .. } => !lateral,
            _ => false,
        };
        self.refuse_if(!is_shared, format!("rows from elsewhere than a table or query: {factor}"));
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        let is_shared = match expr {
            Expr::Function(function) => {
                self.check_function(function);
                true
            }
            Expr::BinaryOp { op, .. } => matches!(
                op,
                BinaryOperator::Plus
                    | BinaryOperator::Minus
                    | BinaryOperator::Multiply
                    | BinaryOperator::Divide
                    | BinaryOperator::StringConcat
                    | BinaryOperator::Eq
                    | BinaryOperator::NotEq
                    | BinaryOperator::Gt
                    | BinaryOperator::GtEq
                    | BinaryOperator::Lt
                    | BinaryOperator::LtEq
                    | BinaryOperator::And
                    | BinaryOperator::Or
            ),
            Expr::UnaryOp { op, .. } => matches!(op, UnaryOperator::Minus | UnaryOperator::Not),
            Expr::Cast { kind, data_type, .. } => {
                matches!(kind, CastKind::Cast | CastKind::TryCast | CastKind::DoubleColon)
                    && matches!(
                        data_type,
                        DataType::SmallInt(None)
                            | DataType::Integer(None)
                            | DataType::BigInt(None)
                            | DataType::Double(_)
                            | DataType::Decimal(_)
                    )
            }
            Expr::TypedString(text) => text.data_type == DataType::Date,
            Expr::IsDistinctFrom(_, operand) | Expr::IsNotDistinctFrom(_, operand) => !is_open_operand(operand),
            Expr::Identifier(_)
            | Expr::CompoundIdentifier(_)
            | Expr::Value(_)
            | Expr::Nested(_)
            | Expr::Case { .. }
            | Expr::IsNull(_)
            | Expr::IsNotNull(_)
            | Expr::InList { .. }
            | Expr::InSubquery { .. }
            | Expr::Between { .. }
            | Expr::Like { .. }
            | Expr::Extract { .. }
            | Expr::Floor { .. } => true,
            _ => false,
        };
        self.refuse_if(!is_shared, format!("not tried in both engines: {expr}"));
        ControlFlow::Continue(())
    }
}

/// The macros that the phases may call.
fn macros(prelude: &str) -> BTreeSet<String> {
    let defined = prelude.lines().filter_map(|line| line.strip_prefix("CREATE OR REPLACE MACRO ")?.split('(').next());
    defined.chain(RUNNER_MACROS).map(str::to_owned).collect()
}

#[test]
fn the_phases_are_in_the_sql_that_both_engines_share() -> Result<()> {
    let set = PhaseSet::load(None)?;
    let macros = macros(&set.prelude);
    let phases = set.phases.iter().filter(|phase| phase.in_lake);
    let found: Vec<String> = phases
        .flat_map(|phase| findings(&phase.sql, &macros).into_iter().map(|finding| format!("{}: {finding}", phase.name)))
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
    Ok(())
}

#[test]
fn what_one_engine_alone_understands_is_refused() {
    let macros = BTreeSet::from(["matches".to_owned()]);
    let query = |query: &str| findings(&format!("CREATE TABLE made AS {query}"), &macros);
    for shared in [
        "SELECT t.* EXCLUDE (b), matches(a, '^b') AS c, CAST(sum(b) FILTER (WHERE b > 1) OVER w AS BIGINT) AS d FROM t \
         WINDOW w AS (PARTITION BY a ORDER BY b DESC NULLS LAST GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)",
        "SELECT a FROM t JOIN u USING (k) LEFT JOIN v USING (k) LEFT JOIN w ON w.k = t.k \
         QUALIFY row_number() OVER (PARTITION BY k ORDER BY a) = 1",
        "SELECT a FROM t JOIN u ON (t.a IS NOT DISTINCT FROM u.a) AND t.b = u.b UNION ALL SELECT TRY_CAST(a AS DOUBLE) FROM u",
    ] {
        assert_eq!(query(shared), Vec::<String>::new(), "{shared}");
    }
    for (foreign, finding) in [
        ("SELECT list_transform(a, x -> x + 1) FROM t", "known to both engines: list_transform"),
        ("SELECT matches(a, x -> x + 1) FROM t", "not tried in both engines: x -> x + 1"),
        ("SELECT matches(a, lambda x: x + 1) FROM t", "not tried in both engines: lambda x"),
        ("SELECT regexp_matches(a, 'b') FROM t", "known to both engines: regexp_matches"),
        ("SELECT abs(x := 1) FROM t", "more than a list of arguments"),
        ("SELECT * FROM t ASOF JOIN u ON t.k = u.k AND t.a >= u.a", "does not parse"),
        ("SELECT * FROM t POSITIONAL JOIN u", "another join than"),
        ("SELECT * FROM t NATURAL JOIN u", "another join than"),
        ("SELECT a FROM t JOIN u USING (k) JOIN v USING (k) JOIN w USING (k)", "3 joins USING (k)"),
        ("SELECT a FROM t JOIN u ON t.a IS NOT DISTINCT FROM u.a AND t.b = u.b", "not tried in both engines"),
        ("SELECT a, rank() OVER w FROM t WINDOW w AS (ORDER BY b) QUALIFY c", "QUALIFY without a window"),
        ("SELECT a FROM t WINDOW w AS (ORDER BY b) QUALIFY rank() OVER w = 1", "QUALIFY without a window"),
        ("SELECT a FROM t ORDER BY a DESC", "nulls are not placed: a DESC"),
        ("SELECT rank() OVER (ORDER BY a DESC) FROM t", "nulls are not placed: a DESC"),
        ("SELECT a FROM t ORDER BY ALL", "ORDER BY ALL"),
        ("SELECT DISTINCT ON (a) a, b FROM t", "DISTINCT ON"),
        ("FROM t", "FROM without SELECT"),
        ("SELECT * REPLACE (a + 1 AS a) FROM t", "a star with more than EXCLUDE"),
        ("SELECT a FROM t EXCEPT SELECT a FROM u", "rows from elsewhere than SELECT"),
        ("SELECT a FROM range(3) AS r (a)", "rows from elsewhere than a table"),
        ("SELECT CAST(a AS HUGEINT) FROM t", "not tried in both engines: CAST(a AS HUGEINT)"),
        ("SELECT a // 2 FROM t", "not tried in both engines: a // 2"),
        ("SELECT [a, b] FROM t", "not tried in both engines: [a, b]"),
        ("SELECT a[1] FROM t", "not tried in both engines: a[1]"),
        ("SELECT {'a': b} FROM t", "not tried in both engines: {'a': b}"),
    ] {
        let found = query(foreign);
        assert!(found.iter().any(|found| found.contains(finding)), "{foreign}: {found:?}");
    }
    for statement in ["UPDATE t SET a = 1", "INSERT INTO t VALUES (1)", "DELETE FROM t", "CREATE TABLE t (a INTEGER)"] {
        let found = findings(statement, &macros);
        assert!(found.iter().any(|found| found.starts_with("another statement")), "{statement}: {found:?}");
    }
}
