//! Keys sort as their columns do.

use std::cmp::Ordering;

use millstream_state::key::{KeyError, KeyReader, KeyWriter, prefix_end};
use proptest::{collection::vec, prelude::*};

/// A column with its type; `None` is null.
#[derive(Clone, Debug)]
enum Column {
    Bool(Option<bool>),
    I32(Option<i32>),
    I64(Option<i64>),
    I128(Option<i128>),
    F32(Option<f32>),
    F64(Option<f64>),
    Bytes(Option<Vec<u8>>),
    Str(Option<String>),
}

/// Writes the value or null.
macro_rules! put {
    ($writer:expr, $column:expr, $put:ident) => {
        match $column {
            Some(value) => $writer.$put(value.to_owned()),
            None => $writer.put_null(),
        }
    };
}

fn encode(columns: &[Column]) -> Vec<u8> {
    let mut key = Vec::new();
    let mut writer = KeyWriter::new(&mut key);
    for column in columns {
        match column {
            Column::Bool(column) => put!(writer, column, put_bool),
            Column::I32(column) => put!(writer, column, put_i32),
            Column::I64(column) => put!(writer, column, put_i64),
            Column::I128(column) => put!(writer, column, put_i128),
            Column::F32(column) => put!(writer, column, put_f32),
            Column::F64(column) => put!(writer, column, put_f64),
            Column::Bytes(None) | Column::Str(None) => writer.put_null(),
            Column::Bytes(Some(column)) => writer.put_bytes(column),
            Column::Str(Some(column)) => writer.put_str(column),
        };
    }
    key
}

/// Reads the columns and writes them again: equal bytes mean equal columns, also for NaN.
fn round_trip(key: &[u8], types: &[Column]) -> Result<Vec<u8>, KeyError> {
    let mut reader = KeyReader::new(key)?;
    let mut columns = Vec::new();
    for column in types {
        columns.push(match column {
            Column::Bool(_) => Column::Bool(reader.get_bool()?),
            Column::I32(_) => Column::I32(reader.get_i32()?),
            Column::I64(_) => Column::I64(reader.get_i64()?),
            Column::I128(_) => Column::I128(reader.get_i128()?),
            Column::F32(_) => Column::F32(reader.get_f32()?),
            Column::F64(_) => Column::F64(reader.get_f64()?),
            Column::Bytes(_) => Column::Bytes(reader.get_bytes()?.map(Into::into)),
            Column::Str(_) => Column::Str(reader.get_str()?.map(Into::into)),
        });
    }
    reader.finish()?;
    Ok(encode(&columns))
}

fn compare(a: &Column, b: &Column) -> Ordering {
    match (a, b) {
        (Column::Bool(a), Column::Bool(b)) => a.cmp(b),
        (Column::I32(a), Column::I32(b)) => a.cmp(b),
        (Column::I64(a), Column::I64(b)) => a.cmp(b),
        (Column::I128(a), Column::I128(b)) => a.cmp(b),
        (Column::F32(Some(a)), Column::F32(Some(b))) => a.total_cmp(b),
        (Column::F32(a), Column::F32(b)) => a.is_some().cmp(&b.is_some()),
        (Column::F64(Some(a)), Column::F64(Some(b))) => a.total_cmp(b),
        (Column::F64(a), Column::F64(b)) => a.is_some().cmp(&b.is_some()),
        (Column::Bytes(a), Column::Bytes(b)) => a.cmp(b),
        (Column::Str(a), Column::Str(b)) => a.cmp(b),
        _ => unreachable!("columns of one place have one type"),
    }
}

/// Two values of one type, often close to each other.
fn pair() -> impl Strategy<Value = (Column, Column)> {
    fn two<T: Clone + std::fmt::Debug + 'static>(
        value: impl Strategy<Value = T> + Clone + 'static,
        column: fn(Option<T>) -> Column,
    ) -> BoxedStrategy<(Column, Column)> {
        let one = proptest::option::weighted(0.9, value);
        (one.clone(), one).prop_map(move |(a, b)| (column(a), column(b))).boxed()
    }
    let bytes = vec(prop_oneof![Just(0), Just(1), Just(254), Just(255)], 0..5);
    let f32s = prop_oneof![any::<u32>().prop_map(f32::from_bits), Just(0.0), Just(-0.0), -2f32..2.0];
    let f64s = prop_oneof![any::<u64>().prop_map(f64::from_bits), Just(0.0), Just(-0.0), -2f64..2.0];
    prop_oneof![
        two(any::<bool>(), Column::Bool),
        two(prop_oneof![any::<i32>(), -2..2i32], Column::I32),
        two(prop_oneof![any::<i64>(), -2..2i64], Column::I64),
        two(prop_oneof![any::<i128>(), -2..2i128], Column::I128),
        two(f32s, Column::F32),
        two(f64s, Column::F64),
        two(bytes, Column::Bytes),
        two("[\\x00\\x01aä]{0,4}", Column::Str),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_sort_as_columns_do(pairs in vec(pair(), 1..4)) {
        let (a, b): (Vec<Column>, Vec<Column>) = pairs.into_iter().unzip();
        let expected = a.iter().zip(&b).map(|(a, b)| compare(a, b)).find(|order| order.is_ne());
        prop_assert_eq!(encode(&a).cmp(&encode(&b)), expected.unwrap_or(Ordering::Equal));
    }

    #[test]
    fn keys_round_trip(pairs in vec(pair(), 0..4)) {
        let columns: Vec<Column> = pairs.into_iter().map(|(column, _)| column).collect();
        let key = encode(&columns);
        prop_assert_eq!(round_trip(&key, &columns), Ok(key));
    }

    #[test]
    fn a_key_that_is_cut_is_an_error(pairs in vec(pair(), 1..4), cut in any::<prop::sample::Index>()) {
        let columns: Vec<Column> = pairs.into_iter().map(|(column, _)| column).collect();
        let key = encode(&columns);
        prop_assert_eq!(round_trip(&key[..cut.index(key.len())], &columns), Err(KeyError::Truncated));
    }

    #[test]
    fn any_bytes_are_read_or_refused(key in vec(prop_oneof![Just(0), Just(1), any::<u8>()], 0..20), pairs in vec(pair(), 0..4)) {
        let columns: Vec<Column> = pairs.into_iter().map(|(column, _)| column).collect();
        // What is accepted is the only encoding of its columns.
        if let Ok(again) = round_trip(&key, &columns) {
            prop_assert_eq!(again, key);
        }
    }

    #[test]
    fn the_end_of_a_prefix_is_behind_all_its_keys(first in pair(), second in pair()) {
        let prefix = encode(std::slice::from_ref(&first.0));
        let mut end = Vec::new();
        prefix_end(&prefix, &mut end);
        let inside = encode(&[first.0.clone(), second.0.clone()]);
        prop_assert!(prefix <= inside && inside < end);
        let other = encode(&[first.1.clone(), second.1]);
        if compare(&first.0, &first.1).is_ne() {
            prop_assert!(other < prefix || end <= other);
        }
    }
}

#[test]
fn golden_bytes() {
    let hex =
        |columns: &[Column]| encode(columns).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(&[]), "01");
    assert_eq!(hex(&[Column::I32(None)]), "0100");
    assert_eq!(hex(&[Column::Bool(Some(false)), Column::Bool(Some(true))]), "0101000101");
    assert_eq!(hex(&[Column::I32(Some(-2))]), "01017ffffffe");
    assert_eq!(hex(&[Column::I64(Some(1_767_225_600_000))]), "01018000019b76daa800");
    assert_eq!(hex(&[Column::I128(Some(5))]), "010180000000000000000000000000000005");
    assert_eq!(hex(&[Column::F32(Some(1.5))]), "0101bfc00000");
    assert_eq!(hex(&[Column::F64(Some(-1.5))]), "01014007ffffffffffff");
    assert_eq!(hex(&[Column::Bytes(Some(vec![0, 9]))]), "010100ff090000");
    assert_eq!(
        hex(&[Column::Str(Some("é".to_owned())), Column::Str(Some(String::new()))]),
        "0101c3a90000010000"
    );
}

#[test]
fn a_key_can_contain_the_columns_of_another() {
    let (mut inner, mut outer) = (Vec::new(), Vec::new());
    KeyWriter::new(&mut inner).put_str("card");
    KeyWriter::new(&mut outer).put_i64(60_000).put_key(&inner);
    let mut reader = KeyReader::new(&outer).unwrap();
    assert_eq!(reader.get_i64(), Ok(Some(60_000)));
    assert_eq!(reader.rest(), &inner[1..]);
    assert_eq!(reader.get_str(), Ok(Some("card".into())));
    assert_eq!(reader.finish(), Ok(()));
}

#[test]
fn what_is_wrong_with_a_key_is_said() {
    assert_eq!(KeyReader::new(&[]).unwrap_err(), KeyError::Truncated);
    assert_eq!(KeyReader::new(&[2]).unwrap_err(), KeyError::Version { found: 2 });
    assert_eq!(KeyReader::new(&[1, 0]).unwrap().finish(), Err(KeyError::Trailing(1)));
    assert!(matches!(KeyReader::new(&[1, 9]).unwrap().get_i32(), Err(KeyError::Invalid { found: 9, .. })));
    assert!(matches!(
        KeyReader::new(&[1, 1, 2]).unwrap().get_bool(),
        Err(KeyError::Invalid { found: 2, .. })
    ));
    assert!(matches!(
        KeyReader::new(&[1, 1, 0, 3]).unwrap().get_bytes(),
        Err(KeyError::Invalid { found: 3, .. })
    ));
    assert_eq!(KeyReader::new(&[1, 1, 0xC3, 0, 0]).unwrap().get_str(), Err(KeyError::Utf8));
}
