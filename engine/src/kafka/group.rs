//! The consumer that is a member of the application's group.

use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use super::client::{Client, Event, Kind, Properties, Queue, millis};
use super::error::{KafkaError, code, text};
use super::partition::{Committed, OffsetAndMetadata, PartitionList, TopicPartition, committed, entries};
use super::queue::{self, Assignment, PartitionQueue, Wake};
use super::settings::ClientSettings;
use super::sys;

/// How a group consumer behaves.
#[derive(Clone, Debug)]
pub struct GroupOptions {
    /// The group's id.
    pub group: String,
    /// After this long without a sign of life the group gives the partitions to others.
    pub session_timeout: Duration,
    /// After this long without a poll the client leaves the group. Any thread that polls any queue renews it: it is no
    /// watchdog.
    pub max_poll_interval: Duration,
    /// Bytes of memory for what is fetched ahead for each partition, about.
    pub queued_bytes_per_partition: usize,
    /// How long a broker may hold a fetch back that has nothing to return; also how late the end of a partition is
    /// seen, at most.
    pub wait: Option<Duration>,
}

/// What happens to a member of a group. `Assigned` and `Revoked` have to be answered, with
/// [`assign`](GroupConsumer::assign) and [`unassign`](GroupConsumer::unassign): the whole group waits for it.
#[derive(Debug)]
pub enum GroupEvent {
    /// These are this member's partitions.
    Assigned {
        /// All of them.
        partitions: Vec<TopicPartition>,
        /// What commits of these partitions are to be made with, now and until they are revoked.
        metadata: GroupMetadata,
    },
    /// The partitions are to be given up. None of their records come any more.
    Revoked {
        /// All that were assigned.
        partitions: Vec<TopicPartition>,
        /// They already belong to others: nothing may be committed for them.
        lost: bool,
    },
    /// Something failed. Unless the error [is fatal](KafkaError::is_fatal), the client goes on trying.
    Error(KafkaError),
}

/// The member and generation for which an assignment was made: the fence of its commits. Taken once, with the assignment,
/// and never empty: brokers accept the offsets of a commit that names no member without checking who sends it.
#[derive(Clone)]
pub struct GroupMetadata(Membership);

#[derive(Clone)]
enum Membership {
    Known(Arc<RawMetadata>),
    #[cfg(test)]
    Simulated(i32, String),
}

struct RawMetadata(NonNull<sys::rd_kafka_consumer_group_metadata_t>);

// SAFETY: the object is never changed after it was made, and any thread may free it.
unsafe impl Send for RawMetadata {}
// SAFETY: as above.
unsafe impl Sync for RawMetadata {}

impl Drop for RawMetadata {
    fn drop(&mut self) {
        // SAFETY: the object is ours and is destroyed once.
        unsafe { sys::rd_kafka_consumer_group_metadata_destroy(self.0.as_ptr()) };
    }
}

impl GroupMetadata {
    /// What the client holds at this moment; `None` if that is no member of a generation.
    fn now(client: &Client) -> Option<Self> {
        // SAFETY: the client is valid; what is returned is ours.
        let raw = NonNull::new(unsafe { sys::rd_kafka_consumer_group_metadata(client.as_ptr()) })?;
        let this = Self(Membership::Known(Arc::new(RawMetadata(raw))));
        (this.generation() >= 0 && !this.member_id().is_empty()).then_some(this)
    }

    #[cfg(test)]
    pub(crate) fn simulated(generation: i32, member: &str) -> Self {
        Self(Membership::Simulated(generation, member.to_owned()))
    }

    /// The group's generation, from 0.
    pub fn generation(&self) -> i32 {
        #[cfg(test)]
        if let Membership::Simulated(generation, _) = &self.0 {
            return *generation;
        }
        // SAFETY: the object is valid.
        unsafe { sys::rd_kafka_consumer_group_metadata_generation_id(self.as_ptr()) }
    }

    /// The member's id, as the group's coordinator made it.
    pub fn member_id(&self) -> String {
        #[cfg(test)]
        if let Membership::Simulated(_, member) = &self.0 {
            return member.clone();
        }
        // SAFETY: the object is valid; the text lives as long as it and is copied.
        unsafe { text(sys::rd_kafka_consumer_group_metadata_member_id(self.as_ptr())) }
    }

    pub(super) fn as_ptr(&self) -> *const sys::rd_kafka_consumer_group_metadata_t {
        match &self.0 {
            Membership::Known(raw) => raw.0.as_ptr().cast_const(),
            #[cfg(test)]
            Membership::Simulated(..) => std::ptr::null(),
        }
    }
}

impl fmt::Debug for GroupMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupMetadata({} of {:?})", self.generation(), self.member_id())
    }
}

/// A member of the group. One thread polls it for events; the partitions' records are in queues of their own, for the
/// workers. Nothing is committed that is not asked for.
pub struct GroupConsumer {
    // Before the client: a queue has to go first.
    main: Queue,
    client: Arc<Client>,
    /// The last assignment came without a member to commit for, and was answered in silence.
    ignored: AtomicBool,
    /// The number of the assignment that is in force.
    assignment: Arc<RwLock<u64>>,
}

impl GroupConsumer {
    /// A member that has not subscribed yet. Connects in the background: that there is no broker is an event.
    pub fn new(settings: &ClientSettings, options: &GroupOptions) -> Result<Self, KafkaError> {
        let session = millis(options.session_timeout).to_string();
        // A member is to be heard a few times before it counts as gone.
        let heartbeat = millis(options.session_timeout / 5).clamp(1, 3_000).to_string();
        let poll = millis(options.max_poll_interval.max(options.session_timeout)).to_string();
        let queued = (options.queued_bytes_per_partition / 1024).clamp(1, 2_097_151).to_string();
        let fetched = super::bytes_of_a_fetch(options.queued_bytes_per_partition).to_string();
        let mut defaults = super::FETCH.to_vec();
        defaults.push(("fetch.message.max.bytes", &fetched));
        defaults.push(("session.timeout.ms", &session));
        defaults.push(("heartbeat.interval.ms", &heartbeat));
        let wait = options.wait.map(|wait| millis(wait).to_string());
        if let Some(wait) = &wait {
            defaults.push(("fetch.wait.max.ms", wait));
        }
        let records = super::records_that_wait(options.queued_bytes_per_partition).to_string();
        let mut owned = super::READ.to_vec();
        owned.extend([
            ("queued.min.messages", records.as_str()),
            ("group.id", options.group.as_str()),
            ("group.protocol", "classic"),
            ("partition.assignment.strategy", "range"),
            ("max.poll.interval.ms", &poll),
            ("queued.max.messages.kbytes", &queued),
        ]);
        let mut properties = Properties::new(settings, Kind::Reader, &defaults, &owned)?;
        properties.events(
            sys::RD_KAFKA_EVENT_REBALANCE | sys::RD_KAFKA_EVENT_ERROR | sys::RD_KAFKA_EVENT_OFFSET_COMMIT,
        );
        let client = properties.client(Kind::Reader)?;
        // SAFETY: the client is valid; the queue is ours and is dropped before it.
        let main = unsafe {
            KafkaError::check(sys::rd_kafka_poll_set_consumer(client.as_ptr()))?;
            Queue::own(sys::rd_kafka_queue_get_consumer(client.as_ptr()))
        };
        let main = main.ok_or_else(|| KafkaError::from_code(code::STATE))?;
        Ok(Self {
            main,
            client: Arc::new(client),
            ignored: AtomicBool::new(false),
            assignment: Arc::default(),
        })
    }

    /// Joins the group for these topics.
    pub fn subscribe(&self, topics: &[&str]) -> Result<(), KafkaError> {
        let list = PartitionList::of_topics(topics)?;
        // SAFETY: the client and the list are valid; the list is copied.
        self.client.check(unsafe { sys::rd_kafka_subscribe(self.client.as_ptr(), list.as_ptr()) })
    }

    /// The next event, if one comes in time. To be called all the time, by one thread.
    pub fn poll(&self, timeout: Duration) -> Option<GroupEvent> {
        let deadline = Instant::now() + timeout;
        loop {
            let event = self.main.poll(deadline.saturating_duration_since(Instant::now()))?;
            if let Some(event) = self.read(&event) {
                return Some(event);
            }
        }
    }

    fn read(&self, event: &Event) -> Option<GroupEvent> {
        match event.kind() {
            sys::RD_KAFKA_EVENT_REBALANCE if event.code() == code::ASSIGN_PARTITIONS => {
                let Some(metadata) = GroupMetadata::now(&self.client) else {
                    // The member was thrown out meanwhile. The group has the partitions, so this member takes none; that
                    // it has lost them is the next event, which is nobody else's business either.
                    self.ignored.store(true, Ordering::Relaxed);
                    tracing::info!("the group went on before its assignment arrived");
                    return self.unassign().err().map(GroupEvent::Error);
                };
                self.ignored.store(false, Ordering::Relaxed);
                Some(GroupEvent::Assigned { partitions: partitions(event), metadata })
            }
            sys::RD_KAFKA_EVENT_REBALANCE if event.code() == code::REVOKE_PARTITIONS => {
                if self.ignored.swap(false, Ordering::Relaxed) {
                    return self.unassign().err().map(GroupEvent::Error);
                }
                // SAFETY: the client is valid.
                let lost = unsafe { sys::rd_kafka_assignment_lost(self.client.as_ptr()) } != 0;
                Some(GroupEvent::Revoked { partitions: partitions(event), lost })
            }
            sys::RD_KAFKA_EVENT_REBALANCE => {
                // The group could not be joined; the member is without partitions until the next try.
                let error = self.unassign().err().or_else(|| event.error());
                error.map(GroupEvent::Error)
            }
            sys::RD_KAFKA_EVENT_ERROR => event.error().map(GroupEvent::Error),
            _ => None,
        }
    }

    /// Begins to fetch these partitions at these offsets, in place of all others, and returns a queue for each, in order.
    /// Those of the assignment before give nothing any more.
    ///
    /// `wake(i)` makes what is called when the `i`th queue gets its first record. librdkafka's thread calls it while it
    /// holds the queue: it has to be short, must not block or panic, and must not use or drop anything of this room.
    pub fn assign(
        &self,
        partitions: &[(TopicPartition, i64)],
        wake: &dyn Fn(usize) -> Wake,
    ) -> Result<Vec<PartitionQueue>, KafkaError> {
        let list = PartitionList::at(partitions)?;
        let (assignment, _alone) = Assignment::next(&self.assignment);
        let queues: Vec<_> = partitions
            .iter()
            .enumerate()
            .map(|(index, (partition, offset))| {
                let (assignment, partition) = (assignment.clone(), partition.clone());
                PartitionQueue::detach(&self.client, assignment, partition, *offset, wake(index))
            })
            .collect::<Result<_, _>>()?;
        self.change_assignment(list.as_ptr())?;
        Ok(queues)
    }

    /// Gives all partitions up. To be called when every worker has dropped its queues and has committed or aborted what
    /// it did with their records: from here on they are others'.
    pub fn unassign(&self) -> Result<(), KafkaError> {
        let _alone = Assignment::next(&self.assignment);
        self.change_assignment(std::ptr::null())
    }

    /// Changes the assignment and waits until the fetchers of the one before have stopped. A second change before that
    /// would stop them twice, and librdkafka ends the process over the second stop (an assertion in
    /// `rd_kafka_assignment_partition_stopped`). Of two questions to the client's thread, which does everything in turn,
    /// the first is answered after the stops, the second after their confirmation. The list is valid or null.
    fn change_assignment(&self, list: *const sys::rd_kafka_topic_partition_list_t) -> Result<(), KafkaError> {
        let result = self.set_assignment(list);
        for _ in 0..2 {
            GroupMetadata::now(&self.client);
        }
        result
    }

    /// Changes the assignment. The list is valid or null.
    fn set_assignment(&self, list: *const sys::rd_kafka_topic_partition_list_t) -> Result<(), KafkaError> {
        // SAFETY: the client is valid, and the list too, if there is one; it is copied.
        self.client.check(unsafe { sys::rd_kafka_assign(self.client.as_ptr(), list) })
    }

    /// What the group has committed, in the order asked for. Offsets that an open transaction may still change are waited
    /// for.
    pub fn committed(
        &self,
        partitions: &[TopicPartition],
        timeout: Duration,
    ) -> Result<Vec<Committed>, KafkaError> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let list = PartitionList::of(partitions)?;
        // SAFETY: the client and the list are valid. Stable offsets are asked for because the client reads committed
        // records only.
        let result = unsafe { sys::rd_kafka_committed(self.client.as_ptr(), list.as_ptr(), millis(timeout)) };
        self.client.check(result).map_err(|error| error.during("cannot read the committed offsets"))?;
        committed(list.entries(), partitions)
    }

    /// Commits offsets outside of any transaction, and waits until it is done. After a time-out it may have happened.
    pub fn commit(&self, offsets: &[OffsetAndMetadata], timeout: Duration) -> Result<(), KafkaError> {
        let list = PartitionList::to_commit(offsets)?;
        let answer = Queue::new(&self.client);
        // SAFETY: the client, the list and the queue are valid; the list is copied. Without a callback the answer is an
        // event of the queue. If the queue is dropped before, librdkafka frees the answer.
        let result = unsafe {
            sys::rd_kafka_commit_queue(
                self.client.as_ptr(),
                list.as_ptr(),
                answer.as_ptr(),
                std::ptr::null(),
                std::ptr::null_mut(),
            )
        };
        self.client.check(result)?;
        let Some(event) = answer.poll(timeout) else {
            return Err(KafkaError::from_code(code::TIMED_OUT).during("cannot commit offsets"));
        };
        if let Some(error) = event.error() {
            return Err(error.during("cannot commit offsets"));
        }
        // SAFETY: the event is valid; its list lives as long as it and is copied.
        let entries = unsafe { entries(sys::rd_kafka_event_topic_partition_list(event.as_ptr())) };
        match entries.iter().find(|entry| entry.err != code::NONE) {
            Some(entry) => {
                let what = format!("cannot commit the offset of {}", entry.partition);
                Err(KafkaError::from_code(entry.err).during(what))
            }
            None => Ok(()),
        }
    }

    /// The high watermark of an assigned partition that the last fetch saw, open transactions included; `None` before the
    /// first. No network.
    pub fn end_offset(&self, partition: &TopicPartition) -> Option<i64> {
        queue::end_offset(&self.client, &partition.topic_c().ok()?, partition.partition)
    }

    /// Leaves the group, so that others get the partitions at once instead of after the session's time. Whatever the
    /// brokers do, it returns about when `timeout` has passed. To be called when every worker is done with its partitions.
    pub fn close(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let queue = Queue::new(&self.client);
        // SAFETY: the client and the queue are valid; the main queue is forwarded to ours until the client is closed.
        let begun = unsafe {
            KafkaError::take(sys::rd_kafka_consumer_close_queue(self.client.as_ptr(), queue.as_ptr()))
        };
        if let Err(error) = begun {
            // After a fatal error there is no group to leave.
            tracing::debug!(%error, "not leaving the group");
            return;
        }
        loop {
            // SAFETY: the client is valid.
            if unsafe { sys::rd_kafka_consumer_closed(self.client.as_ptr()) } != 0 {
                break;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            // What waits for an answer is answered also when the time is up: the client's end would wait for it.
            let event = queue.poll(left.min(Duration::from_millis(100)));
            if event.is_some_and(|event| event.kind() == sys::RD_KAFKA_EVENT_REBALANCE) {
                let _alone = Assignment::next(&self.assignment);
                // Its fetchers are not waited for: with this answer the member may end, and with it whoever answers its
                // questions, which have no time-out.
                if let Err(error) = self.set_assignment(std::ptr::null()) {
                    tracing::debug!(%error, "cannot give partitions up");
                }
            } else if left.is_zero() {
                self.client.shared().given_up.store(true, Ordering::Relaxed);
                tracing::warn!(
                    "the group could not be left in time; its partitions stay until the session ends"
                );
                break;
            }
        }
    }
}

fn partitions(event: &Event) -> Vec<TopicPartition> {
    // SAFETY: the event is valid; its list lives as long as it and is copied.
    let entries = unsafe { entries(sys::rd_kafka_event_topic_partition_list(event.as_ptr())) };
    entries.into_iter().map(|entry| entry.partition).collect()
}
