//! From resolved syntax to something that evaluates: typed, coerced and with its constants computed, by DataFusion's crates.
//!
//! The planner's own simplifier is left out: it computes constants with wrapping arithmetic and may drop an error of a row
//! (`x * 0`). Only what functions need to be rewritten into ([`ExprSimplifyResult`]) is done here.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, FieldRef, Schema as ArrowSchema};
use datafusion_common::config::ConfigOptions;
use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion_common::{
    DFSchema, DataFusionError, Result as PlanResult, ScalarValue, TableReference, plan_err,
};
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::expr::{Alias, Cast, TryCast};
use datafusion_expr::planner::{ContextProvider, ExprPlanner, TypePlanner};
use datafusion_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion_expr::{
    AggregateUDF, BinaryExpr, ColumnarValue, Expr, ExprSchemable, HigherOrderUDF, Operator, ScalarUDF,
    TableSource, Volatility, WindowUDF,
};
use datafusion_optimizer::simplify_expressions::ExprSimplifier;
use datafusion_physical_expr::expressions::BinaryExpr as PhysicalBinaryExpr;
use datafusion_physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion_sql::planner::{ParserOptions, PlannerContext, SqlToRel};
use datafusion_sql::sqlparser::ast::{self, ExactNumberInfo, TimezoneInfo};

use super::column_name;
use super::functions::Functions;
use crate::schema::TIMESTAMP;

/// The columns that resolved syntax speaks of, by number.
#[derive(Clone, Debug)]
pub(crate) struct Columns {
    /// What expressions over them may call.
    functions: Arc<Functions>,
    schema: Arc<DFSchema>,
    /// What a column is called in canonical texts.
    names: Arc<[String]>,
}

impl Columns {
    pub fn new(functions: Arc<Functions>, columns: impl IntoIterator<Item = (String, DataType)>) -> Self {
        let (names, types): (Vec<String>, Vec<DataType>) = columns.into_iter().unzip();
        let fields: Vec<FieldRef> = types
            .into_iter()
            .enumerate()
            .map(|(index, data_type)| Arc::new(Field::new(column_name(index), data_type, true)))
            .collect();
        // Only equal names are refused, and these are numbers.
        let schema = DFSchema::try_from(ArrowSchema::new(fields)).unwrap_or_else(|_| DFSchema::empty());
        Columns { functions, schema: Arc::new(schema), names: names.into() }
    }

    pub fn functions(&self) -> &Arc<Functions> {
        &self.functions
    }

    pub fn data_type(&self, index: usize) -> Option<&DataType> {
        self.schema.as_arrow().fields().get(index).map(|field| field.data_type())
    }

    pub fn name(&self, index: usize) -> Option<&str> {
        self.names.get(index).map(String::as_str)
    }

    pub fn arrow(&self) -> &Arc<ArrowSchema> {
        self.schema.inner()
    }
}

/// An expression that evaluates.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub physical: Arc<dyn PhysicalExpr>,
    pub data_type: DataType,
    pub logical: Expr,
}

/// Why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PlanError {
    /// A string would silently become a number or the other way round.
    StringNumber { from: DataType, to: DataType },
    /// A part without columns fails.
    Constant(String),
    /// A function whose result can change, or something that needs more than one row.
    NotAllowed(String),
    /// Types or arguments do not fit; the planner's words.
    Types(String),
}

/// Plans resolved syntax.
pub(super) fn plan(syntax: &ast::Expr, columns: &Columns) -> Result<Planned, PlanError> {
    // The planner has assertions of its own.
    let planned = catch_unwind(AssertUnwindSafe(|| plan_unguarded(syntax, columns)));
    planned.unwrap_or_else(|_| Err(PlanError::Types("this SQL is not offered".to_owned())))
}

fn plan_unguarded(syntax: &ast::Expr, columns: &Columns) -> Result<Planned, PlanError> {
    let types = |error: DataFusionError| PlanError::Types(clean(&error));
    let schema = columns.schema.as_ref();
    let options =
        ParserOptions::new().with_enable_ident_normalization(false).with_map_string_types_to_utf8view(false);
    let expr = SqlToRel::new_with_options(&Provider { functions: &columns.functions }, options)
        .sql_to_expr(syntax.clone(), schema, &mut PlannerContext::new())
        .map_err(types)?;
    check_allowed(&expr)?;
    let context = SimplifyContext::builder().with_schema(columns.schema.clone()).build();
    let expr = mark_casts(expr, schema).map_err(types)?;
    let expr = ExprSimplifier::new(context.clone()).coerce(expr, schema).map_err(types)?;
    if let Some((from, to)) = implicit_cast(&expr, schema).map_err(types)? {
        return Err(PlanError::StringNumber { from, to });
    }
    let expr = unalias(expr).map_err(types)?;
    let expr = check_negation(expr, schema).map_err(types)?;
    let expr = fold(rewrite_functions(expr, &context).map_err(types)?, schema)?;
    let physical = physical(&expr, schema).map_err(types)?;
    let data_type = physical.data_type(schema.as_arrow()).map_err(types)?;
    Ok(Planned { physical, data_type, logical: expr })
}

/// Only what sees one row and depends on nothing else.
fn check_allowed(expr: &Expr) -> Result<(), PlanError> {
    let mut refused = None;
    let walked = expr.apply(|node| {
        let allowed = match node {
            Expr::Alias(_)
            | Expr::Column(_)
            | Expr::Literal(_, _)
            | Expr::BinaryExpr(_)
            | Expr::Like(_)
            | Expr::SimilarTo(_)
            | Expr::Not(_)
            | Expr::IsNotNull(_)
            | Expr::IsNull(_)
            | Expr::IsTrue(_)
            | Expr::IsFalse(_)
            | Expr::IsUnknown(_)
            | Expr::IsNotTrue(_)
            | Expr::IsNotFalse(_)
            | Expr::IsNotUnknown(_)
            | Expr::Negative(_)
            | Expr::Between(_)
            | Expr::Case(_)
            | Expr::Cast(_)
            | Expr::TryCast(_)
            | Expr::InList(_) => true,
            Expr::ScalarFunction(function) => function.func.signature().volatility == Volatility::Immutable,
            _ => false,
        };
        if !allowed {
            refused = Some("this SQL is not allowed here".to_owned());
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    match (refused, walked) {
        (Some(reason), _) => Err(PlanError::NotAllowed(reason)),
        (None, Err(error)) => Err(PlanError::Types(clean(&error))),
        (None, Ok(_)) => Ok(()),
    }
}

/// The name of the alias around a cast that the user has written.
const WRITTEN: &str = "written";

fn written(expr: Expr) -> Expr {
    Expr::Alias(Alias::new(expr, None::<TableReference>, WRITTEN))
}

/// Puts written casts under an alias, so that they can be told from those that coercion adds; and brings unsigned results of
/// functions, which the language has no type for, to int64 before they meet other numbers.
fn mark_casts(expr: Expr, schema: &DFSchema) -> PlanResult<Expr> {
    expr.transform_up(|node| {
        Ok(match node {
            Expr::Cast(_) | Expr::TryCast(_) => Transformed::yes(written(node)),
            Expr::ScalarFunction(_) if is_unsigned(&node.get_type(schema)?) => {
                Transformed::yes(written(Expr::Cast(Cast::new(Box::new(node), DataType::Int64))))
            }
            _ => Transformed::no(node),
        })
    })
    .data()
}

fn is_unsigned(data_type: &DataType) -> bool {
    matches!(data_type, DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64)
}

pub(super) fn is_string(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// A cast between string and number that nobody has written.
fn implicit_cast(expr: &Expr, schema: &DFSchema) -> PlanResult<Option<(DataType, DataType)>> {
    let inside = match expr {
        Expr::Alias(Alias { expr, name, .. }) if name == WRITTEN => match expr.as_ref() {
            Expr::Cast(Cast { expr, .. }) | Expr::TryCast(TryCast { expr, .. }) => {
                return implicit_cast(expr, schema);
            }
            _ => None,
        },
        Expr::Cast(Cast { expr, field }) => Some((expr.get_type(schema)?, field.data_type().clone())),
        _ => None,
    };
    if let Some((from, to)) = inside
        && ((is_string(&from) && to.is_numeric()) || (from.is_numeric() && is_string(&to)))
    {
        return Ok(Some((from, to)));
    }
    let mut found = None;
    expr.apply_children(|child| {
        found = implicit_cast(child, schema)?;
        Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

fn unalias(expr: Expr) -> PlanResult<Expr> {
    expr.transform_up(|node| {
        Ok(match node {
            Expr::Alias(alias) => Transformed::yes(*alias.expr),
            _ => Transformed::no(node),
        })
    })
    .data()
}

/// `-x` wraps for the smallest integer, `0 - x` is checked.
fn check_negation(expr: Expr, schema: &DFSchema) -> PlanResult<Expr> {
    expr.transform_up(|node| {
        let Expr::Negative(inner) = node else { return Ok(Transformed::no(node)) };
        let data_type = inner.get_type(schema)?;
        if !data_type.is_signed_integer() {
            return Ok(Transformed::no(Expr::Negative(inner)));
        }
        let zero = Expr::Literal(ScalarValue::new_zero(&data_type)?, None);
        Ok(Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(Box::new(zero), Operator::Minus, inner))))
    })
    .data()
}

/// Some functions exist as other expressions only (`coalesce` is a `case`).
fn rewrite_functions(mut expr: Expr, context: &SimplifyContext) -> PlanResult<Expr> {
    // A rewrite may give a function that is itself rewritten; none goes deeper than this.
    for _ in 0..4 {
        let rewritten = expr.transform_up(|node| {
            let Expr::ScalarFunction(mut function) = node else { return Ok(Transformed::no(node)) };
            let arguments = std::mem::take(&mut function.args);
            Ok(match function.func.simplify(arguments, context)? {
                ExprSimplifyResult::Simplified(expr) => Transformed::yes(expr),
                ExprSimplifyResult::Original(arguments) => {
                    function.args = arguments;
                    Transformed::no(Expr::ScalarFunction(function))
                }
            })
        })?;
        expr = rewritten.data;
        if !rewritten.transformed {
            break;
        }
    }
    Ok(expr)
}

/// Computes every part that has no column, and tries functions with some constant arguments on a null: a wrong pattern or
/// unit fails for every row.
fn fold(expr: Expr, schema: &DFSchema) -> Result<Expr, PlanError> {
    let mut failure = None;
    let folded = expr.transform_up(|node| {
        let (mut constants, mut parts) = (0, 0);
        node.apply_children(|child| {
            parts += 1;
            constants += usize::from(matches!(child, Expr::Literal(_, _)));
            Ok(TreeNodeRecursion::Continue)
        })?;
        if constants == 0 {
            return Ok(Transformed::no(node));
        }
        let tried = if constants == parts {
            constant_value(&node, schema).map(|value| Transformed::yes(Expr::Literal(value, None)))
        } else if let Some(probe) = probe(&node) {
            let tried = node.clone().map_children(|child| probe.instead_of(child, schema)).data()?;
            constant_value(&tried, schema).map(|_| Transformed::no(node))
        } else {
            return Ok(Transformed::no(node));
        };
        tried.inspect_err(|error| failure = Some(clean(error)))
    });
    match (failure, folded) {
        (Some(message), _) => Err(PlanError::Constant(message)),
        (None, Err(error)) => Err(PlanError::Types(clean(&error))),
        (None, Ok(folded)) => Ok(folded.data),
    }
}

/// What stands for the parts of a function that are no constants when it is tried.
#[derive(Clone, Copy)]
enum Probe {
    Null,
    /// Patterns are read only when there is a text.
    Text,
}

fn probe(expr: &Expr) -> Option<Probe> {
    use Operator::{RegexIMatch, RegexMatch, RegexNotIMatch, RegexNotMatch};
    match expr {
        Expr::ScalarFunction(function) if function.name().starts_with("regexp_") => Some(Probe::Text),
        Expr::ScalarFunction(_) => Some(Probe::Null),
        Expr::BinaryExpr(binary) => {
            let regex = matches!(binary.op, RegexMatch | RegexIMatch | RegexNotMatch | RegexNotIMatch);
            regex.then_some(Probe::Text)
        }
        _ => None,
    }
}

impl Probe {
    fn instead_of(self, part: Expr, schema: &DFSchema) -> PlanResult<Transformed<Expr>> {
        if let Expr::Literal(_, _) = part {
            return Ok(Transformed::no(part));
        }
        let data_type = part.get_type(schema)?;
        let value = match self {
            Probe::Text if is_string(&data_type) => ScalarValue::new_default(&data_type)?,
            _ => ScalarValue::try_new_null(&data_type)?,
        };
        Ok(Transformed::yes(Expr::Literal(value, None)))
    }
}

fn constant_value(expr: &Expr, schema: &DFSchema) -> PlanResult<ScalarValue> {
    let one_row = RecordBatch::try_new_with_options(
        Arc::new(ArrowSchema::empty()),
        Vec::new(),
        &RecordBatchOptions::new().with_row_count(Some(1)),
    )?;
    match physical(expr, schema)?.evaluate(&one_row)? {
        ColumnarValue::Scalar(value) => Ok(value),
        ColumnarValue::Array(array) => ScalarValue::try_from_array(&array, 0),
    }
}

fn physical(expr: &Expr, schema: &DFSchema) -> PlanResult<Arc<dyn PhysicalExpr>> {
    let physical = create_physical_expr(expr, schema, &ExecutionProps::new(), &Default::default())?;
    physical
        .transform_up(|node| {
            let Some(binary) = node.downcast_ref::<PhysicalBinaryExpr>() else {
                return Ok(Transformed::no(node));
            };
            let checked =
                PhysicalBinaryExpr::new(binary.left().clone(), *binary.op(), binary.right().clone());
            Ok(Transformed::yes(Arc::new(checked.with_fail_on_overflow(true)) as Arc<dyn PhysicalExpr>))
        })
        .data()
}

/// An error's words without DataFusion's own: no backtrace, no nested prefixes, one line.
pub(crate) fn clean(error: &DataFusionError) -> String {
    use arrow::error::ArrowError;
    let arrow = |error: &ArrowError| match error {
        ArrowError::DivideByZero => "division by zero".to_owned(),
        ArrowError::ArithmeticOverflow(message) => {
            let what = message.trim_start_matches("Overflow happened on: ");
            format!("overflow: {}", what.trim())
        }
        ArrowError::CastError(message)
        | ArrowError::ParseError(message)
        | ArrowError::ComputeError(message)
        | ArrowError::InvalidArgumentError(message) => message.clone(),
        other => other.to_string(),
    };
    let message = match error.find_root() {
        DataFusionError::ArrowError(error, _) => arrow(error),
        DataFusionError::Execution(message)
        | DataFusionError::Plan(message)
        | DataFusionError::NotImplemented(message)
        | DataFusionError::Internal(message) => message.clone(),
        other => other.strip_backtrace(),
    };
    if message.to_lowercase().contains("regular expression did not compile")
        || message.contains("regex parse error")
    {
        return "the pattern is no regular expression".to_owned();
    }
    let line = message.lines().next().unwrap_or_default();
    let mut line = line.split(". This issue was likely caused by").next().unwrap_or_default();
    for prefix in ["Arrow error: ", "Cast error: ", "Compute error: ", "Parser error: ", "Execution error: "]
    {
        line = line.strip_prefix(prefix).unwrap_or(line);
    }
    let words = [
        ("Int64 type", "int64"),
        ("Int32 type", "int32"),
        ("Float64 type", "float64"),
        ("Float32 type", "float32"),
        ("Utf8", "string"),
        ("Boolean type", "bool"),
        ("Date32 type", "date"),
    ];
    let text = words.iter().fold(line.to_owned(), |text, (from, to)| text.replace(from, to));
    let mut letters = text.trim_end_matches('.').chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => "it fails".to_owned(),
    }
}

/// What the planner asks for.
struct Provider<'a> {
    functions: &'a Functions,
}

/// The rewrites of syntax that become calls of functions.
fn planners() -> &'static [Arc<dyn ExprPlanner>] {
    static PLANNERS: OnceLock<Vec<Arc<dyn ExprPlanner>>> = OnceLock::new();
    PLANNERS.get_or_init(|| {
        vec![
            Arc::new(datafusion_functions::core::planner::CoreFunctionPlanner::default()),
            Arc::new(datafusion_functions::datetime::planner::DatetimeFunctionPlanner),
            Arc::new(datafusion_functions::unicode::planner::UnicodeFunctionPlanner),
            Arc::new(datafusion_functions_nested::planner::NestedFunctionPlanner),
            Arc::new(datafusion_functions_nested::planner::FieldAccessPlanner),
        ]
    })
}

fn options() -> &'static ConfigOptions {
    static OPTIONS: OnceLock<ConfigOptions> = OnceLock::new();
    OPTIONS.get_or_init(ConfigOptions::default)
}

impl ContextProvider for Provider<'_> {
    fn get_table_source(&self, name: TableReference) -> PlanResult<Arc<dyn TableSource>> {
        plan_err!("there is no table {name}")
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        planners()
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(Arc::new(LanguageTypes))
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.functions.scalar(name)
    }

    fn get_higher_order_meta(&self, _name: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, _name: &str) -> Option<Arc<AggregateUDF>> {
        None
    }

    fn get_window_meta(&self, _name: &str) -> Option<Arc<WindowUDF>> {
        None
    }

    fn get_variable_type(&self, _names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        options()
    }

    fn udf_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The topology language's names of types in casts, besides SQL's; a timestamp has milliseconds.
#[derive(Debug)]
struct LanguageTypes;

impl TypePlanner for LanguageTypes {
    fn plan_type_field(&self, sql_type: &ast::DataType) -> PlanResult<Option<FieldRef>> {
        Ok(language_type(sql_type).map(|data_type| Arc::new(Field::new("", data_type, true)) as FieldRef))
    }
}

fn language_type(sql_type: &ast::DataType) -> Option<DataType> {
    match sql_type {
        ast::DataType::Timestamp(None, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => Some(TIMESTAMP),
        ast::DataType::Int64 => Some(DataType::Int64),
        ast::DataType::Float64 => Some(DataType::Float64),
        ast::DataType::Bytes(None) => Some(DataType::Binary),
        // In SQL, `float` is as exact as `double`.
        ast::DataType::Float(ExactNumberInfo::None) => Some(DataType::Float64),
        ast::DataType::Custom(name, arguments) if arguments.is_empty() => match name.to_string().as_str() {
            "int32" => Some(DataType::Int32),
            "int64" => Some(DataType::Int64),
            "float32" => Some(DataType::Float32),
            "float64" => Some(DataType::Float64),
            "bytes" => Some(DataType::Binary),
            _ => None,
        },
        ast::DataType::Float32 => Some(DataType::Float32),
        ast::DataType::Int32 => Some(DataType::Int32),
        _ => None,
    }
}
