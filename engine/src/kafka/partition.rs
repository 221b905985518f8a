//! Partitions, offsets, and the C lists of them.

use std::ffi::{CStr, CString};
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use super::error::{KafkaError, code, text};
use super::sys;

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's number, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// The partition with this number of this topic.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }

    pub(super) fn topic_c(&self) -> Result<CString, KafkaError> {
        c_string(&self.topic)
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.topic, self.partition)
    }
}

/// Where a group goes on in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetAndMetadata {
    /// The partition.
    pub partition: TopicPartition,
    /// The offset of the next record to read.
    pub offset: i64,
    /// Text that is kept with it; a broker takes 4,096 bytes by default.
    pub metadata: String,
}

/// What a group has committed for a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// The offset of the next record to read; nothing was committed if there is none.
    pub offset: Option<i64>,
    /// The text that was committed with it.
    pub metadata: Option<String>,
}

/// Text as C wants it.
pub(super) fn c_string(text: &str) -> Result<CString, KafkaError> {
    CString::new(text).map_err(|_| {
        KafkaError::new(code::INVALID_ARGUMENT, format!("{text:?} holds a zero byte, which no name may"))
    })
}

/// An owned list of partitions.
pub(super) struct PartitionList(NonNull<sys::rd_kafka_topic_partition_list_t>);

impl PartitionList {
    pub fn new(capacity: usize) -> Self {
        let capacity = i32::try_from(capacity).unwrap_or(i32::MAX);
        // SAFETY: the function only allocates; librdkafka ends the process when there is no memory.
        let list = unsafe { sys::rd_kafka_topic_partition_list_new(capacity) };
        match NonNull::new(list) {
            Some(list) => Self(list),
            None => std::process::abort(),
        }
    }

    /// The partitions without offsets.
    pub fn of(partitions: &[TopicPartition]) -> Result<Self, KafkaError> {
        let list = Self::new(partitions.len());
        partitions.iter().try_for_each(|partition| list.add(partition).map(drop))?;
        Ok(list)
    }

    /// The partitions at these offsets.
    pub fn at(partitions: &[(TopicPartition, i64)]) -> Result<Self, KafkaError> {
        let list = Self::new(partitions.len());
        for (partition, offset) in partitions {
            let entry = list.add(partition)?;
            // SAFETY: the entry is valid until the list grows or goes, and nobody else has it.
            unsafe { (*entry).offset = *offset };
        }
        Ok(list)
    }

    /// Offsets to commit. All have to be offsets of a record: librdkafka leaves others out in silence, and a commit
    /// that leaves a partition out says nothing of it.
    pub fn to_commit(offsets: &[OffsetAndMetadata]) -> Result<Self, KafkaError> {
        if offsets.is_empty() {
            return Err(KafkaError::new(code::INVALID_ARGUMENT, "there is no offset to commit"));
        }
        let list = Self::new(offsets.len());
        for OffsetAndMetadata { partition, offset, metadata } in offsets {
            if *offset < 0 {
                let message = format!("{offset} is no offset that could be committed for {partition}");
                return Err(KafkaError::new(code::INVALID_ARGUMENT, message));
            }
            let entry = list.add(partition)?;
            // SAFETY: the entry is valid until the list grows or goes, and nobody else has it. The list frees the
            // metadata with the allocator that `rd_kafka_mem_malloc` takes it from.
            unsafe {
                (*entry).offset = *offset;
                if !metadata.is_empty() {
                    let copy = sys::rd_kafka_mem_malloc(std::ptr::null_mut(), metadata.len());
                    std::ptr::copy_nonoverlapping(metadata.as_ptr(), copy.cast::<u8>(), metadata.len());
                    (*entry).metadata = copy;
                    (*entry).metadata_size = metadata.len();
                }
            }
        }
        Ok(list)
    }

    /// Topics to subscribe to.
    pub fn of_topics(topics: &[&str]) -> Result<Self, KafkaError> {
        let list = Self::new(topics.len());
        for topic in topics {
            // A leading `^` would make it a regular expression.
            if topic.starts_with('^') {
                return Err(KafkaError::new(code::INVALID_ARGUMENT, format!("{topic:?} is no topic's name")));
            }
            list.add_raw(&c_string(topic)?, -1);
        }
        Ok(list)
    }

    fn add(&self, partition: &TopicPartition) -> Result<*mut sys::RawPartition, KafkaError> {
        Ok(self.add_raw(&partition.topic_c()?, partition.partition))
    }

    fn add_raw(&self, topic: &CStr, partition: i32) -> *mut sys::RawPartition {
        // SAFETY: the list is valid and ours; the name is copied.
        let entry =
            unsafe { sys::rd_kafka_topic_partition_list_add(self.0.as_ptr(), topic.as_ptr(), partition) };
        entry.cast()
    }

    pub fn as_ptr(&self) -> *mut sys::rd_kafka_topic_partition_list_t {
        self.0.as_ptr()
    }

    pub fn entries(&self) -> Vec<Entry> {
        // SAFETY: the list is valid and ours.
        unsafe { entries(self.0.as_ptr()) }
    }
}

impl Drop for PartitionList {
    fn drop(&mut self) {
        // SAFETY: the list is ours and is destroyed once.
        unsafe { sys::rd_kafka_topic_partition_list_destroy(self.0.as_ptr()) };
    }
}

/// A copy of a list's entry.
pub(super) struct Entry {
    pub partition: TopicPartition,
    pub offset: i64,
    pub metadata: Option<String>,
    pub err: sys::Code,
}

impl Entry {
    /// Copies an entry.
    ///
    /// # Safety
    /// The pointer is an entry that nobody changes during the call.
    pub unsafe fn copy(entry: *const sys::RawPartition) -> Self {
        // SAFETY: what the caller promises. An entry has a topic's name, and metadata of the size that it says.
        unsafe {
            let entry = &*entry;
            let metadata = (!entry.metadata.is_null() && entry.metadata_size > 0)
                .then(|| std::slice::from_raw_parts(entry.metadata.cast::<u8>(), entry.metadata_size));
            Self {
                partition: TopicPartition::new(text(entry.topic), entry.partition),
                offset: entry.offset,
                metadata: metadata.map(|bytes| String::from_utf8_lossy(bytes).into_owned()),
                err: entry.err,
            }
        }
    }
}

/// What is committed for these partitions, in their order. An error of one of them is an error, and so is one that is
/// missing.
pub(super) fn committed(
    entries: Vec<Entry>,
    partitions: &[TopicPartition],
) -> Result<Vec<Committed>, KafkaError> {
    // The client answers in the list that it was given.
    if !entries.iter().map(|entry| &entry.partition).eq(partitions) {
        return Err(KafkaError::new(code::NO_OFFSET, "committed offsets are missing in the answer"));
    }
    let committed = |entry: Entry| {
        if entry.err != code::NONE {
            let what = format!("cannot read the committed offset of {}", entry.partition);
            return Err(KafkaError::from_code(entry.err).during(what));
        }
        let offset = (entry.offset >= 0).then_some(entry.offset);
        Ok(Committed { offset, metadata: offset.and(entry.metadata) })
    };
    entries.into_iter().map(committed).collect()
}

/// Copies the entries of a list; entries of one topic that follow each other share its name.
///
/// # Safety
/// The pointer is null or points to a list that nobody changes during the call.
pub(super) unsafe fn entries(list: *const sys::rd_kafka_topic_partition_list_t) -> Vec<Entry> {
    if list.is_null() {
        return Vec::new();
    }
    // SAFETY: what the caller promises; a list holds `cnt` entries.
    let elements = unsafe {
        let count = usize::try_from((*list).cnt).unwrap_or(0);
        let first = (*list).elems.cast::<sys::RawPartition>();
        if count == 0 { &[] } else { std::slice::from_raw_parts(first.cast_const(), count) }
    };
    let mut copies: Vec<Entry> = Vec::with_capacity(elements.len());
    for element in elements {
        // SAFETY: every entry of a list is valid as long as the list.
        let mut copy = unsafe { Entry::copy(element) };
        if let Some(last) = copies.last()
            && last.partition.topic == copy.partition.topic
        {
            copy.partition.topic = last.partition.topic.clone();
        }
        copies.push(copy);
    }
    copies
}
