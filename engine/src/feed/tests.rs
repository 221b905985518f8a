//! Files to records.

use std::fs;
use std::io::Write;

use arrow::datatypes::DataType;
use flate2::Compression;
use flate2::write::GzEncoder;
use millstream_operators::schema::{Kind, Schema, TIMESTAMP, column};
use tempfile::TempDir;

use super::*;
use crate::codec::layout::{FieldLayout, Format};

fn source(time: Option<usize>) -> SourceLayout {
    let key = vec![FieldLayout::of_column("carrier", &DataType::Utf8)];
    let value =
        vec![FieldLayout::of_column("at", &TIMESTAMP), FieldLayout::of_column("delay", &DataType::Int32)];
    let columns =
        |fields: &[FieldLayout]| fields.iter().map(|f| column(&f.name, f.data_type.clone())).collect();
    SourceLayout {
        schema: Schema::new(Kind::Stream, columns(&key), columns(&value)),
        key,
        key_format: Format::String,
        value,
        value_format: Format::Json,
        headers: Vec::new(),
        metadata: Vec::new(),
        time,
    }
}

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Files(TempDir::new().unwrap())
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        if name.ends_with(".gz") {
            let mut file = GzEncoder::new(File::create(&path).unwrap(), Compression::fast());
            file.write_all(content.as_ref()).unwrap();
            file.finish().unwrap();
        } else {
            fs::write(&path, content).unwrap();
        }
        path
    }

    /// All records of a file as `time key value`, and the error that ended it, without the folder's name.
    fn read(
        &self,
        name: &str,
        content: impl AsRef<[u8]>,
        layout: &SourceLayout,
    ) -> (Vec<String>, Option<String>) {
        let path = self.write(name, content);
        let options = FeedOptions { null: Some("NA".to_owned()) };
        let error =
            |error: FeedError| error.to_string().replace(&format!("{}/", self.0.path().display()), "");
        let mut records = Vec::new();
        let feed = match Feed::open(&path, layout, &options) {
            Ok(feed) => feed,
            Err(failed) => return (records, Some(error(failed))),
        };
        for record in feed {
            match record {
                Ok(record) => records.push(text(&record)),
                Err(failed) => return (records, Some(error(failed))),
            }
        }
        (records, None)
    }
}

fn text(record: &Record) -> String {
    let part = |part: &Option<Vec<u8>>| {
        part.as_ref().map_or("null".into(), |p| String::from_utf8(p.clone()).unwrap())
    };
    format!("{} {} {}", record.timestamp, part(&record.key), part(&record.value))
}

const CSV: &str = "\
delay,other,carrier,at
5,x,UA,1970-01-01T00:00:02Z
NA,,\"A,A\",1000
,,,3000
";

const RECORDS: [&str; 3] = [
    r#"1000 A,A {"at":"1970-01-01T00:00:01.000Z","delay":null}"#,
    r#"2000 UA {"at":"1970-01-01T00:00:02.000Z","delay":5}"#,
    r#"3000 null {"at":"1970-01-01T00:00:03.000Z","delay":null}"#,
];

#[test]
fn csv_columns_are_found_by_name_and_rows_sorted_by_event_time() {
    let files = Files::new();
    for name in ["f.csv", "f.csv.gz"] {
        let (records, error) = files.read(name, CSV, &source(Some(1)));
        assert_eq!((records.iter().map(String::as_str).collect::<Vec<_>>(), error), (RECORDS.to_vec(), None));
    }
}

#[test]
fn json_lines_are_records_as_pipe_reads_them() {
    let lines = r#"
{"key":{"carrier":"A,A"},"value":{"at":1000}}

{"key":{"carrier":"UA"},"value":{"at":"1970-01-01T00:00:02Z","delay":5}}
{"value":{"at":3000}}
{"key":{"carrier":"UA"},"value":null,"timestamp":3500}
{"key-bytes":"VUE=","value-bytes":"e30=","timestamp":4000}
"#;
    let files = Files::new();
    let (records, error) = files.read("f.jsonl.gz", lines, &source(Some(1)));
    assert_eq!(error, None);
    assert_eq!(records[..3], RECORDS);
    // The last cannot be decoded (its time is null): it is passed on, for the topology to judge.
    assert_eq!(records[3..], ["3500 UA null", "4000 UA {}"]);
}

#[test]
fn values_in_files_may_have_more_than_the_source_names_and_keys_may_not() {
    let files = Files::new();
    let line = r#"{"key":{"carrier":"UA"},"value":{"tail":{"n":[1]},"at":2000,"delay":5}}"#;
    let (records, error) = files.read("f.jsonl", line, &source(Some(1)));
    assert_eq!((records, error), (vec![RECORDS[1].to_owned()], None));
    let (_, error) = files.read("f.csv", "tail,carrier,at,delay\nN1,UA,2000,5\n", &source(Some(1)));
    assert_eq!(error, None);
    let line = r#"{"key":{"carier":"UA"},"value":{"at":2000}}"#;
    let (_, error) = files.read("f.jsonl", line, &source(Some(1)));
    assert!(error.unwrap().contains("found the unknown column `carier`, did you mean `carrier`?"));
}

#[test]
fn without_a_time_column_the_file_says_the_timestamp() {
    let files = Files::new();
    let (records, error) = files.read("f.csv", "timestamp,carrier,at,delay\n7,UA,,1\n", &source(None));
    assert_eq!((records, error), (vec![r#"7 UA {"at":null,"delay":1}"#.to_owned()], None));
    let (_, error) = files.read("f.csv", "carrier,at,delay\nUA,,1\n", &source(None));
    let message = "f.csv, line 1: the header lacks the column `timestamp`, which holds the event time since the source names no `time`: found `carrier`, `at` and `delay`";
    assert_eq!(error.unwrap(), message);
    let (_, error) = files.read("f.jsonl", "{\"key\":null}\n", &source(None));
    let message =
        "f.jsonl, line 1: found no `timestamp`, which holds the event time since the source names no `time`";
    assert_eq!(error.unwrap(), message);
}

#[test]
fn what_is_wrong_in_a_file_is_named_with_its_line() {
    let good = "carrier,at,delay\nUA,1,1\n";
    let cases: [(&str, String, usize, &str); 13] = [
        (
            "f.csv",
            "carrier,at,dealy\n".into(),
            0,
            "f.csv, line 1: the header lacks the column `delay`: did you mean `dealy`?",
        ),
        (
            "f.csv",
            format!("{good}UA,2,late\n"),
            1,
            "f.csv, line 3, column `delay`: found \"late\", expected int32",
        ),
        (
            "f.csv",
            format!("{good}\"U\nA\",2,1\nUA,2,2.5\n"),
            2,
            "f.csv, line 5, column `delay`: found 2.5, which int32 cannot hold without loss",
        ),
        (
            "f.csv",
            format!("{good}UA,2,3000000000\n"),
            1,
            "f.csv, line 3, column `delay`: found 3000000000, which is out of the range of int32",
        ),
        (
            "f.csv",
            format!("{good}UA,today,1\n"),
            1,
            "f.csv, line 3, column `at`: found \"today\", expected a timestamp as YYYY-MM-DDThh:mm:ssZ (RFC 3339) or epoch milliseconds",
        ),
        (
            "f.csv",
            format!("{good}UA,,1\n"),
            1,
            "f.csv, line 3, column `at`: found no event time, expected one",
        ),
        (
            "f.csv",
            format!("{good}UA,-1,1\n"),
            1,
            "f.csv, line 3, column `at`: found the event time -1, expected 1970-01-01T00:00:00Z or later",
        ),
        ("f.csv", format!("{good}UA,1\n"), 1, "f.csv, line 3: found 2 cells, expected 3 as in the header"),
        (
            "f.jsonl",
            "{\"value\":{\"at\":1}}\n{\"value\":{\"at\":1,\"delay\":\"1\"}}".into(),
            1,
            "f.jsonl, line 2: field `delay`: found the string \"1\", expected int32, at byte 25",
        ),
        (
            "f.jsonl",
            "{\"value\":{}}".into(),
            0,
            "f.jsonl, line 1: the event time is null: column `at` needs a timestamp",
        ),
        (
            "f.jsonl",
            "{\"restart\":true}".into(),
            0,
            "f.jsonl, line 1: found a command, which only `pipe` takes; expected a record",
        ),
        (
            "f.txt",
            String::new(),
            0,
            "`f.txt` cannot be fed: expected a name that ends in .csv, .csv.gz, .jsonl or .jsonl.gz",
        ),
        (
            "f.csv",
            String::new(),
            0,
            "f.csv, line 1: the header lacks the column `at`, the event time: found nothing",
        ),
    ];
    let files = Files::new();
    for (name, content, before, message) in cases {
        let (records, error) = files.read(name, &content, &source(Some(1)));
        assert_eq!((records.len(), error.as_deref()), (before, Some(message)), "{content}");
    }
    let (_, error) = files.read("f.csv", b"carrier,at,delay\n\xff,1,1\n", &source(Some(1)));
    assert_eq!(error.unwrap(), "f.csv, line 2: found text that is not UTF-8, in cell 1");
    let missing =
        Feed::open(Path::new("/no/such.csv"), &source(Some(1)), &FeedOptions::default()).unwrap_err();
    assert!(missing.to_string().starts_with("`/no/such.csv` cannot be read: "), "{missing}");
}

#[test]
fn a_file_too_long_to_be_sorted_has_to_be_ordered() {
    let files = Files::new();
    let rows = |times: &[i64]| {
        times.iter().fold("carrier,at,delay\n".to_owned(), |all, t| all + &format!("UA,{t},1\n"))
    };
    let mut times: Vec<i64> = (0..3_000).rev().collect();
    let open = |times: &[i64]| {
        let path = files.write("f.csv", rows(times));
        Feed::open_sorting(&path, &source(Some(1)), &FeedOptions::default(), 2_000).unwrap()
    };
    let error = open(&times).find_map(Result::err).unwrap().to_string();
    assert!(error.contains("line 2050: the record is 2048 ms earlier"), "{error}");
    times.sort_unstable();
    times.swap(5, 6);
    let read: Vec<i64> = open(&times).map(|record| record.unwrap().timestamp).collect();
    assert_eq!(read, (0..3_000).collect::<Vec<_>>());
}

#[test]
fn feeds_are_merged_by_event_time_and_ties_by_their_order() {
    let feed = |times: &'static [i64]| {
        times.iter().map(|timestamp| {
            Ok(Record { key: None, value: None, timestamp: *timestamp, headers: Vec::new(), offset: 0 })
        })
    };
    let merged = Merge::new(vec![feed(&[1, 3, 3, 9]), feed(&[]), feed(&[0, 3, 4])]);
    let merged: Vec<(usize, i64)> =
        merged.map(Result::unwrap).map(|(feed, record)| (feed, record.timestamp)).collect();
    assert_eq!(merged, [(2, 0), (0, 1), (0, 3), (0, 3), (2, 3), (2, 4), (0, 9)]);
}
