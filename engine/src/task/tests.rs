//! Records that are decoded for their times first.

use std::path::Path;

use super::*;
use crate::plan::Plan;
use crate::topology::read;

const TOPOLOGY: &str = r#"
    [app]
    id = "shop"
    [sources.orders]
    topic    = "orders"
    key      = { customer = "string" }
    value    = { amount = "int64", at = "timestamp" }
    time     = "at"
    on-error = "dead-letter"
    [sources.refunds]
    topic    = "refunds"
    key      = { customer = "string" }
    value    = { amount = "int64", at = "timestamp" }
    time     = "at"
    on-error = "skip"
    [steps.both]
    op   = "merge"
    from = ["orders", "refunds"]
    [sinks.out]
    from = "both"
"#;

fn task() -> Task {
    let (topology, findings) = read(TOPOLOGY, Path::new("."), &|_| None);
    let plan = Plan::new(&topology.unwrap_or_else(|| panic!("{findings:?}"))).unwrap();
    let sub = plan.sub_topologies[0].clone();
    let state = TaskState::in_memory(&Task::store_specs(&sub));
    Task::open(sub, 0, state, vec![0, 0], &[], GlobalStates::default(), true).unwrap()
}

fn record(offset: i64, value: Option<&str>) -> Record {
    let value = value.map(|value| value.as_bytes().to_vec());
    Record { key: Some(b"c".to_vec()), value, timestamp: 1, headers: Vec::new(), offset }
}

/// What epochs of these records give, where `times` says whether their times are asked for before.
fn run(records: &[Vec<(usize, Record)>], fetched: &[(usize, Vec<Record>)]) -> (String, Vec<Vec<i64>>) {
    let mut task = task();
    let times = fetched.iter().map(|(input, records)| task.event_times(*input, records).unwrap()).collect();
    assert_eq!(task.decoded_bytes() > 0, !fetched.is_empty());
    let epochs = records.iter().map(|records| {
        let epoch = task.process(records.clone(), 0).unwrap();
        format!("{:?} {:?}\n", epoch.outputs, epoch.errors)
    });
    let written = epochs.collect();
    assert_eq!(task.decoded_bytes(), 0);
    (written, times)
}

#[test]
fn what_was_decoded_for_its_time_is_not_decoded_again() {
    let orders = [
        (10, Some(r#"{"amount": 1, "at": 500}"#)),
        (11, Some(r#"{"amount": "#)),
        // Between them lay a transaction's marker.
        (13, None),
        (14, Some(r#"{"amount": 4, "at": 900}"#)),
        (15, Some(r#"{"amount": 5, "at": -1}"#)),
    ];
    let orders: Vec<Record> = orders.into_iter().map(|(offset, value)| record(offset, value)).collect();
    let refunds = vec![record(10, Some(r#"{"amount": 7, "at": 600}"#))];
    let input = |number: usize, records: &[Record]| {
        records.iter().map(|record| (number, record.clone())).collect::<Vec<_>>()
    };
    let epochs = |orders: &[Record], refunds: &[Record]| {
        vec![
            [input(0, &orders[..1]), input(1, refunds), input(0, &orders[1..3])].concat(),
            input(0, &orders[3..]),
        ]
    };
    let (expected, _) = run(&epochs(&orders, &refunds), &[]);
    let fetched = [(0, orders.clone()), (1, refunds.clone())];
    let (found, times) = run(&epochs(&orders, &refunds), &fetched);
    assert_eq!(found, expected);
    assert_eq!(times, [vec![500, 1, 1, 900, 1], vec![600]]);

    // Whoever decoded the amounts again would find others.
    let changed = |records: &[Record]| -> Vec<Record> {
        let other = |value: Vec<u8>| {
            let text = String::from_utf8(value).unwrap();
            text.replace(": 1,", ": 2,").replace(": 4,", ": 3,").replace(": 7,", ": 8,").into_bytes()
        };
        let changed = |record: Record| Record { value: record.value.map(other), ..record };
        records.iter().cloned().map(changed).collect()
    };
    let (others, refunded) = (changed(&orders), changed(&refunds));
    assert_eq!(run(&epochs(&others, &refunded), &fetched).0, expected);
    assert_ne!(run(&epochs(&others, &refunded), &[]).0, expected);
}
