//! One aggregate call over one group: what it remembers, how a value changes that, and its bytes.

use std::collections::BTreeSet;

use arrow::datatypes::DataType;

use crate::datum::{Datum, DatumRef, DecodeError, Reader, put_signed, put_unsigned};

/// What a call computes. The type of its argument and of its result belong to the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    CountRows,
    Count,
    CountDistinct,
    SumInt,
    SumFloat,
    SumDecimal,
    AvgInt,
    AvgFloat,
    /// With how many powers of ten the result is finer than the argument.
    AvgDecimal(u32),
    /// `scale` is that of a decimal argument; divided by n − 1 if `sample`; square root if `root`.
    Variance {
        scale: i8,
        sample: bool,
        root: bool,
    },
    Min,
    Max,
    First {
        ignore_nulls: bool,
    },
    Last {
        ignore_nulls: bool,
    },
    /// Over the rows of a table: values can be taken back.
    Net(Net),
}

/// What a call computes over values that can be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Net {
    CountRows,
    Count,
    CountDistinct,
    SumInt,
    SumFloat,
    SumDecimal,
    AvgInt,
    AvgFloat,
    /// As [`Kind::AvgDecimal`].
    AvgDecimal(u32),
    /// As [`Kind::Variance`].
    Variance {
        scale: i8,
        sample: bool,
        root: bool,
    },
    Min,
    Max,
}

impl Kind {
    /// The same over values that can be taken back; `None` if what is taken back cannot be told from what is left.
    pub fn net(self) -> Option<Kind> {
        Some(Kind::Net(match self {
            Kind::CountRows => Net::CountRows,
            Kind::Count => Net::Count,
            Kind::CountDistinct => Net::CountDistinct,
            Kind::SumInt => Net::SumInt,
            Kind::SumFloat => Net::SumFloat,
            Kind::SumDecimal => Net::SumDecimal,
            Kind::AvgInt => Net::AvgInt,
            Kind::AvgFloat => Net::AvgFloat,
            Kind::AvgDecimal(finer) => Net::AvgDecimal(finer),
            Kind::Variance { scale, sample, root } => Net::Variance { scale, sample, root },
            Kind::Min => Net::Min,
            Kind::Max => Net::Max,
            Kind::First { .. } | Kind::Last { .. } => return None,
            Kind::Net(net) => net,
        }))
    }
}

/// What a call remembers of a group.
#[derive(Clone, Debug)]
pub(super) enum Accumulator {
    Count(i64),
    SumInt(Option<i64>),
    SumFloat(Option<f64>),
    SumDecimal(Option<i128>),
    AvgExact {
        sum: i128,
        count: i64,
    },
    AvgFloat {
        sum: f64,
        count: i64,
    },
    /// Welford's method: count, mean, and sum of squared distances from it.
    Moments {
        count: i64,
        mean: f64,
        squares: f64,
    },
    Extreme(Datum),
    /// `None` until a row has come.
    Chosen(Option<Datum>),
    Distinct(BTreeSet<Datum>),
    /// An exact sum that can leave its type's range for a while.
    NetExact {
        sum: WideSum,
        count: i64,
    },
    /// The sum of those values that are finite, and how many are not.
    NetFloat {
        sum: f64,
        finite: i64,
        infinite: i64,
        negative_infinite: i64,
        nan: i64,
    },
    /// As `Moments`, of those values that are finite.
    NetMoments {
        count: i64,
        mean: f64,
        squares: f64,
        not_finite: i64,
    },
}

/// A sum of decimals that does not overflow: a number of [`WideSum::UNIT`]s, and a rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct WideSum {
    units: i128,
    rest: i128,
}

impl WideSum {
    const UNIT: i128 = 10i128.pow(18);

    fn add(&mut self, value: i128, times: i128) {
        self.units += times * (value / Self::UNIT);
        self.rest += times * (value % Self::UNIT);
    }

    fn total(self) -> Result<i128, Overflow> {
        self.units.checked_mul(Self::UNIT).and_then(|units| units.checked_add(self.rest)).ok_or(Overflow)
    }
}

/// The sum leaves the range of its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Overflow;

/// The largest decimal of 38 digits.
const MAX_DECIMAL: i128 = 10i128.pow(38) - 1;

fn integer(value: &DatumRef<'_>) -> Option<i64> {
    match value {
        DatumRef::Int32(value) => Some(i64::from(*value)),
        DatumRef::Int64(value) => Some(*value),
        _ => None,
    }
}

fn float(value: &DatumRef<'_>, scale: i8) -> Option<f64> {
    match value {
        DatumRef::Int32(value) => Some(f64::from(*value)),
        DatumRef::Int64(value) => Some(*value as f64),
        DatumRef::Float32(value) => Some(f64::from(*value)),
        DatumRef::Float64(value) => Some(*value),
        DatumRef::Decimal(value) => Some(*value as f64 / 10f64.powi(i32::from(scale))),
        _ => None,
    }
}

fn add_decimal(sum: i128, value: i128) -> Result<i128, Overflow> {
    sum.checked_add(value).filter(|sum| sum.abs() <= MAX_DECIMAL).ok_or(Overflow)
}

/// The value by which distinct ones are told apart: SQL knows one zero, and one NaN.
fn distinguished(value: &DatumRef<'_>) -> Datum {
    match value {
        DatumRef::Float32(value) if *value == 0.0 => Datum::Float32(0.0),
        DatumRef::Float32(value) if value.is_nan() => Datum::Float32(f32::NAN),
        DatumRef::Float64(value) if *value == 0.0 => Datum::Float64(0.0),
        DatumRef::Float64(value) if value.is_nan() => Datum::Float64(f64::NAN),
        other => other.to_datum(),
    }
}

impl Accumulator {
    pub fn new(kind: Kind) -> Self {
        match kind {
            Kind::CountRows | Kind::Count => Accumulator::Count(0),
            Kind::CountDistinct => Accumulator::Distinct(BTreeSet::new()),
            Kind::SumInt => Accumulator::SumInt(None),
            Kind::SumFloat => Accumulator::SumFloat(None),
            Kind::SumDecimal => Accumulator::SumDecimal(None),
            Kind::AvgInt | Kind::AvgDecimal(_) => Accumulator::AvgExact { sum: 0, count: 0 },
            Kind::AvgFloat => Accumulator::AvgFloat { sum: 0.0, count: 0 },
            Kind::Variance { .. } => Accumulator::Moments { count: 0, mean: 0.0, squares: 0.0 },
            Kind::Min | Kind::Max => Accumulator::Extreme(Datum::Null),
            Kind::First { .. } | Kind::Last { .. } => Accumulator::Chosen(None),
            Kind::Net(net) => match net {
                Net::CountRows | Net::Count | Net::CountDistinct => Accumulator::Count(0),
                Net::SumInt | Net::SumDecimal | Net::AvgInt | Net::AvgDecimal(_) => {
                    Accumulator::NetExact { sum: WideSum::default(), count: 0 }
                }
                Net::SumFloat | Net::AvgFloat => {
                    Accumulator::NetFloat { sum: 0.0, finite: 0, infinite: 0, negative_infinite: 0, nan: 0 }
                }
                Net::Variance { .. } => {
                    Accumulator::NetMoments { count: 0, mean: 0.0, squares: 0.0, not_finite: 0 }
                }
                Net::Min | Net::Max => Accumulator::Extreme(Datum::Null),
            },
        }
    }

    /// Whether the value can be added.
    pub fn check(&self, value: &DatumRef<'_>) -> Result<(), Overflow> {
        match (self, value) {
            (Accumulator::SumInt(Some(sum)), value) => {
                let value = integer(value).unwrap_or_default();
                sum.checked_add(value).map(|_| ()).ok_or(Overflow)
            }
            (Accumulator::SumDecimal(sum), DatumRef::Decimal(value)) => {
                add_decimal(sum.unwrap_or_default(), *value).map(|_| ())
            }
            (Accumulator::AvgExact { sum, .. }, DatumRef::Decimal(value)) => {
                sum.checked_add(*value).map(|_| ()).ok_or(Overflow)
            }
            _ => Ok(()),
        }
    }

    /// Adds a value that has passed [`check`](Self::check).
    #[inline]
    pub fn add(&mut self, kind: Kind, value: &DatumRef<'_>) {
        match (self, kind) {
            (accumulator, Kind::Net(net)) => accumulator.add_net(net, value, 1),
            (Accumulator::Count(count), Kind::CountRows) => *count += 1,
            (Accumulator::Chosen(chosen), Kind::First { ignore_nulls }) => {
                if chosen.is_none() && !(ignore_nulls && value.is_null()) {
                    *chosen = Some(value.to_datum());
                }
            }
            (Accumulator::Chosen(chosen), Kind::Last { ignore_nulls }) => {
                if !(ignore_nulls && value.is_null()) {
                    *chosen = Some(value.to_datum());
                }
            }
            _ if value.is_null() => {}
            (Accumulator::Count(count), _) => *count += 1,
            (Accumulator::SumInt(sum), _) => {
                let value = integer(value).unwrap_or_default();
                *sum = Some(sum.map_or(value, |sum| sum.saturating_add(value)));
            }
            (Accumulator::SumFloat(sum), _) => {
                let value = float(value, 0).unwrap_or_default();
                *sum = Some(sum.map_or(value, |sum| sum + value));
            }
            (Accumulator::SumDecimal(sum), _) => {
                if let DatumRef::Decimal(value) = value {
                    *sum = Some(sum.map_or(*value, |sum| sum.saturating_add(*value)));
                }
            }
            (Accumulator::AvgExact { sum, count }, _) => {
                let value = match value {
                    DatumRef::Decimal(value) => *value,
                    value => i128::from(integer(value).unwrap_or_default()),
                };
                *sum = sum.saturating_add(value);
                *count += 1;
            }
            (Accumulator::AvgFloat { sum, count }, _) => {
                *sum += float(value, 0).unwrap_or_default();
                *count += 1;
            }
            (Accumulator::Moments { count, mean, squares }, Kind::Variance { scale, .. }) => {
                let value = float(value, scale).unwrap_or_default();
                *count += 1;
                let distance = value - *mean;
                *mean += distance / *count as f64;
                *squares += distance * (value - *mean);
            }
            (Accumulator::Extreme(extreme), Kind::Min) => {
                if extreme.is_null() || value.compare(&extreme.by_ref()).is_lt() {
                    *extreme = value.to_datum();
                }
            }
            (Accumulator::Extreme(extreme), _) => {
                if extreme.is_null() || value.compare(&extreme.by_ref()).is_gt() {
                    *extreme = value.to_datum();
                }
            }
            (Accumulator::Distinct(values), _) => {
                values.insert(distinguished(value));
            }
            (
                Accumulator::Chosen(_)
                | Accumulator::Moments { .. }
                | Accumulator::NetExact { .. }
                | Accumulator::NetFloat { .. }
                | Accumulator::NetMoments { .. },
                _,
            ) => {}
        }
    }

    /// Takes a value back that was added.
    pub fn take_back(&mut self, kind: Kind, value: &DatumRef<'_>) {
        if let Kind::Net(net) = kind {
            self.add_net(net, value, -1);
        }
    }

    /// Adds a value, or takes it back if `times` is −1. Elements of multisets are not counted here: extremes only grow.
    fn add_net(&mut self, net: Net, value: &DatumRef<'_>, times: i64) {
        match (self, net) {
            (Accumulator::Count(count), Net::CountRows) => *count += times,
            _ if value.is_null() => {}
            (Accumulator::Count(count), Net::Count) => *count += times,
            (Accumulator::NetExact { sum, count }, _) => {
                let value = match value {
                    DatumRef::Decimal(value) => *value,
                    value => i128::from(integer(value).unwrap_or_default()),
                };
                sum.add(value, i128::from(times));
                *count += times;
            }
            (Accumulator::NetFloat { sum, finite, infinite, negative_infinite, nan }, _) => {
                match float(value, 0).unwrap_or_default() {
                    value if value.is_nan() => *nan += times,
                    f64::INFINITY => *infinite += times,
                    f64::NEG_INFINITY => *negative_infinite += times,
                    value => {
                        *finite += times;
                        *sum = if *finite == 0 { 0.0 } else { *sum + value * times as f64 };
                    }
                }
            }
            (Accumulator::NetMoments { count, mean, squares, not_finite }, Net::Variance { scale, .. }) => {
                let value = float(value, scale).unwrap_or_default();
                if !value.is_finite() {
                    *not_finite += times;
                    return;
                }
                *count += times;
                if *count == 0 {
                    (*mean, *squares) = (0.0, 0.0);
                    return;
                }
                let distance = value - *mean;
                *mean += times as f64 * distance / *count as f64;
                *squares = (*squares + times as f64 * distance * (value - *mean)).max(0.0);
            }
            (Accumulator::Extreme(extreme), Net::Min | Net::Max) if times > 0 => {
                let value = distinguished(value);
                let order = value.by_ref().compare(&extreme.by_ref());
                if extreme.is_null() || (if net == Net::Min { order.is_lt() } else { order.is_gt() }) {
                    *extreme = value;
                }
            }
            _ => {}
        }
    }

    /// Whether a value is the extreme that is remembered.
    pub fn is_extreme(&self, value: &DatumRef<'_>) -> bool {
        matches!(self, Accumulator::Extreme(extreme) if distinguished(value).by_ref().compare(&extreme.by_ref()).is_eq())
    }

    /// Adds values one after the other, until one cannot be added.
    pub fn add_all<'a>(
        &mut self,
        kind: Kind,
        mut values: impl Iterator<Item = DatumRef<'a>>,
    ) -> Result<(), Overflow> {
        // What is asked for most does not have to find out for each value what it does.
        match (&mut *self, kind) {
            (Accumulator::Count(count), Kind::CountRows) => *count += values.count() as i64,
            (Accumulator::SumFloat(sum), _) => {
                *sum = values
                    .filter_map(|value| float(&value, 0))
                    .fold(*sum, |sum, value| Some(sum.map_or(value, |sum| sum + value)));
            }
            (Accumulator::AvgFloat { sum, count }, _) => {
                for value in values.filter_map(|value| float(&value, 0)) {
                    *sum += value;
                    *count += 1;
                }
            }
            _ => {
                return values.try_for_each(|value| {
                    self.check(&value)?;
                    self.add(kind, &value);
                    Ok(())
                });
            }
        }
        Ok(())
    }

    /// Adds what another one of the same call remembers, as of values that come after those here.
    pub fn merge(&mut self, kind: Kind, other: &Accumulator) -> Result<(), Overflow> {
        match (&mut *self, other) {
            (Accumulator::Count(count), Accumulator::Count(more)) => *count += more,
            (Accumulator::SumInt(sum), Accumulator::SumInt(Some(more))) => {
                *sum = Some(sum.unwrap_or_default().checked_add(*more).ok_or(Overflow)?);
            }
            (Accumulator::SumFloat(sum), Accumulator::SumFloat(Some(more))) => {
                *sum = Some(sum.map_or(*more, |sum| sum + more));
            }
            (Accumulator::SumDecimal(sum), Accumulator::SumDecimal(Some(more))) => {
                *sum = Some(add_decimal(sum.unwrap_or_default(), *more)?);
            }
            (
                Accumulator::AvgExact { sum, count },
                Accumulator::AvgExact { sum: more, count: more_values },
            ) => {
                *sum = sum.checked_add(*more).ok_or(Overflow)?;
                *count += more_values;
            }
            (
                Accumulator::AvgFloat { sum, count },
                Accumulator::AvgFloat { sum: more, count: more_values },
            ) => {
                *sum = if *count == 0 { *more } else { *sum + more };
                *count += more_values;
            }
            (Accumulator::Moments { count: 0, .. }, Accumulator::Moments { .. }) => self.clone_from(other),
            (
                Accumulator::Moments { count, mean, squares },
                Accumulator::Moments { count: more_values, mean: other_mean, squares: more },
            ) if *more_values > 0 => {
                // Chan, Golub and LeVeque.
                let (here, there) = (*count as f64, *more_values as f64);
                let distance = other_mean - *mean;
                *mean += distance * there / (here + there);
                *squares += more + distance * distance * here * there / (here + there);
                *count += more_values;
            }
            (Accumulator::Extreme(_), Accumulator::Extreme(value)) => self.add(kind, &value.by_ref()),
            (Accumulator::Chosen(chosen), Accumulator::Chosen(Some(value)))
                if chosen.is_none() || matches!(kind, Kind::Last { .. }) =>
            {
                *chosen = Some(value.clone());
            }
            (Accumulator::Distinct(values), Accumulator::Distinct(more)) => {
                values.extend(more.iter().cloned())
            }
            // What remembers nothing.
            _ => {}
        }
        Ok(())
    }

    /// The call's result.
    pub fn result(&self, kind: Kind) -> Result<Datum, Overflow> {
        Ok(match self {
            Accumulator::Count(count) => Datum::Int64(*count),
            Accumulator::SumInt(sum) => sum.map_or(Datum::Null, Datum::Int64),
            Accumulator::SumFloat(sum) => sum.map_or(Datum::Null, Datum::Float64),
            Accumulator::SumDecimal(sum) => sum.map_or(Datum::Null, |sum| Datum::Decimal(sum.into())),
            Accumulator::AvgExact { count: 0, .. } | Accumulator::AvgFloat { count: 0, .. } => Datum::Null,
            Accumulator::AvgExact { sum, count } => match kind {
                Kind::AvgDecimal(finer) => Datum::Decimal(divided(*sum, *count, finer)?.into()),
                _ => Datum::Float64(*sum as f64 / *count as f64),
            },
            Accumulator::AvgFloat { sum, count } => Datum::Float64(*sum / *count as f64),
            Accumulator::Moments { count, squares, .. } => match kind {
                Kind::Variance { sample, root, .. } if *count > i64::from(sample) => {
                    let variance = squares / (*count - i64::from(sample)) as f64;
                    Datum::Float64(if root { variance.sqrt() } else { variance })
                }
                _ => Datum::Null,
            },
            Accumulator::Extreme(value) => value.clone(),
            Accumulator::Chosen(value) => value.clone().unwrap_or_default(),
            Accumulator::Distinct(values) => Datum::Int64(values.len() as i64),
            Accumulator::NetExact { count: 0, .. } => Datum::Null,
            Accumulator::NetExact { sum, count } => {
                let sum = sum.total()?;
                match kind {
                    Kind::Net(Net::SumInt) => Datum::Int64(i64::try_from(sum).map_err(|_| Overflow)?),
                    Kind::Net(Net::SumDecimal) if sum.abs() > MAX_DECIMAL => return Err(Overflow),
                    Kind::Net(Net::SumDecimal) => Datum::Decimal(sum.into()),
                    Kind::Net(Net::AvgDecimal(finer)) => Datum::Decimal(divided(sum, *count, finer)?.into()),
                    _ => Datum::Float64(sum as f64 / *count as f64),
                }
            }
            Accumulator::NetFloat { sum, finite, infinite, negative_infinite, nan } => {
                let count = finite + infinite + negative_infinite + nan;
                match (infinite, negative_infinite, nan) {
                    _ if count == 0 => Datum::Null,
                    (0, 0, 0) if kind == Kind::Net(Net::AvgFloat) => Datum::Float64(sum / count as f64),
                    (0, 0, 0) => Datum::Float64(*sum),
                    (_, 0, 0) => Datum::Float64(f64::INFINITY),
                    (0, _, 0) => Datum::Float64(f64::NEG_INFINITY),
                    _ => Datum::Float64(f64::NAN),
                }
            }
            Accumulator::NetMoments { count, squares, not_finite, .. } => match kind {
                Kind::Net(Net::Variance { sample, root, .. }) if count + not_finite > i64::from(sample) => {
                    let variance = squares / (*count - i64::from(sample)) as f64;
                    let variance = if *not_finite > 0 { f64::NAN } else { variance };
                    Datum::Float64(if root { variance.sqrt() } else { variance })
                }
                _ => Datum::Null,
            },
        })
    }

    pub fn write(&self, out: &mut Vec<u8>) {
        fn optional<T>(out: &mut Vec<u8>, value: &Option<T>, write: impl FnOnce(&mut Vec<u8>, &T)) {
            out.push(u8::from(value.is_some()));
            if let Some(value) = value {
                write(out, value);
            }
        }
        let float = |out: &mut Vec<u8>, value: &f64| out.extend_from_slice(&value.to_bits().to_le_bytes());
        match self {
            Accumulator::Count(count) => put_signed(out, i128::from(*count)),
            Accumulator::SumInt(sum) => optional(out, sum, |out, sum| put_signed(out, i128::from(*sum))),
            Accumulator::SumFloat(sum) => optional(out, sum, float),
            Accumulator::SumDecimal(sum) => optional(out, sum, |out, sum| put_signed(out, *sum)),
            Accumulator::AvgExact { sum, count } => {
                put_signed(out, i128::from(*count));
                put_signed(out, *sum);
            }
            Accumulator::AvgFloat { sum, count } => {
                put_signed(out, i128::from(*count));
                float(out, sum);
            }
            Accumulator::Moments { count, mean, squares } => {
                put_signed(out, i128::from(*count));
                float(out, mean);
                float(out, squares);
            }
            Accumulator::Extreme(value) => value.write(out),
            Accumulator::Chosen(value) => optional(out, value, |out, value| value.write(out)),
            Accumulator::Distinct(values) => {
                put_unsigned(out, values.len() as u128);
                values.iter().for_each(|value| value.write(out));
            }
            Accumulator::NetExact { sum, count } => {
                put_signed(out, i128::from(*count));
                put_signed(out, sum.units);
                put_signed(out, sum.rest);
            }
            Accumulator::NetFloat { sum, finite, infinite, negative_infinite, nan } => {
                float(out, sum);
                [finite, infinite, negative_infinite, nan]
                    .into_iter()
                    .for_each(|count| put_signed(out, i128::from(*count)));
            }
            Accumulator::NetMoments { count, mean, squares, not_finite } => {
                put_signed(out, i128::from(*count));
                put_signed(out, i128::from(*not_finite));
                float(out, mean);
                float(out, squares);
            }
        }
    }

    pub fn read(kind: Kind, data_type: &DataType, reader: &mut Reader<'_, '_>) -> Result<Self, DecodeError> {
        fn optional<T>(
            reader: &mut Reader<'_, '_>,
            read: impl FnOnce(&mut Reader<'_, '_>) -> Result<T, DecodeError>,
        ) -> Result<Option<T>, DecodeError> {
            match reader.byte()? {
                0 => Ok(None),
                1 => read(reader).map(Some),
                _ => Err(DecodeError::Damaged("a flag is neither 0 nor 1")),
            }
        }
        let count = |reader: &mut Reader<'_, '_>| match reader.integer::<i64>()? {
            count if count >= 0 => Ok(count),
            _ => Err(DecodeError::Damaged("a count is negative")),
        };
        let float = |reader: &mut Reader<'_, '_>| Ok(f64::from_bits(u64::from_le_bytes(reader.array()?)));
        let datum = |reader: &mut Reader<'_, '_>| {
            let datum = reader.datum()?;
            if datum.is_of(data_type) {
                Ok(datum)
            } else {
                Err(DecodeError::Damaged("a value has another type"))
            }
        };
        Ok(match Accumulator::new(kind) {
            Accumulator::Count(_) => Accumulator::Count(count(reader)?),
            Accumulator::SumInt(_) => Accumulator::SumInt(optional(reader, |reader| reader.integer())?),
            Accumulator::SumFloat(_) => Accumulator::SumFloat(optional(reader, float)?),
            Accumulator::SumDecimal(_) => {
                Accumulator::SumDecimal(optional(reader, |reader| reader.integer())?)
            }
            Accumulator::AvgExact { .. } => {
                Accumulator::AvgExact { count: count(reader)?, sum: reader.integer()? }
            }
            Accumulator::AvgFloat { .. } => {
                Accumulator::AvgFloat { count: count(reader)?, sum: float(reader)? }
            }
            Accumulator::Moments { .. } => {
                Accumulator::Moments { count: count(reader)?, mean: float(reader)?, squares: float(reader)? }
            }
            Accumulator::Extreme(_) => Accumulator::Extreme(datum(reader)?),
            Accumulator::Chosen(_) => Accumulator::Chosen(optional(reader, datum)?),
            Accumulator::Distinct(_) => {
                let length = reader.length()?;
                let values =
                    (0..length).map(|_| datum(reader)).collect::<Result<Vec<Datum>, DecodeError>>()?;
                if !values.is_sorted_by(|left, right| left < right) {
                    return Err(DecodeError::Damaged("distinct values are out of order"));
                }
                Accumulator::Distinct(values.into_iter().collect())
            }
            Accumulator::NetExact { .. } => {
                let count = count(reader)?;
                Accumulator::NetExact {
                    count,
                    sum: WideSum { units: reader.integer()?, rest: reader.integer()? },
                }
            }
            Accumulator::NetFloat { .. } => Accumulator::NetFloat {
                sum: float(reader)?,
                finite: count(reader)?,
                infinite: count(reader)?,
                negative_infinite: count(reader)?,
                nan: count(reader)?,
            },
            Accumulator::NetMoments { .. } => {
                let (count, not_finite) = (count(reader)?, count(reader)?);
                Accumulator::NetMoments { count, not_finite, mean: float(reader)?, squares: float(reader)? }
            }
        })
    }
}

/// `sum / count` with `finer` more digits, rounded half away from zero.
fn divided(sum: i128, count: i64, finer: u32) -> Result<i128, Overflow> {
    let count = i128::from(count);
    let shift = 10i128.pow(finer);
    // The remainder is below the count, so that shifting it cannot overflow.
    let rest = (sum % count) * shift;
    let whole =
        (sum / count).checked_mul(shift).and_then(|whole| whole.checked_add(rest / count)).ok_or(Overflow)?;
    let half = (rest % count).abs() * 2 >= count;
    let rounded = if half { whole + sum.signum() } else { whole };
    if rounded.abs() <= MAX_DECIMAL { Ok(rounded) } else { Err(Overflow) }
}
