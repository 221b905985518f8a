//! SQL aggregates over the rows of a group, one row after the other.
//!
//! The state of a group is a function of its rows and their order alone: batches, restarts and stored bytes in between
//! change nothing, to the last bit. Nulls are ignored except by `count(*)`, `first_value` and `last_value` (unless they say
//! `ignore nulls`); the sum of nothing is null, its count 0. Integer and decimal sums are exact and an overflow is an error
//! of the row; averages of integers and decimals are exact until the final division.
//!
//! All of this is true of the aggregates that are computed here, by an [`Accumulator`]. Others are [functions](function).

mod accumulator;
mod function;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array,
    Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
    new_null_array,
};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type, TimeUnit,
    TimestampMillisecondType,
};

use crate::batch::record_batch;
use crate::columns::UnsupportedType;
pub use crate::datum::DecodeError;
use crate::datum::{Datum, DatumBuilder, DatumRef, Reader};
use crate::diagnostic::Code;
use crate::schema::type_name;
use crate::sql::{
    Aggregate, AggregateSyntax, CallSyntax, Columns, Expression, Scope, SqlError, first_of_rows,
};

use accumulator::{Accumulator, Kind, Net};
use function::{FunctionCall, FunctionState};

/// The version of a group state's bytes.
const LAYOUT: u8 = 1;

/// The aggregate columns of a step, compiled; cheap to clone.
#[derive(Clone, Debug)]
pub struct AggregatePlan(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Each argument expression once.
    arguments: Vec<Expression>,
    /// Each filter expression once.
    filters: Vec<Expression>,
    calls: Vec<Call>,
    functions: Vec<Function>,
    outputs: Vec<Output>,
    /// What expressions over calls see: the results of all calls that were compiled together.
    results: Columns,
    /// Positions in `calls` of those that may overflow.
    fallible: Vec<usize>,
}

/// One aggregate call; columns that make the same call share it.
#[derive(Clone, Debug)]
struct Call {
    /// Its column in `results`.
    number: usize,
    kind: Kind,
    argument: Option<usize>,
    /// All have to be true.
    filters: Vec<usize>,
    argument_type: DataType,
    data_type: DataType,
    text: String,
    /// With resolved names and types.
    canonical: String,
}

/// A call of a function; columns that make the same call share it.
#[derive(Clone, Debug)]
struct Function {
    /// Its column in `results`.
    number: usize,
    call: FunctionCall,
    /// `None` for a constant.
    arguments: Vec<Option<usize>>,
    /// All have to be true.
    filters: Vec<usize>,
    text: String,
    /// With resolved names and types.
    canonical: String,
}

impl Function {
    fn failed(&self, why: &str) -> (Code, String) {
        (Code::RecordExpression, format!("in `{}`: {why}", self.text))
    }
}

#[derive(Clone, Debug)]
struct Output {
    name: String,
    value: OutputValue,
}

#[derive(Clone, Debug)]
enum OutputValue {
    /// The call with this number.
    Call(usize),
    /// An expression over calls.
    Expression(Expression),
}

impl OutputValue {
    fn calls(&self) -> Vec<usize> {
        match self {
            OutputValue::Call(number) => vec![*number],
            OutputValue::Expression(expression) => expression.columns(),
        }
    }
}

/// What the calls remember of one group.
#[derive(Clone, Debug, Default)]
pub struct GroupState {
    calls: Vec<Accumulator>,
    functions: Vec<FunctionState>,
}

/// A call whose values have to be kept, each with how often it is there.
#[derive(Clone, Debug)]
pub struct Multiset {
    /// The call, by position.
    pub call: usize,
    argument: usize,
    /// What it gives.
    pub of: MultisetOf,
    /// The type of its values.
    pub data_type: DataType,
}

/// What a multiset gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MultisetOf {
    /// Its smallest value.
    Smallest,
    /// Its largest value.
    Largest,
    /// How many different values it has.
    Distinct,
}

/// Collects what is needed while columns are compiled one after the other.
#[derive(Default)]
struct Compiler {
    arguments: Vec<Expression>,
    filters: Vec<Expression>,
    calls: Vec<Call>,
    functions: Vec<Function>,
    /// Canonical texts and types of the results of both, by number.
    results: Vec<(String, DataType)>,
    /// Whether rows have to be taken back.
    nets: bool,
}

/// The position of an expression that computes the same, added if there is none.
fn shared(expressions: &mut Vec<Expression>, expression: Expression) -> usize {
    let text = expression.canonical_text();
    match expressions.iter().position(|known| known.canonical_text() == text) {
        Some(position) => position,
        None => {
            expressions.push(expression);
            expressions.len() - 1
        }
    }
}

impl Compiler {
    /// Compiles a call and gives its number.
    fn call(
        &mut self,
        syntax: &AggregateSyntax<'_>,
        call: &CallSyntax,
        condition: Option<&Expression>,
        scope: &Scope,
    ) -> Result<usize, Vec<SqlError>> {
        let mut errors = Vec::new();
        let mut collect = |outcome: Result<Expression, Vec<SqlError>>| match outcome {
            Ok(expression) => Some(expression),
            Err(found) => {
                errors.extend(found);
                None
            }
        };
        let arguments: Vec<Expression> =
            call.arguments.iter().filter_map(|argument| collect(syntax.argument(argument, scope))).collect();
        let filter = call.filter.as_ref().map(|filter| collect(syntax.filter(filter, scope)));
        if !errors.is_empty() {
            return Err(errors);
        }
        let text = syntax.text(call);
        let said = |code, message: String, help: Option<String>| {
            vec![SqlError { code, span: call.range.clone(), message, help }]
        };
        let mut filters: Vec<usize> = condition
            .cloned()
            .into_iter()
            .chain(filter.flatten())
            .map(|filter| shared(&mut self.filters, filter))
            .collect();
        filters.dedup();
        let canonical = |computes: String, data_type: &DataType| {
            let arguments: Vec<String> = arguments.iter().map(Expression::canonical_text).collect();
            let arguments = if call.star { "*".to_owned() } else { arguments.join(", ") };
            let filters: Vec<String> = filters
                .iter()
                .filter_map(|filter| self.filters.get(*filter))
                .map(|filter| format!(" filter ({})", filter.canonical_text()))
                .collect();
            format!("{computes} ({arguments}){} {}", filters.concat(), type_name(data_type))
        };
        let over_table = || {
            let message =
                format!("`{text}` over a table: a row that is replaced cannot be taken back from it");
            let help =
                "use `min` or `max`, or make a stream of the table's changes with `to-stream`".to_owned();
            said(Code::SqlNotAllowed, message, Some(help))
        };
        match &call.aggregate {
            Aggregate::Exact(name) => {
                let (mut kind, data_type) =
                    resolve_call(call, name, &arguments, text).map_err(|error| vec![error])?;
                if self.nets {
                    kind = kind.net().ok_or_else(over_table)?;
                }
                let canonical = canonical(format!("{kind:?}"), &data_type);
                if let Some(known) = self.calls.iter().find(|known| known.canonical == canonical) {
                    return Ok(known.number);
                }
                let argument = arguments.into_iter().next();
                let argument_type =
                    argument.as_ref().map_or(DataType::Null, |argument| argument.data_type().clone());
                let argument = argument.map(|argument| shared(&mut self.arguments, argument));
                let (number, text) = (self.results.len(), text.to_owned());
                self.results.push((canonical.clone(), data_type.clone()));
                self.calls.push(Call {
                    number,
                    kind,
                    argument,
                    filters,
                    argument_type,
                    data_type,
                    text,
                    canonical,
                });
                Ok(number)
            }
            Aggregate::Function(function) => {
                refuse_modifiers(call).map_err(|error| vec![error])?;
                if self.nets {
                    return Err(over_table());
                }
                let function = FunctionCall::new(function, &arguments)
                    .map_err(|message| said(Code::SqlArguments, message, None))?;
                let canonical = canonical(function.fingerprint(), function.data_type());
                if let Some(known) = self.functions.iter().find(|known| known.canonical == canonical) {
                    return Ok(known.number);
                }
                let arguments = arguments.into_iter().map(|argument| {
                    argument.constant().is_none().then(|| shared(&mut self.arguments, argument))
                });
                let arguments = arguments.collect();
                let (number, text) = (self.results.len(), text.to_owned());
                self.results.push((canonical.clone(), function.data_type().clone()));
                self.functions.push(Function { number, call: function, arguments, filters, text, canonical });
                Ok(number)
            }
        }
    }

    fn results(&self, scope: &Scope) -> Columns {
        Columns::new(scope.functions().clone(), self.results.iter().cloned())
    }

    fn column(
        &mut self,
        sql: &str,
        condition: Option<&Expression>,
        scope: &Scope,
    ) -> Result<OutputValue, Vec<SqlError>> {
        let mut syntax = AggregateSyntax::parse(sql, scope)?;
        let mut numbers = Vec::new();
        let mut errors = Vec::new();
        for call in &syntax.calls {
            match self.call(&syntax, call, condition, scope) {
                Ok(number) => numbers.push(number),
                Err(found) => errors.extend(found),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        syntax.renumber(&numbers);
        match syntax.only_call() {
            Some(number) => Ok(OutputValue::Call(number)),
            None => Ok(OutputValue::Expression(syntax.outer(&self.results(scope))?)),
        }
    }
}

/// `distinct` and `ignore nulls` belong to some aggregates only.
fn refuse_modifiers(call: &CallSyntax) -> Result<(), SqlError> {
    let name = call.aggregate.name();
    let error = |message: String| {
        Err(SqlError { code: Code::SqlNotAllowed, span: call.range.clone(), message, help: None })
    };
    if call.distinct && name != "count" {
        return error(format!("`distinct` is offered for `count` only, not for `{name}`"));
    }
    if call.ignore_nulls && !matches!(name, "first_value" | "last_value") {
        return error(format!(
            "`ignore nulls` belongs to `first_value` and `last_value`; `{name}` ignores them anyway"
        ));
    }
    Ok(())
}

/// What a call computes over arguments of these types, and the type of its result.
fn resolve_call(
    call: &CallSyntax,
    name: &str,
    arguments: &[Expression],
    text: &str,
) -> Result<(Kind, DataType), SqlError> {
    use DataType::{Decimal128, Float32, Float64, Int32, Int64};
    let error = |code, message: String, help: Option<String>| SqlError {
        code,
        span: call.range.clone(),
        message,
        help,
    };
    refuse_modifiers(call)?;
    let data_type = match (call.star, arguments) {
        (true, []) if name == "count" && !call.distinct => return Ok((Kind::CountRows, Int64)),
        (false, [argument]) => argument.data_type(),
        _ => {
            let help =
                if name == "count" { "`count(*)` or `count(x)`".to_owned() } else { format!("`{name}(x)`") };
            let message = format!("`{name}` takes one argument, here are {}", arguments.len());
            return Err(error(Code::SqlArguments, message, Some(help)));
        }
    };
    let numeric = matches!(data_type, Int32 | Int64 | Float32 | Float64 | Decimal128(_, _));
    let scale = if let Decimal128(_, scale) = data_type { *scale } else { 0 };
    let variance = |sample, root| (Kind::Variance { scale, sample, root }, Float64);
    Ok(match (name, data_type) {
        ("count", _) if call.distinct => (Kind::CountDistinct, Int64),
        ("count", _) => (Kind::Count, Int64),
        ("first_value", _) => (Kind::First { ignore_nulls: call.ignore_nulls }, data_type.clone()),
        ("last_value", _) => (Kind::Last { ignore_nulls: call.ignore_nulls }, data_type.clone()),
        ("min", DataType::List(_) | DataType::Struct(_))
        | ("max", DataType::List(_) | DataType::Struct(_)) => {
            let message = format!("`{text}`: a {} has no order", type_name(data_type));
            let help = "take one that has: a field of it, an element, or its length".to_owned();
            return Err(error(Code::SqlArguments, message, Some(help)));
        }
        ("min", _) => (Kind::Min, data_type.clone()),
        ("max", _) => (Kind::Max, data_type.clone()),
        _ if !numeric => {
            let argument = arguments.first().map_or("", |argument| argument.text());
            let help = match data_type {
                DataType::Utf8 => Some(format!("if it holds numbers, `{name}(cast({argument} as double))`")),
                DataType::Boolean => {
                    Some(format!("true rows are counted by `count(*) filter (where {argument})`"))
                }
                _ => None,
            };
            let message = format!("`{name}` needs numbers, `{argument}` is a {}", type_name(data_type));
            return Err(error(Code::SqlArguments, message, help));
        }
        ("sum", Int32 | Int64) => (Kind::SumInt, Int64),
        ("sum", Decimal128(_, scale)) => (Kind::SumDecimal, Decimal128(38, *scale)),
        ("sum", _) => (Kind::SumFloat, Float64),
        ("avg", Int32 | Int64) => (Kind::AvgInt, Float64),
        ("avg", Decimal128(precision, scale)) => {
            let finer = (38 - *scale).clamp(0, 4);
            (
                Kind::AvgDecimal(u32::from(finer.unsigned_abs())),
                Decimal128((*precision + 4).min(38), *scale + finer),
            )
        }
        ("avg", _) => (Kind::AvgFloat, Float64),
        ("var", _) => variance(true, false),
        ("var_pop", _) => variance(false, false),
        ("stddev", _) => variance(true, true),
        ("stddev_pop", _) => variance(false, true),
        _ => {
            return Err(error(
                Code::SqlUnknownAggregate,
                format!("the aggregate `{name}` is not offered"),
                None,
            ));
        }
    })
}

impl AggregatePlan {
    /// Compiles columns, each an output name and an SQL expression over aggregates.
    pub fn compile(columns: &[(&str, &str)], scope: &Scope) -> Result<AggregatePlan, Vec<(usize, SqlError)>> {
        let columns: Vec<(&str, &str, Option<Expression>)> =
            columns.iter().map(|(name, sql)| (*name, *sql, None)).collect();
        Self::compile_where(&columns, scope)
    }

    /// As [`compile`](Self::compile), for groups of which rows can be [taken back](Self::take_back).
    pub fn compile_net(
        columns: &[(&str, &str)],
        scope: &Scope,
    ) -> Result<AggregatePlan, Vec<(usize, SqlError)>> {
        let columns: Vec<(&str, &str, Option<Expression>)> =
            columns.iter().map(|(name, sql)| (*name, *sql, None)).collect();
        Self::compile_with(Compiler { nets: true, ..Compiler::default() }, &columns, scope)
    }

    /// Compiles columns, each with a condition that rows have to meet for all of its calls.
    pub fn compile_where(
        columns: &[(&str, &str, Option<Expression>)],
        scope: &Scope,
    ) -> Result<AggregatePlan, Vec<(usize, SqlError)>> {
        Self::compile_with(Compiler::default(), columns, scope)
    }

    fn compile_with(
        mut compiler: Compiler,
        columns: &[(&str, &str, Option<Expression>)],
        scope: &Scope,
    ) -> Result<AggregatePlan, Vec<(usize, SqlError)>> {
        let mut outputs = Vec::new();
        let mut errors = Vec::new();
        for (index, (name, sql, condition)) in columns.iter().enumerate() {
            match compiler.column(sql, condition.as_ref(), scope) {
                Ok(value) => outputs.push(Output { name: (*name).to_owned(), value }),
                Err(found) => errors.extend(found.into_iter().map(|error| (index, error))),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let results = compiler.results(scope);
        let Compiler { arguments, filters, calls, functions, .. } = compiler;
        Ok(AggregatePlan(Arc::new(Inner::new((arguments, filters), calls, functions, outputs, results))))
    }

    /// The plan of some of the columns, by their positions. It takes the same [arguments](Self::prepare) and the same
    /// stored values as the whole, while its states hold the calls of these columns only.
    pub fn part(&self, columns: &[usize]) -> AggregatePlan {
        let inner = &self.0;
        let outputs: Vec<Output> =
            columns.iter().filter_map(|column| inner.outputs.get(*column).cloned()).collect();
        let used: BTreeSet<usize> = outputs.iter().flat_map(|output| output.value.calls()).collect();
        let calls = inner.calls.iter().filter(|call| used.contains(&call.number)).cloned().collect();
        let functions = inner.functions.iter().filter(|call| used.contains(&call.number)).cloned().collect();
        let expressions = (inner.arguments.clone(), inner.filters.clone());
        AggregatePlan(Arc::new(Inner::new(expressions, calls, functions, outputs, inner.results.clone())))
    }

    /// The output columns.
    pub fn output(&self) -> Vec<(String, DataType)> {
        let data_type = |value: &OutputValue| match value {
            OutputValue::Call(number) => self.0.results.data_type(*number).cloned().unwrap_or(DataType::Null),
            OutputValue::Expression(expression) => expression.data_type().clone(),
        };
        self.0.outputs.iter().map(|output| (output.name.clone(), data_type(&output.value))).collect()
    }

    /// Changes when the bytes of a state would be read wrongly.
    pub fn fingerprint(&self) -> String {
        let calls = self.0.calls.iter().map(|call| call.canonical.as_str());
        let functions = self.0.functions.iter().map(|function| function.canonical.as_str());
        format!("aggregates {LAYOUT}: {}", calls.chain(functions).collect::<Vec<_>>().join("; "))
    }

    /// Changes when stored [values](Arguments::row) would be read wrongly.
    pub fn values_fingerprint(&self) -> String {
        let texts = |expressions: &[Expression]| {
            expressions.iter().map(Expression::canonical_text).collect::<Vec<_>>().join("; ")
        };
        format!("values {LAYOUT}: {} where {}", texts(&self.0.arguments), texts(&self.0.filters))
    }

    /// The first column that has to remember every value or every distinct one, which only a window bounds.
    pub fn needs_window(&self) -> Option<usize> {
        let calls =
            self.0.calls.iter().filter(|call| call.kind == Kind::CountDistinct).map(|call| call.number);
        let functions = self.0.functions.iter().filter(|function| function.call.grows());
        let growing: BTreeSet<usize> = calls.chain(functions.map(|function| function.number)).collect();
        let grows = |output: &Output| output.value.calls().iter().any(|number| growing.contains(number));
        self.0.outputs.iter().position(grows)
    }

    /// Whether a group that took its rows always has a result.
    pub fn results_cannot_fail(&self) -> bool {
        let inner = &self.0;
        let can_fail = |kind: &Kind| {
            matches!(
                kind,
                Kind::AvgDecimal(_) | Kind::Net(Net::SumInt | Net::SumDecimal | Net::AvgDecimal(_))
            )
        };
        inner.calls.iter().all(|call| !can_fail(&call.kind))
            && !inner.functions_can_fail()
            && inner.outputs.iter().all(|output| match &output.value {
                OutputValue::Call(_) => true,
                OutputValue::Expression(expression) => expression.cannot_fail(),
            })
    }

    /// Evaluates arguments and filters for a batch.
    pub fn prepare(&self, rows: &RecordBatch) -> Arguments {
        let mut failures: BTreeMap<usize, Vec<(Source, Code, String)>> = BTreeMap::new();
        let mut evaluate = |expression: &Expression, source: Source| {
            let evaluated = expression.evaluate(rows);
            for (row, code, message) in evaluated.errors {
                failures.entry(row).or_default().push((source, code, message));
            }
            evaluated.values
        };
        let arguments = self.0.arguments.iter().enumerate();
        let arrays: Vec<ArrayRef> =
            arguments.map(|(index, expression)| evaluate(expression, Source::Argument(index))).collect();
        let values = arrays.iter().map(TypedArray::new).collect();
        let filters = self
            .0
            .filters
            .iter()
            .enumerate()
            .map(|(index, expression)| evaluate(expression, Source::Filter(index)).as_boolean().clone())
            .collect();
        let mut arguments = Arguments { plan: self.clone(), arrays, values, filters, errors: Vec::new() };
        arguments.errors = failures
            .into_iter()
            .filter_map(|(row, failures)| {
                let (code, message) = arguments.failure(row, &failures)?;
                Some((row, code, message))
            })
            .collect();
        arguments
    }

    /// A group without rows.
    pub fn new_state(&self) -> GroupState {
        GroupState {
            calls: self.0.calls.iter().map(|call| Accumulator::new(call.kind)).collect(),
            functions: self.0.functions.iter().map(|function| function.call.start()).collect(),
        }
    }

    /// Makes a state that of a group without rows again.
    pub fn reset(&self, state: &mut GroupState) {
        for (call, accumulator) in self.0.calls.iter().zip(&mut state.calls) {
            *accumulator = Accumulator::new(call.kind);
        }
        for (function, known) in self.0.functions.iter().zip(&mut state.functions) {
            *known = function.call.start();
        }
    }

    /// Whether every row without an [error](Arguments::errors) can be added to every group.
    pub fn updates_cannot_fail(&self) -> bool {
        self.0.fallible.is_empty() && !self.0.functions_can_fail()
    }

    /// Whether a row can be added to a group.
    ///
    /// # Errors
    /// If a call would overflow, or a function fail.
    pub fn check(&self, state: &GroupState, arguments: &Arguments, row: usize) -> Result<(), (Code, String)> {
        self.check_calls(state, arguments, row)?;
        if self.0.functions_can_fail() {
            self.update_functions(&mut state.functions.clone(), arguments, row)?;
        }
        Ok(())
    }

    fn check_calls(
        &self,
        state: &GroupState,
        arguments: &Arguments,
        row: usize,
    ) -> Result<(), (Code, String)> {
        for index in &self.0.fallible {
            if let (Some(call), Some(accumulator)) = (self.0.calls.get(*index), state.calls.get(*index))
                && arguments.includes(&call.filters, row)
                && accumulator.check(&arguments.value(call, row)).is_err()
            {
                return Err(overflow(call));
            }
        }
        Ok(())
    }

    /// The states are of no use after an error.
    fn update_functions(
        &self,
        states: &mut [FunctionState],
        arguments: &Arguments,
        row: usize,
    ) -> Result<(), (Code, String)> {
        for (function, state) in self.0.functions.iter().zip(states) {
            if arguments.includes(&function.filters, row) {
                let array =
                    |argument: &Option<usize>| Some(arguments.arrays.get((*argument)?)?.slice(row, 1));
                let arrays: Vec<Option<ArrayRef>> = function.arguments.iter().map(array).collect();
                state.update(&arrays, 1).map_err(|why| function.failed(&why))?;
            }
        }
        Ok(())
    }

    /// Adds a row to a group; a row with an [error](Arguments::errors) is not to be added. On an error the state is as
    /// before.
    pub fn update(
        &self,
        state: &mut GroupState,
        arguments: &Arguments,
        row: usize,
    ) -> Result<(), (Code, String)> {
        self.check_calls(state, arguments, row)?;
        let before = self.0.functions_can_fail().then(|| state.functions.clone());
        if let Err(failure) = self.update_functions(&mut state.functions, arguments, row) {
            state.functions = before.unwrap_or_default();
            return Err(failure);
        }
        for (call, accumulator) in self.0.calls.iter().zip(&mut state.calls) {
            if arguments.includes(&call.filters, row) {
                accumulator.add(call.kind, &arguments.value(call, row));
            }
        }
        Ok(())
    }

    /// Takes a row back that was added to a group of a [net](Self::compile_net) plan; its [elements](Self::multisets) are the
    /// caller's business.
    pub fn take_back(&self, state: &mut GroupState, arguments: &Arguments, row: usize) {
        for (call, accumulator) in self.0.calls.iter().zip(&mut state.calls) {
            if arguments.includes(&call.filters, row) {
                accumulator.take_back(call.kind, &arguments.value(call, row));
            }
        }
    }

    /// The calls of a [net](Self::compile_net) plan that need to know how often each value is there.
    pub fn multisets(&self) -> Vec<Multiset> {
        let calls = self.0.calls.iter().enumerate();
        calls
            .filter_map(|(call, found)| {
                let of = match found.kind {
                    Kind::Net(Net::Min) => MultisetOf::Smallest,
                    Kind::Net(Net::Max) => MultisetOf::Largest,
                    Kind::Net(Net::CountDistinct) => MultisetOf::Distinct,
                    _ => return None,
                };
                let argument = found.argument?;
                Some(Multiset { call, argument, of, data_type: found.argument_type.clone() })
            })
            .collect()
    }

    /// Whether a row's value is the extreme of a multiset.
    pub fn is_extreme(
        &self,
        state: &GroupState,
        multiset: &Multiset,
        arguments: &Arguments,
        row: usize,
    ) -> bool {
        match (self.0.calls.get(multiset.call), state.calls.get(multiset.call)) {
            (Some(call), Some(accumulator)) => accumulator.is_extreme(&arguments.value(call, row)),
            _ => false,
        }
    }

    /// Says what the extreme of a multiset is.
    pub fn set_extreme(&self, state: &mut GroupState, multiset: &Multiset, extreme: Datum) {
        if let Some(accumulator) = state.calls.get_mut(multiset.call) {
            *accumulator = Accumulator::Extreme(extreme);
        }
    }

    /// A value has come into a multiset (1) or has left it (-1).
    pub fn count_distinct(&self, state: &mut GroupState, multiset: &Multiset, more: i64) {
        if let Some(Accumulator::Count(count)) = state.calls.get_mut(multiset.call) {
            *count += more;
        }
    }

    /// Adds the rows of another group, as rows that come after those of this one. Sums of floats, and what is computed from
    /// them, are those of the two groups put together.
    ///
    /// # Errors
    /// If a call overflows; the state is of no use then.
    pub fn merge(&self, state: &mut GroupState, other: &GroupState) -> Result<(), (Code, String)> {
        for ((call, accumulator), other) in self.0.calls.iter().zip(&mut state.calls).zip(&other.calls) {
            accumulator.merge(call.kind, other).map_err(|_| overflow(call))?;
        }
        for ((function, state), other) in
            self.0.functions.iter().zip(&mut state.functions).zip(&other.functions)
        {
            state.merge(other).map_err(|why| function.failed(&why))?;
        }
        Ok(())
    }

    /// Adds rows by what was stored of them: of each `width` cells, of which the last are its [values](Arguments::row).
    ///
    /// # Errors
    /// If a call overflows; the state is of no use then.
    pub fn update_rows(
        &self,
        state: &mut GroupState,
        cells: &[Datum],
        width: usize,
    ) -> Result<(), (Code, String)> {
        let arguments = width - self.value_count();
        let filters = arguments + self.0.arguments.len();
        let is_true = |cell: Option<&Datum>| matches!(cell, Some(Datum::Bool(true)));
        let included =
            |row: &&[Datum], of: &[usize]| of.iter().all(|filter| is_true(row.get(filters + filter)));
        for (call, accumulator) in self.0.calls.iter().zip(&mut state.calls) {
            let values = cells
                .chunks_exact(width)
                .filter(|row| included(row, &call.filters))
                .map(|row| call.argument.and_then(|argument| row.get(arguments + argument)))
                .map(|value| value.map_or(DatumRef::Null, Datum::by_ref));
            accumulator.add_all(call.kind, values).map_err(|_| overflow(call))?;
        }
        for (function, state) in self.0.functions.iter().zip(&mut state.functions) {
            let rows: Vec<&[Datum]> =
                cells.chunks_exact(width).filter(|row| included(row, &function.filters)).collect();
            let arrays = function.arguments.iter().map(|argument| {
                let Some((number, argument)) =
                    argument.and_then(|number| Some((number, self.0.arguments.get(number)?)))
                else {
                    return Ok(None);
                };
                let mut builder =
                    DatumBuilder::new(argument.data_type()).map_err(|error| error.to_string())?;
                for row in &rows {
                    let value = row.get(arguments + number).unwrap_or(&Datum::Null);
                    builder.append(value).map_err(|error| error.to_string())?;
                }
                builder.finish().map(Some).map_err(|error| error.to_string())
            });
            let arrays: Result<Vec<Option<ArrayRef>>, String> = arrays.collect();
            let updated = arrays.and_then(|arrays| state.update(&arrays, rows.len()));
            updated.map_err(|why| function.failed(&why))?;
        }
        Ok(())
    }

    /// The types of a row's stored values, in order; each may be null.
    pub fn value_types(&self) -> Vec<DataType> {
        let arguments = self.0.arguments.iter().map(|argument| argument.data_type().clone());
        arguments.chain(self.0.filters.iter().map(|_| DataType::Boolean)).collect()
    }

    /// How many they are.
    pub fn value_count(&self) -> usize {
        self.0.arguments.len() + self.0.filters.len()
    }

    /// Appends the bytes of a state.
    pub fn write(&self, state: &GroupState, out: &mut Vec<u8>) {
        out.push(LAYOUT);
        state.calls.iter().for_each(|accumulator| accumulator.write(out));
        state.functions.iter().for_each(|function| function.write(out));
    }

    /// Reads what [`write`](Self::write) has written.
    pub fn read(&self, bytes: &[u8]) -> Result<GroupState, DecodeError> {
        let mut bytes = bytes;
        let mut reader = Reader::new(&mut bytes);
        match reader.byte()? {
            LAYOUT => {}
            found => return Err(DecodeError::Version { found, expected: LAYOUT }),
        }
        let calls: Result<Vec<Accumulator>, DecodeError> = self
            .0
            .calls
            .iter()
            .map(|call| Accumulator::read(call.kind, &call.argument_type, &mut reader))
            .collect();
        let calls = calls?;
        let functions = self.0.functions.iter().map(|function| function.call.read(&mut reader));
        let functions: Result<Vec<FunctionState>, DecodeError> = functions.collect();
        let state = GroupState { calls, functions: functions? };
        reader.end()?;
        Ok(state)
    }

    /// Why the results of a group cannot be computed, if they cannot.
    pub fn result_error(&self, state: &GroupState) -> Option<(Code, String)> {
        if self.results_cannot_fail() {
            return None;
        }
        let mut results = self.results();
        results.push(state);
        let (_, errors) = results.finish();
        errors.into_iter().next().map(|(_, code, message)| (code, message))
    }

    /// Collects results of groups.
    pub fn results(&self) -> ResultBuilder {
        let calls = self.0.calls.iter().map(|call| &call.data_type);
        let functions = self.0.functions.iter().map(|function| function.call.data_type());
        let builders = calls.chain(functions).map(DatumBuilder::new).collect();
        ResultBuilder { plan: self.clone(), builders, rows: 0, empty: Vec::new(), errors: Vec::new() }
    }
}

impl Inner {
    fn new(
        (arguments, filters): (Vec<Expression>, Vec<Expression>),
        calls: Vec<Call>,
        functions: Vec<Function>,
        outputs: Vec<Output>,
        results: Columns,
    ) -> Self {
        let can_overflow =
            |kind: &Kind| matches!(kind, Kind::SumInt | Kind::SumDecimal | Kind::AvgDecimal(_));
        let fallible = calls
            .iter()
            .enumerate()
            .filter(|(_, call)| can_overflow(&call.kind))
            .map(|(index, _)| index)
            .collect();
        Inner { arguments, filters, calls, functions, outputs, results, fallible }
    }

    fn functions_can_fail(&self) -> bool {
        self.functions.iter().any(|function| function.call.can_fail())
    }
}

fn overflow(call: &Call) -> (Code, String) {
    (Code::RecordOverflow, format!("`{}` leaves the range of {}", call.text, type_name(&call.data_type)))
}

/// The expression that a failure comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Argument(usize),
    Filter(usize),
}

/// The arguments and filters of a batch's rows, evaluated.
#[derive(Clone, Debug)]
pub struct Arguments {
    plan: AggregatePlan,
    arrays: Vec<ArrayRef>,
    values: Vec<TypedArray>,
    filters: Vec<BooleanArray>,
    errors: Vec<(usize, Code, String)>,
}

impl Arguments {
    /// The rows that cannot be added, in order, with the first reason.
    pub fn errors(&self) -> &[(usize, Code, String)] {
        &self.errors
    }

    /// Whether the filters of a call let a row in.
    pub fn included(&self, call: usize, row: usize) -> bool {
        self.call(call).is_some_and(|call| self.includes(&call.filters, row))
    }

    /// The values that rows have for a multiset.
    pub fn array(&self, multiset: &Multiset) -> Option<&ArrayRef> {
        self.arrays.get(multiset.argument)
    }

    /// Whether a row has a value in a multiset.
    pub fn is_in(&self, multiset: &Multiset, row: usize) -> bool {
        self.call(multiset.call)
            .is_some_and(|call| self.includes(&call.filters, row) && !self.value(call, row).is_null())
    }

    /// The value of an argument of a call; null for `count(*)`.
    pub fn datum(&self, call: usize, argument: usize, row: usize) -> Datum {
        let values =
            self.call(call).and_then(|call| self.values.get(call.argument.filter(|_| argument == 0)?));
        values.map_or(Datum::Null, |values| values.value(row).to_datum())
    }

    /// What has to be stored of a row to add it again later: the value of each argument, then whether each filter is true.
    pub fn row(&self, row: usize) -> impl ExactSizeIterator<Item = Datum> {
        let arguments = self.values.len();
        (0..arguments + self.filters.len()).map(move |position| match self.values.get(position) {
            Some(values) => values.value(row).to_datum(),
            None => Datum::Bool(self.filter(position - arguments, row)),
        })
    }

    /// Appends the bytes of [`row`](Self::row), to be read by [`read_values`](crate::datum::read_values).
    pub fn write_row(&self, row: usize, out: &mut Vec<u8>) {
        self.values.iter().for_each(|values| values.value(row).write(out));
        (0..self.filters.len()).for_each(|filter| DatumRef::Bool(self.filter(filter, row)).write(out));
    }

    fn call(&self, call: usize) -> Option<&Call> {
        self.plan.0.calls.get(call)
    }

    #[inline]
    fn includes(&self, filters: &[usize], row: usize) -> bool {
        filters.iter().all(|filter| self.filter(*filter, row))
    }

    /// The value of a call's argument; null for `count(*)`.
    #[inline]
    fn value(&self, call: &Call, row: usize) -> DatumRef<'_> {
        match call.argument.and_then(|argument| self.values.get(argument)) {
            Some(values) => values.value(row),
            None => DatumRef::Null,
        }
    }

    /// Null is not true.
    #[inline]
    fn filter(&self, filter: usize, row: usize) -> bool {
        self.filters.get(filter).is_some_and(|values| values.is_valid(row) && values.value(row))
    }

    /// The first failure of a row that a call depends on: what a filter keeps out cannot fail.
    fn failure(&self, row: usize, failures: &[(Source, Code, String)]) -> Option<(Code, String)> {
        let of = |wanted: Source| {
            let found = failures.iter().find(|(source, _, _)| *source == wanted);
            found.map(|(_, code, message)| (*code, message.clone()))
        };
        let calls = self.plan.0.calls.iter().map(|call| (&call.filters, vec![call.argument]));
        let functions =
            self.plan.0.functions.iter().map(|function| (&function.filters, function.arguments.clone()));
        for (filters, arguments) in calls.chain(functions) {
            let mut included = true;
            for filter in filters {
                if let Some(failure) = of(Source::Filter(*filter)) {
                    return Some(failure);
                }
                included = self.filter(*filter, row);
                if !included {
                    break;
                }
            }
            if included
                && let Some(failure) =
                    arguments.into_iter().flatten().find_map(|argument| of(Source::Argument(argument)))
            {
                return Some(failure);
            }
        }
        None
    }
}

/// An array whose type has been looked up once.
#[derive(Clone, Debug)]
enum TypedArray {
    Bool(BooleanArray),
    Int32(Int32Array),
    Int64(Int64Array),
    Float32(Float32Array),
    Float64(Float64Array),
    Decimal(Decimal128Array),
    Date(Date32Array),
    Timestamp(TimestampMillisecondArray),
    String(StringArray),
    Bytes(BinaryArray),
    /// Lists and structs.
    Nested(Vec<Datum>),
}

impl TypedArray {
    fn new(array: &ArrayRef) -> Self {
        match array.data_type() {
            DataType::Boolean => TypedArray::Bool(array.as_boolean().clone()),
            DataType::Int32 => TypedArray::Int32(array.as_primitive::<Int32Type>().clone()),
            DataType::Int64 => TypedArray::Int64(array.as_primitive::<Int64Type>().clone()),
            DataType::Float32 => TypedArray::Float32(array.as_primitive::<Float32Type>().clone()),
            DataType::Float64 => TypedArray::Float64(array.as_primitive::<Float64Type>().clone()),
            DataType::Decimal128(_, _) => TypedArray::Decimal(array.as_primitive::<Decimal128Type>().clone()),
            DataType::Date32 => TypedArray::Date(array.as_primitive::<Date32Type>().clone()),
            DataType::Timestamp(TimeUnit::Millisecond, _) => {
                TypedArray::Timestamp(array.as_primitive::<TimestampMillisecondType>().clone())
            }
            DataType::Utf8 => TypedArray::String(array.as_string::<i32>().clone()),
            DataType::Binary => TypedArray::Bytes(array.as_binary::<i32>().clone()),
            _ => TypedArray::Nested((0..array.len()).map(|row| Datum::from_array(array, row)).collect()),
        }
    }

    #[inline]
    fn value(&self, row: usize) -> DatumRef<'_> {
        macro_rules! value {
            ($array:expr, $kind:ident) => {
                if $array.is_null(row) { DatumRef::Null } else { DatumRef::$kind($array.value(row)) }
            };
        }
        match self {
            TypedArray::Bool(array) => value!(array, Bool),
            TypedArray::Int32(array) => value!(array, Int32),
            TypedArray::Int64(array) => value!(array, Int64),
            TypedArray::Float32(array) => value!(array, Float32),
            TypedArray::Float64(array) => value!(array, Float64),
            TypedArray::Decimal(array) => value!(array, Decimal),
            TypedArray::Date(array) => value!(array, Date),
            TypedArray::Timestamp(array) => value!(array, Timestamp),
            TypedArray::String(array) => value!(array, String),
            TypedArray::Bytes(array) => value!(array, Bytes),
            TypedArray::Nested(values) => values.get(row).map_or(DatumRef::Null, Datum::by_ref),
        }
    }
}

/// Collects the results of groups into columns.
#[derive(Debug)]
pub struct ResultBuilder {
    plan: AggregatePlan,
    /// One per call, then one per function.
    builders: Result<Vec<DatumBuilder>, UnsupportedType>,
    rows: usize,
    /// Rows without a group.
    empty: Vec<usize>,
    errors: Vec<(usize, Code, String)>,
}

impl ResultBuilder {
    /// Adds the results of a group.
    pub fn push(&mut self, state: &GroupState) {
        let row = self.rows;
        self.rows += 1;
        let Ok(builders) = &mut self.builders else { return };
        let mut builders = builders.iter_mut();
        let in_call =
            |text: &str, why: &dyn std::fmt::Display| (Code::RecordExpression, format!("in `{text}`: {why}"));
        for ((call, accumulator), builder) in
            self.plan.0.calls.iter().zip(&state.calls).zip(builders.by_ref())
        {
            let outcome = match accumulator.result(call.kind) {
                Ok(result) => builder.append(&result).map_err(|error| in_call(&call.text, &error)),
                Err(_) => {
                    builder.append_null();
                    Err(overflow(call))
                }
            };
            if let Err((code, message)) = outcome {
                self.errors.push((row, code, message));
            }
        }
        for ((function, state), builder) in self.plan.0.functions.iter().zip(&state.functions).zip(builders) {
            let outcome = match state.result() {
                Ok(result) => builder.append(&result).map_err(|error| in_call(&function.text, &error)),
                Err(why) => {
                    builder.append_null();
                    Err(function.failed(&why))
                }
            };
            if let Err((code, message)) = outcome {
                self.errors.push((row, code, message));
            }
        }
    }

    /// Adds a row whose columns are all null.
    pub fn push_null(&mut self) {
        self.empty.push(self.rows);
        self.rows += 1;
        if let Ok(builders) = &mut self.builders {
            builders.iter_mut().for_each(DatumBuilder::append_null);
        }
    }

    /// The columns, in the order of [`AggregatePlan::output`], and the rows that failed: each once, in order.
    pub fn finish(self) -> (Vec<ArrayRef>, Vec<(usize, Code, String)>) {
        let rows = self.rows;
        let output = self.plan.output();
        let (arrays, errors) = match self.columns() {
            Ok(finished) => finished,
            Err(message) => {
                let arrays = output.iter().map(|(_, data_type)| new_null_array(data_type, rows)).collect();
                (arrays, (0..rows).map(|row| (row, Code::RecordExpression, message.clone())).collect())
            }
        };
        (arrays, first_of_rows(errors))
    }

    #[expect(clippy::type_complexity, reason = "columns and errors, as `finish` gives them")]
    fn columns(self) -> Result<(Vec<ArrayRef>, Vec<(usize, Code, String)>), String> {
        let text = |error: &dyn std::fmt::Display| format!("the results of aggregates: {error}");
        let Inner { calls, functions, outputs, results, .. } = self.plan.0.as_ref();
        let numbers = calls.iter().map(|call| call.number);
        let numbers = numbers.chain(functions.iter().map(|function| function.number));
        let mut finished: BTreeMap<usize, ArrayRef> = BTreeMap::new();
        for (number, builder) in numbers.zip(self.builders.map_err(|error| text(&error))?) {
            finished.insert(number, builder.finish().map_err(|error| text(&error))?);
        }
        let column = |number: usize| {
            let data_type = results.data_type(number).cloned().unwrap_or(DataType::Null);
            finished.get(&number).cloned().unwrap_or_else(|| new_null_array(&data_type, self.rows))
        };
        let all = || {
            let arrays = (0..results.arrow().fields().len()).map(column).collect();
            record_batch(results.arrow(), arrays, self.rows).map_err(|error| text(&error))
        };
        let is_empty = |row: &usize| self.empty.binary_search(row).is_ok();
        let nulls = BooleanArray::from_iter((0..self.rows).map(|row| Some(is_empty(&row))));
        let mut errors = self.errors;
        let mut arrays = Vec::new();
        for output in outputs {
            arrays.push(match &output.value {
                OutputValue::Call(number) => column(*number),
                OutputValue::Expression(expression) => {
                    let evaluated = expression.evaluate(&all()?);
                    errors.extend(evaluated.errors.into_iter().filter(|(row, _, _)| !is_empty(row)));
                    // An expression can make something of nulls (`coalesce`), a missing group stays null.
                    match self.empty.is_empty() {
                        true => evaluated.values,
                        false => {
                            arrow::compute::nullif(&evaluated.values, &nulls).map_err(|error| text(&error))?
                        }
                    }
                }
            });
        }
        Ok((arrays, errors))
    }
}
