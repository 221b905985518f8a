//! Which properties of librdkafka a topology may set in `[kafka.properties]`, and why not the others.

/// What may be set: the name, and what it is for. Times are milliseconds, sizes bytes. A value given here takes the place
/// of the engine's.
pub const ALLOWED_PROPERTIES: &[(&str, &str)] = &[
    ("batch.num.messages", "records in one batch to a partition, at most"),
    ("batch.size", "bytes in one batch to a partition, at most"),
    ("broker.address.family", "`any`, `v4` or `v6`"),
    ("broker.address.ttl", "how long a resolved address is kept"),
    ("client.dns.lookup", "how the addresses of a broker's name are used"),
    ("client.rack", "the rack of this process: the nearest replica is read"),
    ("compression.level", "of the compression that is used"),
    ("compression.type", "`none`, `gzip`, `snappy`, `lz4` or `zstd` for the batches written"),
    ("connections.max.idle.ms", "how long an unused connection is kept; 0 for ever"),
    ("fetch.error.backoff.ms", "the pause after a failed fetch"),
    ("fetch.max.bytes", "bytes of one fetch response, at most"),
    ("fetch.message.max.bytes", "bytes of a partition in one fetch response; grows for a larger record"),
    ("fetch.min.bytes", "bytes a broker waits for before it answers a fetch"),
    ("fetch.wait.max.ms", "how long a broker waits for `fetch.min.bytes`"),
    ("heartbeat.interval.ms", "how often a process says that it is alive"),
    ("linger.ms", "how long a record waits for others of its batch; a commit ends the wait"),
    ("max.partition.fetch.bytes", "the same as `fetch.message.max.bytes`"),
    ("message.max.bytes", "the largest record and batch that is written; the topic has to allow it too"),
    ("metadata.max.age.ms", "how old what is known of topics and leaders may be"),
    ("metadata.recovery.rebootstrap.trigger.ms", "when the brokers are looked up anew"),
    ("metadata.recovery.strategy", "`rebootstrap` or `none`, when all known brokers are gone"),
    (
        "receive.message.max.bytes",
        "the largest response that is accepted; above `fetch.max.bytes` by 512 at least",
    ),
    ("reconnect.backoff.max.ms", "the longest pause between two attempts to connect"),
    ("reconnect.backoff.ms", "the first pause between two attempts to connect"),
    ("request.timeout.ms", "how long a broker waits for its replicas before it fails a write"),
    ("retry.backoff.max.ms", "the longest pause before a request is sent again"),
    ("retry.backoff.ms", "the first pause before a request is sent again"),
    ("socket.connection.setup.timeout.ms", "how long connecting may take, TLS and login included"),
    ("socket.keepalive.enable", "TCP keep-alive"),
    ("socket.max.fails", "failed requests after which a connection is closed"),
    ("socket.nagle.disable", "TCP_NODELAY"),
    ("socket.receive.buffer.bytes", "of the operating system; 0 is its default"),
    ("socket.send.buffer.bytes", "of the operating system; 0 is its default"),
    ("socket.timeout.ms", "how long a request may take"),
    ("ssl.cipher.suites", "the TLS ciphers that may be used"),
    ("ssl.crl.location", "the file of revoked certificates"),
    ("ssl.curves.list", "the elliptic curves that may be used"),
    ("ssl.endpoint.identification.algorithm", "`none` accepts a certificate of another host"),
    ("ssl.providers", "the OpenSSL providers to load"),
    ("ssl.sigalgs.list", "the signature algorithms that may be used"),
    ("topic.metadata.refresh.fast.interval.ms", "the first pause before a lost leader is asked for again"),
    ("topic.metadata.refresh.interval.ms", "how often topics and leaders are asked for"),
];

/// What may not be set because the engine's promises rest on it, or because it is written elsewhere: the name, and the
/// reason, which says where it belongs.
pub const OWNED_PROPERTIES: &[(&str, &str)] = &[
    ("acks", "every record must be on all in-sync replicas before its input counts as done"),
    ("allow.auto.create.topics", "a misspelt topic must be an error, not a new topic"),
    (
        "auto.offset.reset",
        "where a source begins is said by its `start`; a gap in a topic is never skipped silently",
    ),
    ("bootstrap.servers", "it is written as `kafka.brokers`"),
    ("check.crcs", "damaged records must be noticed"),
    ("client.id", "it is made of the application's id, so that quotas and broker logs can name it"),
    ("compression.codec", "it is written as `compression.type`"),
    ("debug", "what is logged is chosen by the log level of the process"),
    ("delivery.report.only.error", "the changelog's offsets come from the reports of delivery"),
    ("delivery.timeout.ms", "it follows from `runtime.transaction-timeout`"),
    ("enable.auto.commit", "offsets are committed together with the results"),
    ("auto.commit.interval.ms", "it is written as `runtime.commit-every`"),
    ("auto.commit.enable", "offsets are committed together with the results"),
    ("enable.auto.offset.store", "offsets are committed together with the results"),
    ("enable.gapless.guarantee", "a failed record ends its transaction"),
    (
        "enable.idempotence",
        "records must neither be lost, doubled nor reordered when a request is sent again",
    ),
    ("enable.metrics.push", "metrics are served at `runtime.listen`"),
    ("enable.partition.eof", "the position at the end of a partition is how lag is known"),
    ("enable.sasl.oauthbearer.unsecure.jwt", "the token is read from `kafka.security.token-file`"),
    (
        "enable.ssl.certificate.verification",
        "a broker that is not checked could be anybody; name its authority in `kafka.security.ca`",
    ),
    ("fetch.queue.backoff.ms", "the engine sets it so that a drained queue is filled at once"),
    ("group.id", "it is `app.id`"),
    (
        "group.instance.id",
        "a process that leaves must give up its tasks at once; `runtime.instance` names it",
    ),
    ("group.protocol", "exactly once is fenced by the classic protocol's generation"),
    ("group.protocol.type", "exactly once is fenced by the classic protocol's generation"),
    ("group.remote.assignor", "exactly once is fenced by the classic protocol's generation"),
    ("isolation.level", "only what was committed may be read, or results would be doubled"),
    ("log_level", "what is logged is chosen by the log level of the process"),
    ("log.queue", "what is logged is chosen by the log level of the process"),
    ("max.in.flight", "records must keep their order when a request is sent again"),
    ("max.in.flight.requests.per.connection", "records must keep their order when a request is sent again"),
    ("max.poll.interval.ms", "it is written as `runtime.max-poll-interval`"),
    ("message.send.max.retries", "a request is sent again until its transaction's time is up"),
    ("message.timeout.ms", "it follows from `transaction.timeout.ms`"),
    ("metadata.broker.list", "it is written as `kafka.brokers`"),
    ("partition.assignment.strategy", "only `range` gives a task the same partition of all its topics"),
    (
        "partitioner",
        "keys go to the partitions that the Java client would choose, whichever client wrote them",
    ),
    ("plugin.library.paths", "no code is loaded by configuration"),
    ("queue.buffering.max.kbytes", "it is a share of `runtime.memory`"),
    ("queue.buffering.max.messages", "bytes are what bounds the records under way: `runtime.memory`"),
    ("queue.buffering.max.ms", "it is written as `linger.ms`"),
    ("queued.max.messages.kbytes", "it is a share of `runtime.memory`"),
    ("queued.min.messages", "bytes are what bounds the records read ahead: `runtime.memory`"),
    ("request.required.acks", "every record must be on all in-sync replicas before its input counts as done"),
    ("retries", "a request is sent again until its transaction's time is up"),
    ("sasl.mechanism", "it is written as `kafka.security.mechanism`"),
    ("sasl.mechanisms", "it is written as `kafka.security.mechanism`"),
    ("sasl.oauthbearer.config", "the token is read from `kafka.security.token-file`"),
    ("sasl.oauthbearer.method", "the token is read from `kafka.security.token-file`"),
    ("sasl.password", "it is written as `kafka.security.password`"),
    ("sasl.username", "it is written as `kafka.security.username`"),
    ("security.protocol", "it is written as `kafka.security.protocol`"),
    ("ssl.ca.location", "it is written as `kafka.security.ca`"),
    ("ssl.ca.pem", "it is written as `kafka.security.ca`, a file"),
    ("ssl.certificate.location", "it is written as `kafka.security.certificate`"),
    ("ssl.certificate.pem", "it is written as `kafka.security.certificate`, a file"),
    ("ssl.key.location", "it is written as `kafka.security.key`"),
    ("ssl.key.password", "it is written as `kafka.security.key-password`"),
    ("ssl.key.pem", "it is written as `kafka.security.key`, a file"),
    (
        "ssl.keystore.location",
        "the certificate and key are PEM files: `kafka.security.certificate` and `kafka.security.key`",
    ),
    (
        "ssl.keystore.password",
        "the certificate and key are PEM files: `kafka.security.certificate` and `kafka.security.key`",
    ),
    ("session.timeout.ms", "it is written as `runtime.session-timeout`"),
    ("statistics.interval.ms", "metrics are served at `runtime.listen`"),
    ("transaction.timeout.ms", "it is written as `runtime.transaction-timeout`"),
    ("transactional.id", "it is made of the application's id and `runtime.instance`"),
];

/// What only a client that reads knows; the others would warn of it.
const READERS: &[&str] = &[
    "fetch.error.backoff.ms",
    "fetch.max.bytes",
    "fetch.message.max.bytes",
    "fetch.min.bytes",
    "fetch.wait.max.ms",
    "heartbeat.interval.ms",
    "max.partition.fetch.bytes",
];

/// What only a client that writes knows; the others would warn of it.
const WRITERS: &[&str] = &[
    "batch.num.messages",
    "batch.size",
    "compression.level",
    "compression.type",
    "linger.ms",
    "request.timeout.ms",
];

/// Whether a client that reads has this property.
pub(super) fn is_for_readers(name: &str) -> bool {
    !WRITERS.contains(&name)
}

/// Whether a client that writes has this property.
pub(super) fn is_for_writers(name: &str) -> bool {
    !READERS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_is_allowed_or_owned_and_never_both() {
        for (name, _) in ALLOWED_PROPERTIES {
            assert!(OWNED_PROPERTIES.iter().all(|(owned, _)| owned != name), "{name}");
        }
        for name in READERS.iter().chain(WRITERS) {
            assert!(ALLOWED_PROPERTIES.iter().any(|(allowed, _)| allowed == name), "{name}");
        }
    }
}
