//! Functions whose results can be far larger than what they are given: bounded, so that no record takes the process down.

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::compute::cast;
use arrow::compute::kernels::length::length;
use arrow::datatypes::{DataType, FieldRef, IntervalMonthDayNanoType};
use datafusion_common::{Result, exec_err};
use datafusion_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

/// What the result of one call may have: this many bytes, or [`TIMES`] as many as its arguments.
const LARGEST: u64 = 1 << 20;
const TIMES: u64 = 4;

const MILLIS_PER_DAY: i64 = 86_400_000;

/// How large a result becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Growth {
    /// `repeat(text, n)`, `array_repeat(value, n)`.
    Repeat,
    /// `lpad(text, n)`.
    Pad,
    /// `array_resize(list, n, value)`.
    Resize,
    /// `range(start, stop, step)`.
    Range,
    /// `replace(text, from, to)`.
    Replace,
    /// `regexp_replace(text, pattern, to)`: with a constant `to` a text grows as its author wanted.
    ReplacePattern,
    /// `array_replace_all(list, from, to)`.
    ReplaceItems,
    /// `array_to_string(list, delimiter)`.
    Join,
}

const GROWING: &[(&str, Growth)] = &[
    ("array_repeat", Growth::Repeat),
    ("array_replace_all", Growth::ReplaceItems),
    ("array_replace_n", Growth::ReplaceItems),
    ("array_resize", Growth::Resize),
    ("array_to_string", Growth::Join),
    ("generate_series", Growth::Range),
    ("lpad", Growth::Pad),
    ("range", Growth::Range),
    ("regexp_replace", Growth::ReplacePattern),
    ("repeat", Growth::Repeat),
    ("replace", Growth::Replace),
    ("rpad", Growth::Pad),
];

/// The function as expressions call it: bounded, if its results can grow.
pub(super) fn bounded(function: &ScalarUDF) -> ScalarUDF {
    match GROWING.iter().find(|(name, _)| *name == function.name()) {
        Some((_, growth)) => {
            ScalarUDF::new_from_impl(Bounded { function: function.clone(), growth: *growth })
        }
        None => function.clone(),
    }
}

/// A function that refuses to make too much.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    function: ScalarUDF,
    growth: Growth,
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn aliases(&self) -> &[String] {
        self.function.aliases()
    }

    fn signature(&self) -> &Signature {
        self.function.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.function.return_type(types)
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.function.return_field_from_args(arguments)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.function.inner().coerce_types(types)
    }

    fn simplify(&self, arguments: Vec<Expr>, context: &SimplifyContext) -> Result<ExprSimplifyResult> {
        self.function.simplify(arguments, context)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = |index| matches!(arguments.args.get(index), None | Some(ColumnarValue::Scalar(_)));
        if self.growth != Growth::ReplacePattern || !constant(2) {
            let rows = if (0..arguments.args.len()).all(constant) { 1 } else { arguments.number_rows };
            let arrays = arguments.args.iter().map(|argument| argument.to_array(rows));
            self.check(&arrays.collect::<Result<Vec<_>>>()?, rows)?;
        }
        self.function.invoke_with_args(arguments)
    }
}

impl Bounded {
    /// Fails if the result of a row would be too large.
    fn check(&self, arguments: &[ArrayRef], rows: usize) -> Result<()> {
        let [first, rest @ ..] = arguments else { return Ok(()) };
        let sizes = arguments.iter().map(Sizes::new).collect::<Result<Vec<_>>>()?;
        let size = |argument: usize, row| sizes.get(argument).map_or(0, |sizes| sizes.of(row));
        let count = |argument: usize| -> Result<Int64Array> {
            let counts = arguments.get(argument).map(|counts| cast(counts, &DataType::Int64)).transpose()?;
            Ok(counts.map_or_else(|| Int64Array::new_null(rows), |counts| counts.as_primitive().clone()))
        };
        let results: Box<dyn Fn(usize) -> u64 + '_> = match self.growth {
            Growth::Repeat => {
                let counts = count(1)?;
                Box::new(move |row| times(&counts, row, size(0, row)))
            }
            Growth::Pad => {
                let counts = count(1)?;
                Box::new(move |row| times(&counts, row, 1))
            }
            Growth::Resize => {
                let counts = count(1)?;
                Box::new(move |row| times(&counts, row, size(2, row).max(8)))
            }
            Growth::Range => {
                let lengths = range_lengths(arguments, rows)?;
                Box::new(move |row| lengths.get(row).copied().unwrap_or(0).saturating_mul(8))
            }
            Growth::Replace => {
                let text = |argument: usize, row: usize| -> Option<String> {
                    let text = cast(&arguments.get(argument)?.slice(row, 1), &DataType::Utf8).ok()?;
                    let text = text.as_string::<i32>();
                    text.is_valid(0).then(|| text.value(0).to_owned())
                };
                Box::new(move |row| match size(0, row).saturating_add(1).saturating_mul(size(2, row)) {
                    small @ ..=LARGEST => small,
                    _ => match (text(0, row), text(1, row)) {
                        (Some(text), Some(from)) => {
                            (text.matches(&from).count() as u64).saturating_mul(size(2, row))
                        }
                        _ => 0,
                    },
                })
            }
            Growth::ReplacePattern => {
                Box::new(move |row| size(0, row).saturating_add(1).saturating_mul(size(2, row)))
            }
            Growth::ReplaceItems => {
                let items = items(first, rows)?;
                Box::new(move |row| times(&items, row, size(2, row)))
            }
            Growth::Join => {
                let items = items(first, rows)?;
                Box::new(move |row| times(&items, row, size(1, row).max(size(2, row))))
            }
        };
        let nulls = |row| rest.iter().chain([first]).any(|argument| argument.is_null(row));
        for row in 0..rows {
            let given: u64 = sizes.iter().map(|sizes| sizes.of(row)).sum();
            if results(row) > LARGEST.max(given.saturating_mul(TIMES)) && !nulls(row) {
                return exec_err!("the result of {} would be larger than 1 MiB", self.name());
            }
        }
        Ok(())
    }
}

/// `size` times the count of a row.
fn times(counts: &Int64Array, row: usize, size: u64) -> u64 {
    let count = if counts.is_valid(row) { counts.value(row) } else { 0 };
    u64::try_from(count).unwrap_or(0).saturating_mul(size)
}

/// How many items the lists of a column have.
fn items(lists: &ArrayRef, rows: usize) -> Result<Int64Array> {
    match lists.data_type() {
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(_, _) => {
            Ok(cast(&length(lists)?, &DataType::Int64)?.as_primitive().clone())
        }
        _ => Ok(Int64Array::new_null(rows)),
    }
}

/// How many bytes the values of a column have, about.
enum Sizes {
    Fixed(u64),
    Lengths(Int64Array),
    /// Per row the bytes before it and, last, all.
    Lists(Vec<u64>),
}

impl Sizes {
    fn new(array: &ArrayRef) -> Result<Self> {
        Ok(match array.data_type() {
            DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View
            | DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView => {
                Sizes::Lengths(cast(&length(array)?, &DataType::Int64)?.as_primitive().clone())
            }
            DataType::List(_) => {
                let lists = array.as_list::<i32>();
                let items = Sizes::new(lists.values())?;
                let mut total: u64 = 0;
                let mut ends = vec![0];
                for range in lists.value_offsets().windows(2) {
                    if let [start, end] = range {
                        total += (*start..*end).map(|item| items.of(item as usize)).sum::<u64>();
                        ends.push(total);
                    }
                }
                Sizes::Lists(ends)
            }
            DataType::Struct(_) => Sizes::Fixed(64),
            _ => Sizes::Fixed(8),
        })
    }

    fn of(&self, row: usize) -> u64 {
        match self {
            Sizes::Fixed(size) => *size,
            Sizes::Lengths(lengths) => times(lengths, row, 1),
            Sizes::Lists(ends) => match ends.get(row..=row + 1) {
                Some([start, end]) => end - start,
                _ => 0,
            },
        }
    }
}

/// How many values lie between start and stop; of times only about.
fn range_lengths(arguments: &[ArrayRef], rows: usize) -> Result<Vec<u64>> {
    let integers = |array: &ArrayRef| -> Result<Int64Array> {
        let millis = match array.data_type() {
            DataType::Date32 | DataType::Timestamp(_, _) => {
                cast(array, &DataType::Timestamp(arrow::datatypes::TimeUnit::Millisecond, None))?
            }
            _ => array.clone(),
        };
        Ok(cast(&millis, &DataType::Int64)?.as_primitive().clone())
    };
    let (start, stop, step) = match arguments {
        [stop] => (None, stop, None),
        [start, stop] => (Some(start), stop, None),
        [start, stop, step, ..] => (Some(start), stop, Some(step)),
        [] => return Ok(Vec::new()),
    };
    let start = start.map(integers).transpose()?;
    let stop = integers(stop)?;
    let step = match step.map(|step| (step.data_type(), step)) {
        Some((DataType::Interval(_), step)) => {
            // A month is 28 days at least.
            let millis = step
                .as_primitive::<IntervalMonthDayNanoType>()
                .unary::<_, arrow::datatypes::Int64Type>(|step| {
                    let days = i64::from(step.months).saturating_mul(28).saturating_add(step.days.into());
                    days.saturating_mul(MILLIS_PER_DAY).saturating_add(step.nanoseconds / 1_000_000)
                });
            Some(millis)
        }
        Some((_, step)) => Some(integers(step)?),
        None => None,
    };
    let value = |array: &Option<Int64Array>, row, default| {
        array.as_ref().map_or(default, |array| if array.is_valid(row) { array.value(row) } else { default })
    };
    let length = |row: usize| {
        let stop = if stop.is_valid(row) { stop.value(row) } else { 0 };
        let (start, step) = (value(&start, row, 0), value(&step, row, 1));
        match (stop > start) == (step > 0) {
            true => stop.abs_diff(start) / step.unsigned_abs().max(1) + 1,
            false => 1,
        }
    };
    Ok((0..rows).map(length).collect())
}
