//! Aggregates that are functions of DataFusion's kind: its own, of which most are approximate, and those of users.
//!
//! A function's state is what its accumulator gives (`state`), and goes on from there in a new one (`merge_batch`), as DataFusion
//! does between its partial and its final aggregation. What comes of that need not be equal to the last bit to what comes of one
//! accumulator that has seen all rows: results may differ between runs with other batches, commits or restarts, by no more than what
//! the function is approximate by.

#[cfg(test)]
mod tests;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Schema as ArrowSchema};
use arrow::row::{RowConverter, SortField};
use datafusion_common::{DataFusionError, ScalarValue};
use datafusion_expr::Accumulator;
use datafusion_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion_expr::type_coercion::functions::fields_with_udf;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::{Column, Literal};

use crate::datum::{Datum, DecodeError, Reader, put_bytes};
use crate::schema::{canonical, type_name};
use crate::sql::{AggregateFunction, Expression};

/// What reads the bytes of its states.
const DATAFUSION: &str = "DataFusion 55.2";

/// A function with the types of a call; cheap to clone.
#[derive(Clone)]
pub(super) struct FunctionCall(Arc<Inner>);

struct Inner {
    function: AggregateFunction,
    /// Constants are literals: some functions ask for them.
    arguments: Vec<Arc<dyn PhysicalExpr>>,
    /// As the function wants them.
    fields: Vec<FieldRef>,
    schema: ArrowSchema,
    result: FieldRef,
    data_type: DataType,
    state_types: Vec<DataType>,
    states: RowConverter,
}

impl fmt::Debug for FunctionCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.function.function.name())
    }
}

fn said(error: &DataFusionError) -> String {
    crate::sql::clean(error)
}

impl FunctionCall {
    /// The function over these arguments.
    ///
    /// # Errors
    /// Why it does not take them.
    pub fn new(function: &AggregateFunction, arguments: &[Expression]) -> Result<Self, String> {
        let name = function.function.name();
        let types = || {
            let types: Vec<String> =
                arguments.iter().map(|argument| type_name(argument.data_type())).collect();
            format!("`{name}` does not take ({})", types.join(", "))
        };
        let given: Vec<FieldRef> = arguments
            .iter()
            .enumerate()
            .map(|(number, argument)| {
                Arc::new(Field::new(format!("argument {number}"), argument.data_type().clone(), true))
            })
            .collect();
        let fields = fields_with_udf(&given, function.function.as_ref()).map_err(|_| types())?;
        let is_text = |data_type: &DataType| *data_type == DataType::Utf8;
        if given
            .iter()
            .zip(&fields)
            .any(|(given, field)| is_text(given.data_type()) && field.data_type().is_numeric())
        {
            return Err(types());
        }
        let constants = arguments.iter().zip(&fields).enumerate().map(|(number, (argument, field))| {
            let column = || Arc::new(Column::new(field.name(), number)) as Arc<dyn PhysicalExpr>;
            let Some(constant) = argument.constant() else { return Ok(column()) };
            let constant = constant.cast_to(field.data_type()).map_err(|error| said(&error))?;
            Ok(Arc::new(Literal::new(constant)) as Arc<dyn PhysicalExpr>)
        });
        let physical = constants.collect::<Result<Vec<_>, String>>()?;
        let result = function.function.return_field(&fields).map_err(|error| said(&error))?;
        let data_type = match result.data_type() {
            unsigned if unsigned.is_unsigned_integer() => DataType::Int64,
            other => canonical(other).ok_or_else(|| {
                format!("`{name}` gives a {}, which is not a type of columns", type_name(other))
            })?,
        };
        let state_fields = function
            .function
            .state_fields(StateFieldsArgs {
                name,
                input_fields: &fields,
                return_field: result.clone(),
                ordering_fields: &[],
                is_distinct: false,
            })
            .map_err(|error| said(&error))?;
        let state_types: Vec<DataType> = state_fields.iter().map(|field| field.data_type().clone()).collect();
        let states = RowConverter::new(state_types.iter().cloned().map(SortField::new).collect())
            .map_err(|error| error.to_string())?;
        let call = FunctionCall(Arc::new(Inner {
            function: function.clone(),
            arguments: physical,
            schema: ArrowSchema::new(fields.clone()),
            fields,
            result,
            data_type,
            state_types,
            states,
        }));
        // Some constants are only looked at here.
        call.accumulator().map_err(|error| said(&error))?;
        Ok(call)
    }

    /// The type of its results.
    pub fn data_type(&self) -> &DataType {
        &self.0.data_type
    }

    /// Whether rows can fail that have been evaluated: DataFusion's own functions take whatever has the right type.
    pub fn can_fail(&self) -> bool {
        !self.0.function.built_in
    }

    /// Whether it remembers every value.
    pub fn grows(&self) -> bool {
        self.0.function.grows
    }

    /// Changes when the bytes of a state would be read wrongly.
    pub fn fingerprint(&self) -> String {
        let states: Vec<String> = self.0.state_types.iter().map(ToString::to_string).collect();
        let version = if self.0.function.built_in { DATAFUSION } else { "own" };
        format!("{} {version} [{}]", self.0.function.function.name(), states.join(", "))
    }

    fn accumulator(&self) -> Result<Box<dyn Accumulator>, DataFusionError> {
        self.0.function.function.accumulator(AccumulatorArgs {
            return_field: self.0.result.clone(),
            schema: &self.0.schema,
            ignore_nulls: false,
            order_bys: &[],
            is_reversed: false,
            name: self.0.function.function.name(),
            is_distinct: false,
            exprs: &self.0.arguments,
            expr_fields: &self.0.fields,
        })
    }

    /// An accumulator that goes on from a state.
    fn resumed(&self, state: &[ScalarValue]) -> Result<Box<dyn Accumulator>, DataFusionError> {
        let mut accumulator = self.accumulator()?;
        let arrays = state.iter().map(ScalarValue::to_array).collect::<Result<Vec<ArrayRef>, _>>()?;
        accumulator.merge_batch(&arrays)?;
        Ok(accumulator)
    }

    /// A group without rows.
    pub fn start(&self) -> FunctionState {
        FunctionState { call: self.clone(), accumulator: Mutex::new(self.accumulator()) }
    }

    /// Reads what [`FunctionState::write`] has written.
    pub fn read(&self, reader: &mut Reader<'_, '_>) -> Result<FunctionState, DecodeError> {
        const DAMAGED: DecodeError =
            DecodeError::Damaged("the state of an aggregate function cannot be read");
        let bytes = reader.bytes()?;
        let parser = self.0.states.parser();
        // Rows that are no rows are not reported otherwise.
        let arrays = catch_unwind(AssertUnwindSafe(|| self.0.states.convert_rows([parser.parse(bytes)])));
        let arrays = arrays.map_err(|_| DAMAGED)?.map_err(|_| DAMAGED)?;
        let mut accumulator = self.accumulator().map_err(|_| DAMAGED)?;
        let merged = catch_unwind(AssertUnwindSafe(|| accumulator.merge_batch(&arrays)));
        merged.map_err(|_| DAMAGED)?.map_err(|_| DAMAGED)?;
        Ok(FunctionState { call: self.clone(), accumulator: Mutex::new(Ok(accumulator)) })
    }
}

/// What a call of a function remembers of a group.
pub(super) struct FunctionState {
    call: FunctionCall,
    /// To look into an accumulator changes it. One that has failed fails for good.
    accumulator: Mutex<Result<Box<dyn Accumulator>, DataFusionError>>,
}

impl fmt::Debug for FunctionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FunctionState").field(&self.call).finish()
    }
}

impl Clone for FunctionState {
    fn clone(&self) -> Self {
        let accumulator = self.state().and_then(|state| self.call.resumed(&state));
        FunctionState { call: self.call.clone(), accumulator: Mutex::new(accumulator) }
    }
}

impl FunctionState {
    /// The state; the accumulator, which gave it away, goes on from it.
    fn state(&self) -> Result<Vec<ScalarValue>, DataFusionError> {
        let mut accumulator = self.accumulator.lock().unwrap_or_else(PoisonError::into_inner);
        let state = match accumulator.as_mut() {
            Ok(accumulator) => accumulator.state(),
            Err(error) => Err(DataFusionError::Execution(said(error))),
        };
        if let Ok(state) = &state {
            *accumulator = self.call.resumed(state);
        }
        state
    }

    fn change(
        &mut self,
        change: impl FnOnce(&mut dyn Accumulator) -> Result<(), DataFusionError>,
    ) -> Result<(), String> {
        let accumulator = self.accumulator.get_mut().unwrap_or_else(PoisonError::into_inner);
        match accumulator {
            Ok(accumulator) => change(accumulator.as_mut()).map_err(|error| said(&error)),
            Err(error) => Err(said(error)),
        }
    }

    /// Adds rows: one array per argument, none for constants. The state is of no use after an error.
    pub fn update(&mut self, arguments: &[Option<ArrayRef>], rows: usize) -> Result<(), String> {
        let inner = self.call.0.clone();
        let all = arguments.iter().zip(&inner.fields).zip(&inner.arguments);
        let all = all.map(|((array, field), argument)| match (array, argument.downcast_ref::<Literal>()) {
            (None, Some(constant)) => constant.value().to_array_of_size(rows),
            (None, None) => ScalarValue::try_from(field.data_type())?.to_array_of_size(rows),
            (Some(array), _) if array.data_type() == field.data_type() => Ok(array.clone()),
            (Some(array), _) => Ok(cast(array, field.data_type())?),
        });
        let all = all.collect::<Result<Vec<ArrayRef>, _>>().map_err(|error| said(&error))?;
        self.change(|accumulator| accumulator.update_batch(&all))
    }

    /// Adds the rows of another group. The state is of no use after an error.
    pub fn merge(&mut self, other: &FunctionState) -> Result<(), String> {
        let state = other.state().map_err(|error| said(&error))?;
        self.change(|accumulator| {
            let arrays = state.iter().map(ScalarValue::to_array).collect::<Result<Vec<ArrayRef>, _>>()?;
            accumulator.merge_batch(&arrays)
        })
    }

    /// What the call gives.
    pub fn result(&self) -> Result<Datum, String> {
        let result = || {
            let state = self.state()?;
            let result = self.call.resumed(&state)?.evaluate()?.to_array()?;
            Ok(Datum::from_array(&cast(&result, &self.call.0.data_type)?, 0))
        };
        result().map_err(|error: DataFusionError| said(&error))
    }

    /// Appends its bytes. Of a state that has failed, which nobody stores, they cannot be read.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Inner { states, state_types, .. } = self.call.0.as_ref();
        let bytes = || {
            let state = self.state()?;
            let arrays = state.iter().zip(state_types).map(|(value, data_type)| {
                let array = value.to_array()?;
                Ok(if array.data_type() == data_type { array } else { cast(&array, data_type)? })
            });
            let arrays = arrays.collect::<Result<Vec<ArrayRef>, DataFusionError>>()?;
            Ok::<_, DataFusionError>(states.convert_columns(&arrays)?.row(0).as_ref().to_vec())
        };
        put_bytes(out, &bytes().unwrap_or_default());
    }
}
