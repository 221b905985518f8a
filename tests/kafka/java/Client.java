import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.File;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.function.Consumer;
import java.util.regex.Pattern;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.DescribeTopicsOptions;
import org.apache.kafka.clients.admin.ListConsumerGroupOffsetsOptions;
import org.apache.kafka.clients.admin.ListOffsetsOptions;
import org.apache.kafka.clients.admin.ListTopicsOptions;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.IsolationLevel;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.acl.AccessControlEntry;
import org.apache.kafka.common.acl.AclBinding;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.acl.AclPermissionType;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.common.record.ControlRecordType;
import org.apache.kafka.common.record.FileRecords;
import org.apache.kafka.common.record.RecordBatch;
import org.apache.kafka.common.resource.PatternType;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.resource.ResourceType;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.IntegerSerializer;
import org.apache.kafka.common.serialization.LongSerializer;
import org.apache.kafka.common.serialization.Serializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Kafka's own Java client for tests in other languages: one JSON command a line on stdin, one JSON answer a line on
 * stdout ({@code {"error": …}} when it failed). A command names the brokers, so that one process serves many of them.
 * Ends with its stdin. Bytes are base64.
 */
public final class Client {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final Map<String, Admin> ADMINS = new HashMap<>();
    private static final Map<String, KafkaProducer<byte[], byte[]>> PRODUCERS = new HashMap<>();

    /** A call that has chosen a broker waits for it although it is away: what is asked meanwhile is better asked again. */
    private static final int PATIENCE_MS = 5000;

    private final JsonNode command;
    private final String brokers;

    private Client(JsonNode command) {
        this.command = command;
        this.brokers = command.path("brokers").asText();
    }

    public static void main(String[] arguments) throws Exception {
        PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
        // Nothing else may write between the answers.
        System.setOut(System.err);
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            ObjectNode answer;
            try {
                answer = new Client(JSON.readTree(line)).run();
            } catch (Exception e) {
                Throwable cause = e instanceof ExecutionException ? e.getCause() : e;
                answer = JSON.createObjectNode().put("error", cause.toString());
            }
            out.println(answer);
        }
        // Producers that never reach their broker again must not keep the process.
        Runtime.getRuntime().halt(0);
    }

    private ObjectNode run() throws Exception {
        switch (command.path("do").asText()) {
            case "create-topic": return createTopic();
            case "add-partitions": return addPartitions();
            case "delete-topic": return deleteTopic();
            case "delete-topics": return deleteTopics();
            case "configure-topic": return configureTopic();
            case "describe-topic": return describeTopic();
            case "produce": return produce();
            case "consume": return consume();
            case "count": return count();
            case "ends": return ends();
            case "delete-records": return deleteRecords();
            case "out-of-sync": return outOfSync();
            case "committed": return committed();
            case "commit": return commit();
            case "group": return group();
            case "delete-group": return deleteGroup();
            case "take-over": return takeOver();
            case "transactions": return transactions();
            case "markers": return markers();
            case "allow": return allow();
            default: throw new IllegalArgumentException("no such command");
        }
    }

    private Admin admin() {
        return ADMINS.computeIfAbsent(brokers, address -> Admin.create(Map.of("bootstrap.servers", address)));
    }

    private String topic() {
        return command.required("topic").asText();
    }

    private static ObjectNode done() {
        return JSON.createObjectNode();
    }

    private Map<String, String> config() {
        Map<String, String> config = new HashMap<>();
        command.path("config").fields().forEachRemaining(entry -> config.put(entry.getKey(), entry.getValue().asText()));
        return config;
    }

    /** {@code topic}, {@code partitions} (1), {@code config}. */
    private ObjectNode createTopic() throws Exception {
        Optional<Integer> partitions = Optional.of(command.path("partitions").asInt(1));
        NewTopic topic = new NewTopic(topic(), partitions, Optional.empty()).configs(config());
        admin().createTopics(List.of(topic)).all().get();
        return done();
    }

    /** {@code topic}, {@code partitions}: how many there are in the end. */
    private ObjectNode addPartitions() throws Exception {
        NewPartitions partitions = NewPartitions.increaseTo(command.required("partitions").asInt());
        admin().createPartitions(Map.of(topic(), partitions)).all().get();
        return done();
    }

    private ObjectNode deleteTopic() throws Exception {
        admin().deleteTopics(List.of(topic())).all().get();
        return done();
    }

    /** {@code prefix} of their names. */
    private ObjectNode deleteTopics() throws Exception {
        String prefix = command.required("prefix").asText();
        admin().deleteTopics(admin().listTopics().names().get().stream().filter(name -> name.startsWith(prefix)).toList())
            .all().get();
        return done();
    }

    /** {@code topic}, {@code config}. */
    private ObjectNode configureTopic() throws Exception {
        Collection<AlterConfigOp> changes = new ArrayList<>();
        config().forEach((name, value) ->
            changes.add(new AlterConfigOp(new ConfigEntry(name, value), AlterConfigOp.OpType.SET)));
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic());
        admin().incrementalAlterConfigs(Map.of(resource, changes)).all().get();
        return done();
    }

    /** Gives {@code partitions} and {@code config}, which has what differs from the broker's defaults. */
    private ObjectNode describeTopic() throws Exception {
        ObjectNode answer = done();
        answer.put("partitions", admin().describeTopics(List.of(topic())).allTopicNames().get().get(topic()).partitions().size());
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic());
        ObjectNode config = answer.putObject("config");
        for (ConfigEntry entry : admin().describeConfigs(List.of(resource)).all().get().get(resource).entries()) {
            if (entry.source() == ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG) {
                config.put(entry.name(), entry.value());
            }
        }
        return answer;
    }

    /**
     * {@code topic}, {@code records}: a list of {@code {key, value, timestamp?, partition?, headers?: [[name, base64]]}}.
     * {@code key-type} and {@code value-type} name the serializer: string (default), integer, long or bytes. Without
     * {@code partition} Java's default partitioner chooses. Gives {@code records} with partition and offset, in order.
     */
    private ObjectNode produce() throws Exception {
        KafkaProducer<byte[], byte[]> producer = PRODUCERS.computeIfAbsent(brokers, address -> {
            Properties settings = new Properties();
            settings.put("bootstrap.servers", address);
            settings.put("linger.ms", "2");
            return new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer());
        });
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        for (JsonNode record : command.required("records")) {
            RecordHeaders headers = new RecordHeaders();
            for (JsonNode header : record.path("headers")) {
                headers.add(header.get(0).asText(), header.get(1).binaryValue());
            }
            sent.add(producer.send(new ProducerRecord<>(
                topic(),
                record.hasNonNull("partition") ? record.get("partition").asInt() : null,
                record.hasNonNull("timestamp") ? record.get("timestamp").asLong() : null,
                serialize(command.path("key-type").asText("string"), record.path("key")),
                serialize(command.path("value-type").asText("string"), record.path("value")),
                headers)));
        }
        producer.flush();
        ObjectNode answer = done();
        ArrayNode records = answer.putArray("records");
        for (Future<RecordMetadata> future : sent) {
            records.addObject().put("partition", future.get().partition()).put("offset", future.get().offset());
        }
        return answer;
    }

    private byte[] serialize(String type, JsonNode data) throws Exception {
        if (data.isMissingNode() || data.isNull()) {
            return null;
        }
        switch (type) {
            case "string": return serialize(new StringSerializer(), data.asText());
            case "integer": return serialize(new IntegerSerializer(), data.asInt());
            case "long": return serialize(new LongSerializer(), data.asLong());
            case "bytes": return serialize(new ByteArraySerializer(), data.binaryValue());
            default: throw new IllegalArgumentException("no serializer is named " + type);
        }
    }

    private <T> byte[] serialize(Serializer<T> serializer, T data) {
        return serializer.serialize(topic(), data);
    }

    /**
     * {@code topic}, {@code isolation} (read_committed), {@code from}: one offset a partition (its start). Gives
     * {@code records} up to what is the end when the command comes, by partition and offset.
     */
    private ObjectNode consume() {
        ObjectNode answer = done();
        ArrayNode records = answer.putArray("records");
        read(record -> describe(record, records.addObject()));
        return answer;
    }

    /** What {@code consume} takes. Gives how many {@code records} and different {@code keys} there are. */
    private ObjectNode count() {
        long[] records = new long[1];
        Set<ByteBuffer> keys = new HashSet<>();
        read(record -> {
            records[0]++;
            if (record.value() == null && record.key() != null) {
                keys.remove(ByteBuffer.wrap(record.key()));
            } else if (record.key() != null) {
                keys.add(ByteBuffer.wrap(record.key()));
            }
        });
        return done().put("records", records[0]).put("keys", keys.size());
    }

    private void read(Consumer<ConsumerRecord<byte[], byte[]>> take) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", brokers);
        settings.put("isolation.level", command.path("isolation").asText("read_committed"));
        settings.put("auto.offset.reset", "earliest");
        settings.put("enable.auto.commit", "false");
        settings.put("max.poll.records", "10000");
        // A fetch at the end of a partition keeps the next partition waiting.
        settings.put("fetch.max.wait.ms", "10");
        try (KafkaConsumer<byte[], byte[]> consumer =
            new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            int count = consumer.partitionsFor(topic()).size();
            for (int number = 0; number < count; number++) {
                TopicPartition partition = new TopicPartition(topic(), number);
                consumer.assign(List.of(partition));
                consumer.seek(partition, command.path("from").path(number).asLong(0));
                long end = consumer.endOffsets(List.of(partition)).get(partition);
                while (consumer.position(partition) < end) {
                    for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(100))) {
                        if (record.offset() < end) {
                            take.accept(record);
                        }
                    }
                }
            }
        }
    }

    private static void describe(ConsumerRecord<byte[], byte[]> record, ObjectNode answer) {
        answer.put("partition", record.partition()).put("offset", record.offset()).put("timestamp", record.timestamp());
        answer.put("key", record.key()).put("value", record.value());
        ArrayNode headers = answer.putArray("headers");
        for (Header header : record.headers()) {
            headers.addArray().add(header.key()).add(header.value());
        }
    }

    /**
     * {@code isolation} (read_uncommitted). Gives {@code offsets}: the end of each partition, aborted transactions included;
     * open ones are not in what is read_committed.
     */
    private ObjectNode ends() throws Exception {
        Map<TopicPartition, OffsetSpec> wanted = new HashMap<>();
        int count = admin().describeTopics(List.of(topic())).allTopicNames().get().get(topic()).partitions().size();
        for (int number = 0; number < count; number++) {
            wanted.put(new TopicPartition(topic(), number), OffsetSpec.latest());
        }
        boolean committed = command.path("isolation").asText().equals("read_committed");
        IsolationLevel isolation = committed ? IsolationLevel.READ_COMMITTED : IsolationLevel.READ_UNCOMMITTED;
        var found = admin().listOffsets(wanted, new ListOffsetsOptions(isolation)).all().get();
        ObjectNode answer = done();
        ArrayNode offsets = answer.putArray("offsets");
        for (int number = 0; number < count; number++) {
            offsets.add(found.get(new TopicPartition(topic(), number)).offset());
        }
        return answer;
    }

    /** {@code topic}, {@code before}: one offset a partition; the records before it are gone. */
    private ObjectNode deleteRecords() throws Exception {
        Map<TopicPartition, RecordsToDelete> deleted = new HashMap<>();
        JsonNode before = command.required("before");
        for (int number = 0; number < before.size(); number++) {
            deleted.put(new TopicPartition(topic(), number), RecordsToDelete.beforeOffset(before.get(number).asLong()));
        }
        admin().deleteRecords(deleted).all().get();
        return done();
    }

    /** Gives how many {@code partitions}, over all topics, lack a leader or a replica that is in sync. */
    private ObjectNode outOfSync() throws Exception {
        ListTopicsOptions all = new ListTopicsOptions().listInternal(true).timeoutMs(PATIENCE_MS);
        Set<String> topics = admin().listTopics(all).names().get();
        DescribeTopicsOptions options = new DescribeTopicsOptions().timeoutMs(PATIENCE_MS);
        long partitions = admin().describeTopics(topics, options).allTopicNames().get().values().stream()
            .flatMap(topic -> topic.partitions().stream())
            .filter(partition -> partition.leader() == null || partition.isr().size() < partition.replicas().size())
            .count();
        return done().put("partitions", partitions);
    }

    /**
     * {@code group}, {@code topic}. Gives {@code offsets} and {@code metadata} by partition, null where there is none; the
     * lists end with the last partition that has one.
     */
    private ObjectNode committed() throws Exception {
        String group = command.required("group").asText();
        var options = new ListConsumerGroupOffsetsOptions().timeoutMs(PATIENCE_MS);
        var found = admin().listConsumerGroupOffsets(group, options).partitionsToOffsetAndMetadata().get();
        int count = 1 + found.keySet().stream().filter(partition -> partition.topic().equals(topic()))
            .mapToInt(TopicPartition::partition).max().orElse(-1);
        ObjectNode answer = done();
        ArrayNode offsets = answer.putArray("offsets");
        ArrayNode metadata = answer.putArray("metadata");
        for (int number = 0; number < count; number++) {
            var offset = found.get(new TopicPartition(topic(), number));
            offsets.add(offset == null ? null : offset.offset());
            metadata.add(offset == null ? null : offset.metadata());
        }
        return answer;
    }

    /** {@code group}, which has no members, {@code topic}, {@code offsets}: one a partition. */
    private ObjectNode commit() throws Exception {
        Map<TopicPartition, OffsetAndMetadata> committed = new HashMap<>();
        JsonNode offsets = command.required("offsets");
        for (int number = 0; number < offsets.size(); number++) {
            committed.put(new TopicPartition(topic(), number), new OffsetAndMetadata(offsets.get(number).asLong()));
        }
        admin().alterConsumerGroupOffsets(command.required("group").asText(), committed).all().get();
        return done();
    }

    /** {@code group}, which has no members, with the offsets it has committed. */
    private ObjectNode deleteGroup() throws Exception {
        admin().deleteConsumerGroups(List.of(command.required("group").asText())).all().get();
        return done();
    }

    /** {@code id}: from now on whoever had this transactional id is fenced, and its transaction is aborted. */
    private ObjectNode takeOver() {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", brokers);
        settings.put("transactional.id", command.required("id").asText());
        try (KafkaProducer<byte[], byte[]> producer =
            new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer())) {
            producer.initTransactions();
        }
        return done();
    }

    /** {@code group}. Gives {@code state} and {@code members}: client id and partitions of each. */
    private ObjectNode group() throws Exception {
        String name = command.required("group").asText();
        var group = admin().describeConsumerGroups(List.of(name)).all().get().get(name);
        ObjectNode answer = done().put("state", group.groupState().toString());
        ArrayNode members = answer.putArray("members");
        for (var member : group.members()) {
            ObjectNode described = members.addObject().put("client", member.clientId());
            ArrayNode partitions = described.putArray("partitions");
            member.assignment().topicPartitions().stream().map(TopicPartition::toString).sorted().forEach(partitions::add);
        }
        return answer;
    }

    /** {@code prefix} of transactional ids. Gives {@code transactions}: id, state, producer id and epoch of each. */
    private ObjectNode transactions() throws Exception {
        String prefix = command.path("prefix").asText();
        List<String> ids = new ArrayList<>();
        for (var listing : admin().listTransactions().all().get()) {
            if (listing.transactionalId().startsWith(prefix)) {
                ids.add(listing.transactionalId());
            }
        }
        ids.sort(null);
        ObjectNode answer = done();
        ArrayNode transactions = answer.putArray("transactions");
        var described = admin().describeTransactions(ids).all().get();
        for (String id : ids) {
            var transaction = described.get(id);
            transactions.addObject().put("id", id).put("state", transaction.state().toString())
                .put("producer", transaction.producerId()).put("epoch", transaction.producerEpoch());
        }
        return answer;
    }

    /**
     * {@code topic}, {@code directory} of the broker's logs. Gives how many markers of {@code committed} and of
     * {@code aborted} transactions that hold records of the topic are in its log, over all partitions, and how many
     * {@code aborted-records} it has. Compaction must not have touched it.
     */
    private ObjectNode markers() throws Exception {
        long[] markers = new long[2];
        long abortedRecords = 0;
        for (File log : new File(command.required("directory").asText()).listFiles()) {
            if (!log.getName().matches(Pattern.quote(topic()) + "-[0-9]+")) {
                continue;
            }
            File[] segments = log.listFiles((directory, name) -> name.endsWith(".log"));
            Arrays.sort(segments);
            Map<Long, Long> open = new HashMap<>();
            for (File segment : segments) {
                try (FileRecords records = FileRecords.open(segment, false)) {
                    for (RecordBatch batch : records.batches()) {
                        if (!batch.isControlBatch()) {
                            if (batch.isTransactional()) {
                                open.merge(batch.producerId(), (long) batch.countOrNull(), Long::sum);
                            }
                            continue;
                        }
                        Long held = open.remove(batch.producerId());
                        if (held != null) {
                            boolean aborted = ControlRecordType.parse(batch.iterator().next().key()) == ControlRecordType.ABORT;
                            markers[aborted ? 1 : 0]++;
                            abortedRecords += aborted ? held : 0;
                        }
                    }
                }
            }
        }
        return done().put("committed", markers[0]).put("aborted", markers[1]).put("aborted-records", abortedRecords);
    }

    /** {@code user}, {@code resource} (topic, group, transactional_id, cluster), {@code name}, {@code prefix} (false), {@code operations}. */
    private ObjectNode allow() throws Exception {
        ResourcePattern resource = new ResourcePattern(
            ResourceType.fromString(command.required("resource").asText()),
            command.path("name").asText("kafka-cluster"),
            command.path("prefix").asBoolean() ? PatternType.PREFIXED : PatternType.LITERAL);
        List<AclBinding> bindings = new ArrayList<>();
        for (JsonNode operation : command.required("operations")) {
            bindings.add(new AclBinding(resource, new AccessControlEntry(
                "User:" + command.required("user").asText(), "*",
                AclOperation.fromString(operation.asText()), AclPermissionType.ALLOW)));
        }
        admin().createAcls(bindings).all().get();
        return done();
    }
}
