//! The Kafka client against a real broker: what exactly-once rests on.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use millstream::engine::kafka::{
    Admin, ClientSettings, GroupConsumer, GroupEvent, GroupMetadata, GroupOptions, KafkaError, Mechanism,
    NewTopic, OffsetAndMetadata, OffsetSpec, Operation, PartitionQueue, Producer, ProducerOptions, Protocol,
    RestoreConsumer, Secret, SendError, TopicHandle, TopicPartition,
};
use millstream::engine::partitioner;
use serde_json::json;

use super::broker::{Broker, BrokerOptions, Security, unique};
use super::java;

const SECONDS: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_millis(100);

fn settings_of(broker: &Broker) -> ClientSettings {
    ClientSettings {
        brokers: broker.brokers().to_owned(),
        client_id: "client-test".to_owned(),
        ..ClientSettings::default()
    }
}

fn settings() -> ClientSettings {
    settings_of(Broker::shared())
}

fn admin() -> Admin {
    Admin::new(&settings(), SECONDS).unwrap()
}

fn topic(name: &str, partitions: i32) -> String {
    let name = unique(name);
    // The records here are of 1970.
    let config = vec![("retention.ms".to_owned(), "-1".to_owned())];
    let topic = NewTopic { name: name.clone(), partitions, replication: -1, config };
    admin().create_topics(&[topic]).unwrap();
    name
}

fn options(transactional_id: Option<&str>) -> ProducerOptions {
    ProducerOptions {
        transactional_id: transactional_id.map(str::to_owned),
        transaction_timeout: Duration::from_secs(20),
        linger: Duration::from_millis(20),
        buffer_bytes: 32 << 20,
        batch_bytes: usize::MAX,
        compression: "lz4".to_owned(),
    }
}

fn producer(transactional_id: Option<&str>) -> Producer {
    let producer = Producer::new(&settings(), &options(transactional_id)).unwrap();
    if transactional_id.is_some() {
        producer.init_transactions(SECONDS).unwrap();
    }
    producer
}

fn group_options(group: &str) -> GroupOptions {
    GroupOptions {
        group: group.to_owned(),
        session_timeout: Duration::from_secs(6),
        max_poll_interval: Duration::from_secs(6),
        queued_bytes_per_partition: 16 << 20,
        wait: Some(Duration::from_millis(20)),
    }
}

fn send(producer: &Producer, topic: TopicHandle, partition: i32, value: &[u8]) {
    loop {
        match producer.send(topic, partition, None, Some(value), 1, []) {
            Ok(()) => return,
            Err(SendError::QueueFull) => producer.poll(Duration::from_millis(10)),
            Err(error) => panic!("{error}"),
        }
    }
}

fn partition(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition::new(topic, partition)
}

fn offset(topic: &str, number: i32, offset: i64, metadata: &str) -> OffsetAndMetadata {
    OffsetAndMetadata { partition: partition(topic, number), offset, metadata: metadata.to_owned() }
}

/// The next event that is no error.
fn event(consumer: &GroupConsumer) -> GroupEvent {
    let deadline = Instant::now() + SECONDS;
    while Instant::now() < deadline {
        match consumer.poll(SOON) {
            Some(GroupEvent::Error(error)) => eprintln!("{error}"),
            Some(event) => return event,
            None => {}
        }
    }
    panic!("no event came");
}

fn assigned(consumer: &GroupConsumer) -> (Vec<TopicPartition>, GroupMetadata) {
    match event(consumer) {
        GroupEvent::Assigned { partitions, metadata } => (partitions, metadata),
        other => panic!("{other:?}"),
    }
}

fn from_start(partitions: &[TopicPartition]) -> Vec<(TopicPartition, i64)> {
    partitions.iter().map(|partition| (partition.clone(), 0)).collect()
}

fn quiet(_: usize) -> Arc<dyn Fn() + Send + Sync> {
    Arc::new(|| {})
}

/// A member that reads the topic from its beginning.
fn member(group: &str, topic: &str) -> (GroupConsumer, Vec<PartitionQueue>, GroupMetadata) {
    let consumer = GroupConsumer::new(&settings(), &group_options(group)).unwrap();
    consumer.subscribe(&[topic]).unwrap();
    let (partitions, metadata) = assigned(&consumer);
    let queues = consumer.assign(&from_start(&partitions), &quiet).unwrap();
    (consumer, queues, metadata)
}

type Read = (i64, Option<Vec<u8>>, Option<Vec<u8>>, i64, Vec<(String, Option<Vec<u8>>)>);

/// Everything of a partition that may be read, up to `end`.
fn read(topic: &str, number: i32, end: i64) -> Vec<Read> {
    let mut consumer = RestoreConsumer::new(&settings(), 1 << 20).unwrap();
    consumer.assign(&[(partition(topic, number), 0)]).unwrap();
    let mut records = Vec::new();
    let deadline = Instant::now() + SECONDS;
    while consumer.position(0).unwrap() < end {
        assert!(Instant::now() < deadline, "the position stays at {:?}, before {end}", consumer.position(0));
        consumer
            .take(100, SOON, &mut |_, message| {
                let bytes = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
                let headers = message
                    .headers
                    .into_iter()
                    .map(|(name, value)| (name.into_owned(), bytes(value)))
                    .collect();
                records.push((
                    message.offset,
                    bytes(message.key),
                    bytes(message.value),
                    message.timestamp,
                    headers,
                ));
            })
            .unwrap();
    }
    records
}

fn wait_until(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + SECONDS;
    while !reached() {
        assert!(Instant::now() < deadline, "{what}: not reached");
        sleep(Duration::from_millis(1));
    }
}

/// The high watermark. A marker is written a little after its commit has returned.
fn end(topic: &str, number: i32) -> i64 {
    admin().offsets(&[partition(topic, number)], OffsetSpec::Latest).unwrap()[0]
}

#[test]
fn records_come_back_as_they_were_sent() {
    let name = topic("fields", 1);
    let producer = producer(None);
    let topic = producer.topic(&name).unwrap();
    assert_eq!(producer.topic(&name).unwrap(), topic);
    let headers: [(&str, Option<&[u8]>); 4] =
        [("trace", Some(b"1")), ("trace", Some(b"")), ("none", None), ("é", Some(&[0, 255]))];
    producer.send(topic, 0, None, None, 0, []).unwrap();
    producer.send(topic, 0, Some(b""), Some(b""), 1, headers).unwrap();
    producer.send(topic, 0, Some(b"key\0"), None, 1_767_225_600_000, headers[..1].iter().copied()).unwrap();
    producer.send(topic, 0, None, Some(&vec![7; 200_000]), 1_000_000_000_000, []).unwrap();
    producer.flush(SECONDS).unwrap();
    assert_eq!(producer.delivered(topic, 0), Some(3));
    assert_eq!(producer.delivered(topic, 1), None);

    let owned = |headers: &[(&str, Option<&[u8]>)]| {
        headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.map(<[u8]>::to_vec)))
            .collect::<Vec<_>>()
    };
    let expected: Vec<Read> = vec![
        // Zero is "now" for librdkafka.
        (0, None, None, 1, vec![]),
        (1, Some(vec![]), Some(vec![]), 1, owned(&headers)),
        (2, Some(b"key\0".to_vec()), None, 1_767_225_600_000, owned(&headers[..1])),
        (3, None, Some(vec![7; 200_000]), 1_000_000_000_000, vec![]),
    ];
    assert_eq!(read(&name, 0, 4), expected);
}

#[test]
fn what_cannot_be_sent_is_refused_with_a_reason() {
    let name = topic("refused", 1);
    let producer = producer(None);
    let topic = producer.topic(&name).unwrap();
    let failed = |result| match result {
        Err(SendError::Failed(error)) => error,
        other => panic!("{other:?}"),
    };
    send(&producer, topic, 0, b"one");
    producer.flush(SECONDS).unwrap();
    let error = failed(producer.send(topic, 0, None, Some(&vec![0; 2_000_000]), 1, []));
    assert!(error.is_message_too_large(), "{error}");
    let error = failed(producer.send(topic, 7, None, None, 1, []));
    assert!(error.is_unknown_topic() && error.to_string().contains(&format!("{name}[7]")), "{error}");
    let error = failed(producer.send(topic, -1, None, None, 1, []));
    assert!(error.is_unknown_topic(), "{error}");

    // What the client lets pass and the broker does not: the topic's own limit.
    let small = unique("small");
    let config = vec![("max.message.bytes".to_owned(), "1000".to_owned())];
    admin()
        .create_topics(&[NewTopic { name: small.clone(), partitions: 1, replication: -1, config }])
        .unwrap();
    let small = producer.topic(&small).unwrap();
    let noise: Vec<u8> = (0..5_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    send(&producer, small, 0, &noise);
    let error = producer.flush(SECONDS).unwrap_err();
    assert!(error.is_message_too_large() && error.to_string().contains("small"), "{error}");
    assert_eq!(producer.delivered(small, 0), None);
    producer.clear();
    producer.flush(SECONDS).unwrap();
}

/// Transactions of random sizes, every third one aborted; what a reader must see.
fn transactions(name: &str, records: usize) -> Vec<u64> {
    let producer = producer(Some(&unique("writer")));
    let topic = producer.topic(name).unwrap();
    let (mut committed, mut number, mut seed) = (Vec::new(), 0_u64, 7_u64);
    while committed.len() < records {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let size = 1 + (seed >> 33) % 20_000;
        producer.begin().unwrap();
        let mut value = [b'.'; 110];
        for _ in 0..size {
            value[..8].copy_from_slice(&number.to_le_bytes());
            send(&producer, topic, 0, &value);
            number += 1;
        }
        producer.flush(SECONDS).unwrap();
        if seed >> 40 & 3 == 3 {
            producer.abort(SECONDS).unwrap();
        } else {
            producer.commit(SECONDS).unwrap();
            committed.extend(number - size..number);
        }
    }
    committed
}

#[test]
fn offsets_are_counted_across_markers_and_aborted_records() {
    let name = topic("counted", 1);
    let expected = transactions(&name, 200_000);
    let end = end(&name, 0);
    let (consumer, mut queues, _) = member(&unique("group"), &name);
    let queue = &mut queues[0];
    let (mut read, mut last) = (Vec::new(), -1);
    let deadline = Instant::now() + SECONDS;
    while queue.position() < end {
        assert!(Instant::now() < deadline, "the position stays at {}", queue.position());
        let taken = queue
            .take(1_000, &mut |message| {
                assert!(message.offset > last);
                last = message.offset;
                read.push(u64::from_le_bytes(message.value.unwrap()[..8].try_into().unwrap()));
            })
            .unwrap();
        assert!(taken <= 1_000);
        assert_eq!(queue.next_offset(), last + 1);
        if taken == 0 {
            sleep(Duration::from_millis(1));
        }
    }
    assert!(read == expected, "{} records of {}", read.len(), expected.len());
    // The last marker comes after the last record.
    assert!(queue.next_offset() < end);
    assert_eq!((queue.position(), queue.end_seen(), queue.end_offset()), (end, Some(end), Some(end)));
    assert_eq!(consumer.end_offset(&partition(&name, 0)), Some(end));

    // From the middle, in bites.
    let (middle, at) = (expected.len() / 2, Arc::new(AtomicUsize::new(0)));
    drop(queues);
    consumer.unassign().unwrap();
    let start = read_offsets(&name, end)[middle];
    let mut queues = consumer.assign(&[(partition(&name, 0), start)], &quiet).unwrap();
    let mut taken = 0;
    while taken < expected.len() - middle {
        assert!(Instant::now() < deadline);
        let first = at.load(Ordering::Relaxed);
        taken += queues[0]
            .take(1 + first % 7, &mut |message| {
                let number = u64::from_le_bytes(message.value.unwrap()[..8].try_into().unwrap());
                assert_eq!(number, expected[middle + at.fetch_add(1, Ordering::Relaxed)]);
            })
            .unwrap();
    }
    drop(queues);
    consumer.close(SECONDS);
}

fn read_offsets(topic: &str, end: i64) -> Vec<i64> {
    read(topic, 0, end).into_iter().map(|(offset, ..)| offset).collect()
}

#[test]
fn a_restore_passes_markers_and_waits_for_open_transactions() {
    let name = topic("restore", 2);
    let (first, second) = (producer(Some(&unique("first"))), producer(Some(&unique("second"))));
    let (to_first, to_second) = (first.topic(&name).unwrap(), second.topic(&name).unwrap());
    first.begin().unwrap();
    second.begin().unwrap();
    for _ in 0..10 {
        send(&first, to_first, 0, b"first");
    }
    first.flush(SECONDS).unwrap();
    send(&second, to_second, 0, b"second");
    send(&second, to_second, 1, b"second");
    second.flush(SECONDS).unwrap();
    second.commit(SECONDS).unwrap();
    // first 0-9, second 10, its marker 11.
    let target = 12;
    wait_until("the markers", || (end(&name, 0), end(&name, 1)) == (target, 2));

    let mut consumer = RestoreConsumer::new(&settings(), 1 << 20).unwrap();
    consumer.assign(&[(partition(&name, 0), 0), (partition(&name, 1), 0)]).unwrap();
    let mut seen = [0, 0];
    let mut step = |consumer: &mut RestoreConsumer, until: &dyn Fn(&RestoreConsumer) -> bool| {
        let deadline = Instant::now() + SECONDS;
        while !until(consumer) {
            assert!(Instant::now() < deadline, "{:?} {:?}", consumer.position(0), consumer.position(1));
            consumer.take(3, SOON, &mut |index, _| seen[index] += 1).unwrap();
        }
        seen
    };
    assert_eq!(step(&mut consumer, &|consumer| consumer.position(1) == Some(2)), [0, 1]);
    let still = Instant::now();
    step(&mut consumer, &|_| still.elapsed() > Duration::from_millis(500));
    assert_eq!(consumer.position(0), Some(0), "an open transaction was passed");
    first.commit(SECONDS).unwrap();
    assert_eq!(step(&mut consumer, &|consumer| consumer.position(0) >= Some(target)), [11, 1]);

    // Aborted records are passed, the last thing in the partition included; and a second assignment starts afresh.
    first.begin().unwrap();
    send(&first, to_first, 1, b"aborted");
    first.flush(SECONDS).unwrap();
    first.abort(SECONDS).unwrap();
    assert_eq!(step(&mut consumer, &|consumer| consumer.position(1) == Some(4)), [11, 1]);
    consumer.assign(&[(partition(&name, 0), 5)]).unwrap();
    assert_eq!((consumer.position(0), consumer.position(1)), (Some(5), None));
    let target = end(&name, 0);
    assert_eq!(step(&mut consumer, &|consumer| consumer.position(0) == Some(target)), [17, 1]);
}

#[test]
fn a_transaction_is_all_or_nothing_with_its_offsets() {
    let (input, output, group) = (topic("input", 2), topic("output", 1), unique("group"));
    let plain = producer(None);
    let to_input = plain.topic(&input).unwrap();
    for number in 0..4 {
        send(&plain, to_input, number % 2, b"input");
    }
    plain.flush(SECONDS).unwrap();
    let (consumer, queues, metadata) = member(&group, &input);
    assert!(metadata.generation() >= 0 && !metadata.member_id().is_empty());
    let partitions = [partition(&input, 0), partition(&input, 1)];
    let committed = || {
        let committed = consumer.committed(&partitions, SECONDS).unwrap();
        let by_admin = admin().committed(&group, &partitions).unwrap();
        assert_eq!(committed, by_admin);
        committed.into_iter().map(|entry| (entry.offset, entry.metadata)).collect::<Vec<_>>()
    };
    assert_eq!(committed(), [(None, None), (None, None)]);

    let producer = producer(Some(&unique("worker")));
    let to_output = producer.topic(&output).unwrap();
    let offsets = |at| [offset(&input, 1, at, "ids µ"), offset(&input, 0, at, "")];
    producer.begin().unwrap();
    send(&producer, to_output, 0, b"aborted");
    producer.flush(SECONDS).unwrap();
    assert_eq!(producer.delivered(to_output, 0), Some(0));
    producer.send_offsets(&offsets(1), &metadata, SECONDS).unwrap();
    producer.abort(SECONDS).unwrap();
    assert_eq!(committed(), [(None, None), (None, None)]);

    producer.begin().unwrap();
    assert_eq!(producer.delivered(to_output, 0), None);
    send(&producer, to_output, 0, b"committed");
    // Nothing would be committed, and nothing would say so.
    let error = producer.send_offsets(&[], &metadata, SECONDS).unwrap_err();
    assert!(error.to_string().contains("no offset to commit"), "{error}");
    let error = producer.send_offsets(&[offset(&input, 0, -1, "")], &metadata, SECONDS).unwrap_err();
    assert!(error.to_string().contains("-1 is no offset"), "{error}");
    producer.flush(SECONDS).unwrap();
    producer.send_offsets(&offsets(2), &metadata, SECONDS).unwrap();

    // Until the commit nobody knows what the group will go on with.
    let error = consumer.committed(&partitions, Duration::from_millis(700)).unwrap_err();
    assert!(error.is_timeout() || error.is_retriable(), "{error}");
    producer.commit(SECONDS).unwrap();
    assert_eq!(producer.delivered(to_output, 0), Some(2));
    assert_eq!(committed(), [(Some(2), None), (Some(2), Some("ids µ".to_owned()))]);
    let values: Vec<_> =
        read(&output, 0, end(&output, 0)).into_iter().map(|(_, _, value, ..)| value).collect();
    assert_eq!(values, [Some(b"committed".to_vec())]);

    // Without a transaction.
    consumer.commit(&[offset(&input, 0, 1, "plain")], SECONDS).unwrap();
    assert_eq!(committed()[0], (Some(1), Some("plain".to_owned())));
    assert!(!producer.is_spent());
    drop(queues);
    consumer.close(SECONDS);
}

#[test]
fn the_last_producer_with_an_id_fences_the_others() {
    let (output, id) = (topic("fenced", 1), unique("worker"));
    let old = producer(Some(&id));
    let to_output = old.topic(&output).unwrap();
    old.begin().unwrap();
    send(&old, to_output, 0, b"old");
    old.flush(SECONDS).unwrap();
    // Taking the id over ends what the predecessor left open.
    let new = producer(Some(&id));
    let error = old.commit(SECONDS).unwrap_err();
    assert!(error.is_fenced() && error.is_fatal() && !error.is_retriable(), "{error:?}");
    assert!(old.fatal_error().is_some());
    let error = old.begin().unwrap_err();
    assert!(error.is_fatal(), "{error:?}");
    let to_output = new.topic(&output).unwrap();
    new.begin().unwrap();
    send(&new, to_output, 0, b"new");
    new.commit(SECONDS).unwrap();
    let values: Vec<_> =
        read(&output, 0, end(&output, 0)).into_iter().map(|(_, _, value, ..)| value).collect();
    assert_eq!(values, [Some(b"new".to_vec())]);
}

#[test]
fn a_producer_that_is_dropped_delivers_nothing_and_does_not_wait() {
    let (output, id) = (topic("dropped", 1), unique("worker"));
    let old = producer(Some(&id));
    let to_output = old.topic(&output).unwrap();
    old.begin().unwrap();
    for _ in 0..10_000 {
        send(&old, to_output, 0, b"old");
    }
    let start = Instant::now();
    drop(old);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    let _successor = producer(Some(&id));
    assert_eq!(read(&output, 0, end(&output, 0)), []);
}

#[test]
fn partitions_move_between_members_and_old_ones_are_fenced() {
    let (input, group) = (topic("members", 4), unique("group"));
    let (first, queues, old) = member(&group, &input);
    assert_eq!(queues.len(), 4);

    let second = GroupConsumer::new(&settings(), &group_options(&group)).unwrap();
    second.subscribe(&[&input]).unwrap();
    match event(&first) {
        GroupEvent::Revoked { partitions, lost } => assert_eq!((partitions.len(), lost), (4, false)),
        other => panic!("{other:?}"),
    }
    // Still this member's: the group waits for the answer, and commits are accepted.
    let worker = producer(Some(&unique("worker")));
    worker.begin().unwrap();
    worker.send_offsets(&[offset(&input, 0, 1, "")], &old, SECONDS).unwrap();
    worker.commit(SECONDS).unwrap();
    drop(queues);
    first.unassign().unwrap();
    let (mine, metadata) = assigned(&first);
    let (others, _) = assigned(&second);
    assert_eq!((mine.len(), others.len()), (2, 2));
    assert!(metadata.generation() > old.generation());
    assert_eq!(metadata.member_id(), old.member_id());
    let queues = first.assign(&from_start(&mine), &quiet).unwrap();
    second.assign(&from_start(&others), &quiet).unwrap();

    // The assignment before is fenced, this one is not.
    worker.begin().unwrap();
    let error = worker.send_offsets(&[offset(&input, 0, 2, "")], &old, SECONDS).unwrap_err();
    assert!(error.is_stale_member() && error.requires_abort(), "{error:?}");
    worker.abort(SECONDS).unwrap();
    worker.begin().unwrap();
    worker.send_offsets(&[offset(&input, 0, 2, "")], &metadata, SECONDS).unwrap();
    worker.commit(SECONDS).unwrap();

    // A member that leaves gives its partitions up at once.
    let start = Instant::now();
    second.close(SECONDS);
    match event(&first) {
        GroupEvent::Revoked { lost, .. } => assert!(!lost),
        other => panic!("{other:?}"),
    }
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    drop(queues);
    first.unassign().unwrap();
    let (all, metadata) = assigned(&first);
    assert_eq!(all.len(), 4);
    let queues = first.assign(&from_start(&all), &quiet).unwrap();

    // One that is not heard of loses them: what it finds when it comes back is that they are lost.
    sleep(Duration::from_secs(8));
    match event(&first) {
        GroupEvent::Revoked { partitions, lost } => assert_eq!((partitions.len(), lost), (4, true)),
        other => panic!("{other:?}"),
    }
    worker.begin().unwrap();
    let error = worker.send_offsets(&[offset(&input, 0, 3, "")], &metadata, SECONDS).unwrap_err();
    assert!(error.is_stale_member(), "{error:?}");
    worker.abort(SECONDS).unwrap();
    drop(queues);
    first.unassign().unwrap();
    let (all, metadata) = assigned(&first);
    assert_eq!(all.len(), 4);
    assert!(metadata.generation() >= 0);
    // Dropped without a word, right after an event that was not answered.
    drop(first);
}

#[test]
fn a_queue_wakes_when_it_gets_its_first_record() {
    let (input, group) = (topic("wake", 2), unique("group"));
    let producer = producer(None);
    let to_input = producer.topic(&input).unwrap();
    let consumer = GroupConsumer::new(&settings(), &group_options(&group)).unwrap();
    consumer.subscribe(&[&input]).unwrap();
    let (partitions, _) = assigned(&consumer);
    let woken: Arc<[AtomicUsize; 2]> = Arc::default();
    let wake = |index: usize| -> Arc<dyn Fn() + Send + Sync> {
        let woken = woken.clone();
        Arc::new(move || {
            woken[index].fetch_add(1, Ordering::SeqCst);
        })
    };
    // Each partition's records come from its own queue, whoever looks first.
    let drain = |queue: &mut PartitionQueue| {
        let own = queue.partition().partition.to_string();
        queue.take(1_000, &mut |message| assert_eq!(message.value, Some(own.as_bytes()))).unwrap()
    };
    for _ in 0..100 {
        send(&producer, to_input, 0, b"0");
    }
    producer.flush(SECONDS).unwrap();
    // Looks only when woken: a wake-up that is lost is a record that never comes.
    let wait_for = |queue: &mut PartitionQueue, seen: &mut usize, records: usize| {
        let mut taken = 0;
        wait_until("a wake-up", || {
            if woken[1].swap(0, Ordering::SeqCst) > 0 || taken == 0 && *seen == 0 {
                *seen = 1;
                taken += drain(queue);
            }
            taken >= records
        });
        assert_eq!(taken, records);
    };
    for round in 0..5 {
        let old = consumer.assign(&from_start(&partitions), &wake).unwrap();
        let mut queues = consumer.assign(&from_start(&partitions), &wake).unwrap();
        // What came first does not silence what came after it.
        drop(old);
        let mut seen = 0;
        wait_for(&mut queues[1], &mut seen, round * 3);
        for _ in 0..3 {
            send(&producer, to_input, 1, b"1");
            producer.flush(SECONDS).unwrap();
            wait_for(&mut queues[1], &mut seen, 1);
        }
        let mut others = 0;
        wait_until("the other partition", || {
            others += drain(&mut queues[0]);
            others == 100
        });
        drop(queues);
    }
    sleep(SOON);
    // After the queues are gone nobody is woken.
    let before = woken[1].load(Ordering::SeqCst);
    send(&producer, to_input, 1, b"1");
    producer.flush(SECONDS).unwrap();
    sleep(Duration::from_millis(200));
    assert_eq!(woken[1].load(Ordering::SeqCst), before);
    consumer.close(SECONDS);
}

#[test]
fn a_queue_of_an_earlier_assignment_gives_nothing_and_leaves_the_next_alone() {
    let mut end = 20_000;
    let input = topic("earlier", 1);
    let producer = producer(None);
    let to_input = producer.topic(&input).unwrap();
    for _ in 0..end {
        send(&producer, to_input, 0, b"1");
    }
    producer.flush(SECONDS).unwrap();
    let (consumer, mut queues, _) = member(&unique("group"), &input);
    let woken = Arc::new(AtomicUsize::new(0));
    let wake = |_: usize| -> Arc<dyn Fn() + Send + Sync> {
        let woken = woken.clone();
        Arc::new(move || {
            woken.fetch_add(1, Ordering::SeqCst);
        })
    };
    let in_order = |queue: &mut PartitionQueue| {
        let mut next = queue.next_offset();
        let take = queue.take(100, &mut |message| {
            assert_eq!(message.offset, next);
            next += 1;
        });
        take.unwrap()
    };
    for round in 0..10 {
        let mut earlier = queues.remove(0);
        let (begun, over) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|threads| {
            // A worker that was not told goes on.
            threads.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    in_order(&mut earlier);
                    begun.store(true, Ordering::SeqCst);
                }
            });
            wait_until("the worker", || begun.load(Ordering::SeqCst));
            if round % 2 == 0 {
                consumer.unassign().unwrap();
            }
            queues = consumer.assign(&[(partition(&input, 0), round)], &wake).unwrap();
            wait_until("every record of the new assignment", || {
                in_order(&mut queues[0]);
                queues[0].next_offset() == end
            });
            over.store(true, Ordering::SeqCst);
        });
        assert_eq!(earlier.take(100, &mut |_| {}).unwrap(), 0);
        drop(earlier);
        assert_eq!(in_order(&mut queues[0]), 0);
        woken.store(0, Ordering::SeqCst);
        send(&producer, to_input, 0, b"1");
        producer.flush(SECONDS).unwrap();
        end += 1;
        wait_until("a wake-up", || woken.load(Ordering::SeqCst) > 0 && in_order(&mut queues[0]) == 1);
    }
    drop(queues);
    consumer.close(SECONDS);
}

#[test]
fn what_waits_in_memory_is_counted() {
    let input = topic("waiting", 1);
    let producer = producer(None);
    let to_input = producer.topic(&input).unwrap();
    for _ in 0..1_000 {
        send(&producer, to_input, 0, &[7; 100]);
    }
    assert_eq!(producer.buffered_bytes(), 100_000);
    producer.flush(SECONDS).unwrap();
    assert_eq!(producer.buffered_bytes(), 0);

    let (consumer, mut queues, _) = member(&unique("group"), &input);
    let queue = &mut queues[0];
    wait_until("a record", || queue.take(1, &mut |_| {}).unwrap() == 1);
    wait_until("the other records", || queue.queued_bytes() >= 999 * 100);
    // The third reaches the limit; the others wait.
    assert_eq!(queue.take_up_to(100, 250, &mut |_| {}).unwrap(), 3);
    assert_eq!(queue.next_offset(), 4);
    assert!(queue.queued_bytes() >= 996 * 100);
    wait_until("the last record", || {
        queue.take(1_000, &mut |_| {}).unwrap();
        queue.next_offset() == 1_000
    });
    wait_until("an empty queue", || queue.take(1, &mut |_| {}).unwrap() == 0 && queue.queued_bytes() == 0);
    drop(queues);
    consumer.close(SECONDS);
}

#[test]
fn an_offset_that_is_gone_is_an_error_and_stays_one() {
    let (input, group) = (topic("gone", 1), unique("group"));
    let producer = producer(None);
    let to_input = producer.topic(&input).unwrap();
    for _ in 0..10 {
        send(&producer, to_input, 0, b"1");
    }
    producer.flush(SECONDS).unwrap();
    admin().delete_records(&[(partition(&input, 0), 5)]).unwrap();
    let (consumer, mut queues, _) = member(&group, &input);
    let deadline = Instant::now() + SECONDS;
    let error = loop {
        assert!(Instant::now() < deadline);
        match queues[0].take(100, &mut |message| panic!("{}", message.offset)) {
            Ok(_) => sleep(Duration::from_millis(5)),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains(&format!("{input}[0]")), "{error}");
    assert_eq!(queues[0].take(100, &mut |_| {}).unwrap_err(), error);
    drop(queues);
    consumer.unassign().unwrap();
    let mut queues = consumer.assign(&[(partition(&input, 0), 5)], &quiet).unwrap();
    let mut offsets = Vec::new();
    while offsets.len() < 5 {
        assert!(Instant::now() < deadline);
        queues[0].take(100, &mut |message| offsets.push(message.offset)).unwrap();
    }
    assert_eq!(offsets, [5, 6, 7, 8, 9]);
    let error = consumer.assign(&[(partition(&input, 0), -2)], &quiet).err().unwrap();
    assert!(error.to_string().contains("-2 is no offset"), "{error}");
}

#[test]
fn topics_are_made_described_and_deleted() {
    let admin = admin();
    let name = unique("admin");
    let config = vec![("cleanup.policy".to_owned(), "compact".to_owned())];
    let new = NewTopic { name: name.clone(), partitions: 3, replication: 1, config };
    assert_eq!(admin.topics(&[&name]).unwrap(), [None]);
    admin.create_topics(std::slice::from_ref(&new)).unwrap();
    admin.create_topics(&[NewTopic { partitions: 5, ..new.clone() }]).unwrap();
    let described = admin.topics(&["no-such-topic", &name]).unwrap();
    assert_eq!(described[0], None);
    let first = described[1].clone().unwrap();
    assert_eq!(first.partitions, 3);
    let config = admin.topic_config(&name).unwrap();
    assert_eq!(config["cleanup.policy"], "compact");
    assert_eq!(config["max.message.bytes"], "1048588");
    assert!(admin.topic_config("no-such-topic").unwrap_err().is_unknown_topic());
    let error = admin.create_topics(&[NewTopic { name: "a b".to_owned(), ..new.clone() }]).unwrap_err();
    assert!(error.to_string().contains("\"a b\""), "{error}");
    let error = admin.create_topics(&[NewTopic { name: unique("wide"), replication: 9, ..new.clone() }]);
    assert!(error.unwrap_err().to_string().contains("eplication"));

    let producer = producer(None);
    let topic = producer.topic(&name).unwrap();
    for time in [10, 20, 30] {
        producer.send(topic, 1, Some(b"k"), Some(b"v"), time, []).unwrap();
    }
    producer.flush(SECONDS).unwrap();
    let partitions = [partition(&name, 2), partition(&name, 1)];
    let offsets = |spec| admin.offsets(&partitions, spec).unwrap();
    assert_eq!(offsets(OffsetSpec::Earliest), [0, 0]);
    assert_eq!(offsets(OffsetSpec::Latest), [0, 3]);
    assert_eq!(offsets(OffsetSpec::AtTime(11)), [0, 1]);
    assert_eq!(offsets(OffsetSpec::AtTime(31)), [0, 3]);
    let error = admin.offsets(&[partition(&name, 9)], OffsetSpec::Latest).unwrap_err();
    assert!(error.is_unknown_topic(), "{error:?}");
    let cluster = admin.check("some-group").unwrap();
    assert_eq!(cluster.brokers, 1);

    admin.delete_topics(&[&name]).unwrap();
    admin.delete_topics(&[&name]).unwrap();
    let deadline = Instant::now() + SECONDS;
    while admin.topics(&[&name]).unwrap() != [None] {
        assert!(Instant::now() < deadline);
    }
    admin.create_topics(&[new]).unwrap();
    assert_ne!(admin.topics(&[&name]).unwrap()[0].as_ref().unwrap().id, first.id);
}

/// A server that takes connections and never says a word.
fn silent() -> (std::net::TcpListener, ClientSettings) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let brokers = listener.local_addr().unwrap().to_string();
    (listener, ClientSettings { brokers, client_id: "client-test".to_owned(), ..ClientSettings::default() })
}

#[test]
fn nothing_hangs_without_a_broker() {
    let (listener, silent) = silent();
    let closed = ClientSettings { brokers: "127.0.0.1:1".to_owned(), ..silent.clone() };
    for settings in [&silent, &closed] {
        let start = Instant::now();
        let consumer = GroupConsumer::new(settings, &group_options("nobody")).unwrap();
        consumer.subscribe(&["nothing"]).unwrap();
        while start.elapsed() < Duration::from_millis(500) {
            consumer.poll(SOON);
        }
        let error = consumer.committed(&[partition("nothing", 0)], Duration::from_millis(300)).unwrap_err();
        assert!(error.is_retriable(), "{error:?}");
        let error = consumer.commit(&[offset("nothing", 0, 1, "")], Duration::from_millis(300)).unwrap_err();
        assert!(error.is_retriable(), "{error:?}");
        let mut queues = consumer.assign(&[(partition("nothing", 0), 0)], &quiet).unwrap();
        assert_eq!(queues[0].take(10, &mut |_| {}).unwrap(), 0);
        consumer.close(Duration::from_secs(1));
        drop(queues);

        let mut restore = RestoreConsumer::new(settings, 1 << 20).unwrap();
        restore.assign(&[(partition("nothing", 0), 0)]).unwrap();
        assert_eq!(restore.take(1, SOON, &mut |_, _| {}).unwrap(), 0);
        drop(restore);

        let small = ProducerOptions { buffer_bytes: 1 << 20, ..options(None) };
        let producer = Producer::new(settings, &small).unwrap();
        let topic = producer.topic("nothing").unwrap();
        let full = loop {
            if let Err(error) = producer.send(topic, 0, None, Some(&[0; 10_000]), 1, []) {
                break error;
            }
        };
        assert_eq!(full, SendError::QueueFull);
        assert!(producer.flush(Duration::from_millis(300)).unwrap_err().is_timeout());
        drop(producer);
        let producer = Producer::new(settings, &options(Some("nobody"))).unwrap();
        let error = producer.init_transactions(Duration::from_millis(300)).unwrap_err();
        assert!(error.is_retriable(), "{error:?}");
        drop(producer);

        let admin = Admin::new(settings, Duration::from_secs(1)).unwrap();
        let error = admin.check("nobody").unwrap_err();
        assert!(error.to_string().starts_with("cannot reach the brokers: "), "{error}");
        if settings.brokers == closed.brokers {
            assert!(error.to_string().contains("refused"), "{error}");
        }
        let error = admin.topics(&["nothing"]).unwrap_err();
        assert!(error.is_retriable(), "{error:?}");
        drop(admin);
        assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
    }
    drop(listener);
}

#[test]
fn bad_settings_are_named() {
    let (_listener, mut settings) = silent();
    let with = |name: &str, value: &str| {
        let properties = vec![(name.to_owned(), value.to_owned())];
        let settings = ClientSettings { properties, ..settings.clone() };
        Admin::new(&settings, SECONDS).err().unwrap().to_string()
    };
    assert!(with("linger.ms", "soon").contains("property `linger.ms`"));
    assert!(with("nonsense", "1").contains("property `nonsense`"));
    let error = with("ssl.key.password", "a\0secret");
    assert!(!error.contains("secret"), "{error}");
    settings.security.username = Some("me".to_owned());
    let error: KafkaError = Admin::new(&settings, SECONDS).err().unwrap();
    assert!(error.to_string().contains("kafka.security: `username`"), "{error}");
}

#[test]
fn java_and_this_client_read_each_other() {
    let broker = Broker::shared();
    let (ours, theirs) = (topic("ours", 5), topic("theirs", 5));
    let keys: Vec<_> = (0..50_u64).map(|number| format!("schlüssel {}", number * number)).collect();
    let bytes = |text: &str| BASE64_STANDARD.encode(text);
    let records: Vec<_> = keys
        .iter()
        .zip(1_000..)
        .map(|(key, time)| {
            let headers = json!([["trace", bytes(key)], ["none", null], ["trace", ""]]);
            json!({ "key": key, "value": format!("{key}!"), "timestamp": time, "headers": headers })
        })
        .chain([json!({ "key": null, "value": null, "timestamp": 5, "partition": 3, "headers": [] })])
        .collect();
    java::call(broker, json!({ "do": "produce", "topic": theirs, "records": records }));

    let producer = producer(None);
    let to_ours = producer.topic(&ours).unwrap();
    for (key, time) in keys.iter().zip(1_000..) {
        let headers: [(&str, Option<&[u8]>); 3] =
            [("trace", Some(key.as_bytes())), ("none", None), ("trace", Some(b""))];
        let partition = partitioner::partition(key.as_bytes(), 5) as i32;
        let value = format!("{key}!");
        producer
            .send(to_ours, partition, Some(key.as_bytes()), Some(value.as_bytes()), time, headers)
            .unwrap();
    }
    producer.send(to_ours, 3, None, None, 5, []).unwrap();
    producer.flush(SECONDS).unwrap();
    let by_java = java::consume(broker, &ours);
    assert_eq!(by_java.len(), 51);
    assert_eq!(by_java, java::consume(broker, &theirs));

    let mut by_us = Vec::new();
    for partition in 0..5 {
        let records = read(&theirs, partition, end(&theirs, partition));
        by_us.extend(records.into_iter().map(|(offset, key, value, timestamp, headers)| java::Record {
            partition: partition.into(),
            offset,
            timestamp,
            key,
            value,
            headers,
        }));
    }
    assert_eq!(by_us, by_java);
}

#[test]
fn a_producer_is_spent_when_a_request_got_no_answer() {
    let broker = Broker::start(&BrokerOptions::default());
    let settings = settings_of(&broker);
    java::create_topic(&broker, "input", 1);
    java::call(
        &broker,
        json!({ "do": "create-topic", "topic": "output", "config": { "retention.ms": "-1" } }),
    );
    // The signal takes a moment on a busy machine.
    let pause = || {
        broker.pause();
        sleep(Duration::from_millis(300));
    };
    let patient = GroupOptions {
        session_timeout: Duration::from_secs(40),
        max_poll_interval: Duration::from_secs(60),
        ..group_options("group")
    };
    let consumer = GroupConsumer::new(&settings, &patient).unwrap();
    consumer.subscribe(&["input"]).unwrap();
    let (partitions, metadata) = assigned(&consumer);
    let queues = consumer.assign(&from_start(&partitions), &quiet).unwrap();
    let worker = || {
        let producer = Producer::new(&settings, &options(Some("worker"))).unwrap();
        producer.init_transactions(SECONDS).unwrap();
        producer
    };
    let transaction = |producer: &Producer, at: i64| {
        let topic = producer.topic("output").unwrap();
        producer.begin().unwrap();
        send(producer, topic, 0, at.to_string().as_bytes());
        producer.flush(SECONDS).unwrap();
        producer.send_offsets(&[offset("input", 0, at, "")], &metadata, SECONDS).unwrap();
    };
    let first = worker();
    transaction(&first, 1);
    first.commit(SECONDS).unwrap();
    assert!(!first.is_spent());

    // Slow is not lost: the commit is under way, is asked for again and comes to its end.
    transaction(&first, 2);
    pause();
    let error = first.commit(Duration::from_millis(500)).unwrap_err();
    assert!(error.is_retriable() && error.is_timeout() && !error.requires_abort(), "{error:?}");
    // What needs the brokers gives up in time.
    let start = Instant::now();
    let error = consumer.committed(&partitions, Duration::from_millis(500)).unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
    // The broker will do it yet: it is for a partition that nobody asks for.
    let error = consumer.commit(&[offset("output", 0, 1, "")], Duration::from_millis(500)).unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(3));
    broker.resume();
    first.commit(SECONDS).unwrap();
    assert!(!first.is_spent());
    // After a commit that was asked for twice, librdkafka has once refused the next transaction's records. The engine begins
    // a new session with new producers then, and so does this.
    drop(first);

    // The broker dies with the commit in its hands.
    let first = worker();
    transaction(&first, 3);
    pause();
    assert!(first.commit(Duration::from_millis(500)).unwrap_err().is_retriable());
    broker.kill();
    wait_until("the connection ends", || first.is_spent());
    broker.restart();
    // That commit may be called again; another transaction is refused.
    let outcome = first.commit(SECONDS);
    let error = first.begin().unwrap_err();
    assert!(error.is_fatal() || outcome.is_err(), "{error:?}");
    drop(first);
    // The successor finds out what became of it: offsets and records agree.
    let second = worker();
    let committed = consumer.committed(&partitions, SECONDS).unwrap()[0].offset;
    let values: Vec<_> =
        java::consume(&broker, "output").into_iter().map(|record| record.value.unwrap()).collect();
    let expected: Vec<_> = (1..=committed.unwrap()).map(|at| at.to_string().into_bytes()).collect();
    assert_eq!(values, expected);
    if outcome.is_ok() {
        assert_eq!(committed, Some(3));
    }
    transaction(&second, 4);
    second.commit(SECONDS).unwrap();

    // Leaving a group whose broker stands still, or is gone.
    let other = GroupConsumer::new(&settings, &group_options("other")).unwrap();
    other.subscribe(&["input"]).unwrap();
    let (partitions, _) = assigned(&other);
    let others = other.assign(&from_start(&partitions), &quiet).unwrap();
    pause();
    let start = Instant::now();
    drop(queues);
    consumer.close(Duration::from_secs(1));
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    broker.kill();
    let start = Instant::now();
    other.close(Duration::from_secs(1));
    drop(others);
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
}

/// A token as brokers in a test take it: unsigned.
fn token(subject: &str) -> tempfile::NamedTempFile {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let part = |json: serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
    let claims = json!({ "sub": subject, "iat": now, "exp": now + 600 });
    let mut file = tempfile::NamedTempFile::new().unwrap();
    write!(file, "{}.{}.", part(json!({ "alg": "none" })), part(claims)).unwrap();
    file
}

#[test]
fn users_prove_who_they_are_and_may_do_what_is_allowed() {
    let broker = Broker::start(&BrokerOptions {
        security: Security::SaslSsl,
        users: vec![("ada", "right")],
        acl: true,
        ..BrokerOptions::default()
    });
    java::create_topic(&broker, "mine", 1);
    java::create_topic(&broker, "other", 1);
    let file = token("ada");
    let as_user = |mechanism: Mechanism, password: &str| {
        let mut settings = settings_of(&broker);
        settings.security.protocol = Protocol::SaslSsl;
        settings.security.ca = Some(broker.certificate("ca.pem"));
        settings.security.mechanism = Some(mechanism);
        if mechanism == Mechanism::OauthBearer {
            settings.security.token_file = Some(file.path().to_owned());
        } else {
            settings.security.username = Some("ada".to_owned());
            settings.security.password = Some(Secret::new(password));
        }
        settings
    };
    let check = |settings: &ClientSettings| {
        let start = Instant::now();
        let result = Admin::new(settings, Duration::from_secs(10)).unwrap().check("group");
        (result, start.elapsed())
    };

    // May not read the group yet, but is let in.
    for mechanism in Mechanism::ALL {
        let (result, _) = check(&as_user(mechanism, "right"));
        let error = result.unwrap_err();
        assert!(
            error.is_authorization() && error.to_string().contains("group \"group\""),
            "{mechanism:?}: {error}"
        );
        if mechanism == Mechanism::OauthBearer {
            continue;
        }
        let (result, took) = check(&as_user(mechanism, "wrong"));
        let error = result.unwrap_err();
        assert!(error.is_authentication(), "{mechanism:?}: {error:?}");
        assert!(!error.to_string().contains("wrong") && took < Duration::from_secs(5), "{took:?} {error}");
    }
    let mut strange = as_user(Mechanism::Plain, "right");
    strange.security.ca = None;
    let error = check(&strange).0.unwrap_err();
    assert!(error.is_authentication() && error.to_string().contains("certificate"), "{error}");
    strange.security.ca = Some("/nowhere/ca.pem".into());
    let error = Admin::new(&strange, SECONDS).err().unwrap();
    assert!(error.to_string().contains("/nowhere/ca.pem"), "{error}");
    std::fs::write(file.path(), "no token").unwrap();
    let error = check(&as_user(Mechanism::OauthBearer, "")).0.unwrap_err();
    assert!(error.to_string().contains("no JSON web token"), "{error}");

    let settings = as_user(Mechanism::ScramSha512, "right");
    let allow = |resource: &str, name: &str, operations: &[&str]| {
        let command = json!({ "do": "allow", "user": "ada", "resource": resource, "name": name,
            "operations": operations });
        java::call(&broker, command);
    };
    allow("group", "group", &["read", "describe"]);
    allow("topic", "mine", &["read", "write", "describe"]);
    // What is allowed is known a little later.
    wait_until("permission", || check(&settings).0.is_ok_and(|cluster| cluster.brokers == 1));

    let admin = Admin::new(&settings, SECONDS).unwrap();
    let mine = admin.topics(&["mine"]).unwrap().remove(0).unwrap();
    assert_eq!((mine.partitions, mine.allowed), (1, vec![Operation::Read, Operation::Write]));
    // A topic that may not be seen is not there, or is refused; in no case is it found.
    assert!(
        admin.topics(&["other"]).map_or_else(|error| error.is_topic_authorization(), |found| found == [None])
    );
    let new = NewTopic { name: "new".to_owned(), partitions: 1, replication: -1, config: Vec::new() };
    let error = admin.create_topics(&[new]).unwrap_err();
    assert!(error.is_authorization() && error.to_string().contains("\"new\""), "{error}");

    let plain = Producer::new(&settings, &options(None)).unwrap();
    for (name, allowed) in [("mine", true), ("other", false)] {
        let topic = plain.topic(name).unwrap();
        let sent = plain.send(topic, 0, None, Some(b"1"), 1, []);
        let result = sent.map_err(|error| match error {
            SendError::Failed(error) => error,
            SendError::QueueFull => panic!("full"),
        });
        match result.and_then(|()| plain.flush(SECONDS)) {
            Ok(()) => assert!(allowed),
            Err(error) => assert!(
                !allowed && error.is_authorization() && error.to_string().contains("other"),
                "{error}"
            ),
        }
        plain.clear();
    }
    let worker = Producer::new(&settings, &options(Some("worker"))).unwrap();
    let error = worker.init_transactions(SECONDS).unwrap_err();
    assert!(error.is_transactional_id_authorization() && !error.is_retriable(), "{error:?}");
    drop(worker);
    allow("transactional_id", "worker", &["write", "describe"]);
    let worker = Producer::new(&settings, &options(Some("worker"))).unwrap();
    worker.init_transactions(SECONDS).unwrap();

    let consumer = GroupConsumer::new(&settings, &group_options("group")).unwrap();
    consumer.subscribe(&["mine"]).unwrap();
    let (partitions, metadata) = assigned(&consumer);
    let mut queues = consumer.assign(&from_start(&partitions), &quiet).unwrap();
    wait_until("a record", || queues[0].take(1, &mut |_| {}).unwrap() == 1);
    worker.begin().unwrap();
    worker.send_offsets(&[offset("mine", 0, 1, "")], &metadata, SECONDS).unwrap();
    worker.commit(SECONDS).unwrap();
    drop(queues);
    consumer.close(SECONDS);
    let error = {
        let consumer = GroupConsumer::new(&settings, &group_options("secret")).unwrap();
        consumer.subscribe(&["mine"]).unwrap();
        let deadline = Instant::now() + SECONDS;
        loop {
            assert!(Instant::now() < deadline, "no error came");
            if let Some(GroupEvent::Error(error)) = consumer.poll(SOON) {
                break error;
            }
        }
    };
    assert!(error.is_authorization(), "{error:?}");
}
