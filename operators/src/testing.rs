//! Random columns for property tests, of every type of the language. Other crates' tests include this file by path.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use millstream_operators::batch::record_batch;
use millstream_operators::columns::{ColumnBuilder, Values};
use millstream_operators::schema::TIMESTAMP;
use proptest::collection::vec;
use proptest::prelude::*;

/// A column's type; lists and structs up to two levels deep.
pub fn any_type() -> impl Strategy<Value = DataType> {
    let leaf = prop_oneof![
        Just(DataType::Boolean),
        Just(DataType::Int32),
        Just(DataType::Int64),
        Just(DataType::Float32),
        Just(DataType::Float64),
        Just(DataType::Decimal128(38, 10)),
        Just(DataType::Utf8),
        Just(DataType::Binary),
        Just(DataType::Date32),
        Just(TIMESTAMP),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|item| DataType::List(Arc::new(Field::new("item", item, true)))),
            vec(inner, 1..4).prop_map(|types| DataType::Struct(fields(&types).fields().clone())),
        ]
    })
}

fn fields(types: &[DataType]) -> Schema {
    Schema::new(
        types
            .iter()
            .enumerate()
            .map(|(i, t)| Field::new(format!("c{i}"), t.clone(), true))
            .collect::<Vec<_>>(),
    )
}

/// A batch of up to six columns and twenty rows, rich in nulls, extremes and equal values.
pub fn any_batch() -> impl Strategy<Value = RecordBatch> {
    (vec(any_type(), 1..7), 0usize..20, any::<u64>()).prop_map(|(types, rows, seed)| {
        let columns: SchemaRef = Arc::new(fields(&types));
        let mut random = Random(seed);
        let arrays = types.iter().map(|data_type| {
            let mut builder = ColumnBuilder::new(data_type).unwrap();
            (0..rows).for_each(|_| random.fill(&mut builder));
            builder.finish().unwrap()
        });
        record_batch(&columns, arrays.collect(), rows).unwrap()
    })
}

/// Numbers that look random and are the same each time (SplitMix64, Steele, Lea and Flood 2014).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.next() as usize % from.len()]
    }

    fn fill(&mut self, builder: &mut ColumnBuilder) {
        if self.next().is_multiple_of(5) {
            return builder.null();
        }
        let bits = self.next();
        let small = bits as i64 % 3;
        let int = self.pick(&[bits as i64, small, small, i64::MIN, i64::MAX]);
        let is_string = *builder.data_type() == DataType::Utf8;
        match builder.values() {
            Values::Bool(values) => values.append(int & 1 == 1),
            Values::Int32(values) => {
                values.push(if int == small { small as i32 } else { (int >> 32) as i32 })
            }
            Values::Int64(values) => values.push(int),
            Values::Float32(values) => {
                let float = f32::from_bits(bits as u32);
                values.push(self.pick(&[
                    float,
                    small as f32 / 10.0,
                    0.0,
                    -0.0,
                    f32::INFINITY,
                    -f32::NAN,
                    f32::MIN_POSITIVE,
                ]));
            }
            Values::Float64(values) => {
                let float = f64::from_bits(bits);
                values.push(self.pick(&[
                    float,
                    small as f64 / 10.0,
                    0.0,
                    -0.0,
                    f64::NEG_INFINITY,
                    f64::NAN,
                    5e-324,
                ]));
            }
            Values::Decimal(values) => {
                values.push(i128::from(int) * i128::from(self.pick(&[1, 1_000_000_007])))
            }
            Values::Bytes(values) => {
                let text = [
                    "",
                    "a",
                    "a\0",
                    "a\0b",
                    "b",
                    "ab",
                    "\"\\\n\u{1}",
                    "żółć 🦀",
                    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                ];
                values.data.extend_from_slice(self.pick(&text).as_bytes());
                if !is_string {
                    values.data.extend_from_slice(&bits.to_le_bytes()[..(bits % 4) as usize]);
                }
            }
            Values::List(list) => (0..bits % 4).for_each(|_| self.fill(&mut list.items)),
            Values::Struct(fields) => fields.iter_mut().for_each(|field| self.fill(field)),
        }
        builder.valid().unwrap();
    }
}
