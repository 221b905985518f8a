import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.management.ManagementFactory;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.JoinWindows;
import org.apache.kafka.streams.kstream.Joined;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.KTable;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.Repartitioned;
import org.apache.kafka.streams.kstream.SessionWindows;
import org.apache.kafka.streams.kstream.StreamJoined;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.kstream.WindowedSerdes;
import org.apache.kafka.streams.processor.StateRestoreListener;
import org.apache.kafka.streams.processor.TimestampExtractor;
import org.apache.kafka.streams.processor.api.FixedKeyProcessor;
import org.apache.kafka.streams.processor.api.FixedKeyProcessorContext;
import org.apache.kafka.streams.processor.api.FixedKeyRecord;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/**
 * The workloads of {@code make bench} as a user of Kafka Streams who knows it well would write them.
 *
 * <pre>java Streams --workload json-filter --brokers A --input T --output T --id APP --state-dir D
 *     [--guarantee exactly-once] [--records N] [--cache BYTES] [--linger MS] [--commit MS] [--restore] [--model FILE]</pre>
 *
 * With {@code --records} it ends when so many are committed, and prints a line of JSON: wall and CPU seconds of the
 * whole process and, the JVM being warm, of the second half of the records. With {@code --restore} it ends when its
 * stores are restored. With neither it runs until its stdin ends.
 *
 * <p>One stream thread. Its settings are the best usual ones: caching on, 100 ms between commits, lz4 and batches of 128
 * KiB, G1 (Java's default), RocksDB as Kafka Streams sets it up. Values stay bytes and are written as they came where
 * nothing changes them; what is read of them Jackson's streaming parser reads. Results are the JSON that Millstream writes.
 */
public final class Streams {
    private static final JsonFactory JSON = new JsonFactory();
    private static final AtomicLong READ = new AtomicLong();
    private static volatile Moment half;
    private static long halfway = Long.MAX_VALUE;

    public static void main(String[] arguments) throws Exception {
        Map<String, String> options = options(arguments);
        long records = Long.parseLong(options.getOrDefault("records", "0"));
        halfway = records > 0 ? records / 2 : Long.MAX_VALUE;
        KafkaStreams streams = new KafkaStreams(topology(options), settings(options));
        CountDownLatch running = new CountDownLatch(1);
        streams.setStateListener((now, before) -> {
            if (now == KafkaStreams.State.RUNNING) {
                running.countDown();
            } else if (now == KafkaStreams.State.ERROR) {
                System.err.println("Kafka Streams has failed");
                Runtime.getRuntime().halt(1);
            }
        });
        Restored restored = new Restored();
        streams.setGlobalStateRestoreListener(restored);
        streams.start();
        if (options.containsKey("restore")) {
            running.await();
            Moment end = new Moment();
            System.out.printf("{\"restored\":%d,\"restore_seconds\":%.3f,\"seconds\":%.3f,\"cpu_seconds\":%.3f}%n",
                restored.records.get(), restored.seconds(), end.wall - Moment.started(), end.cpu);
        } else if (records > 0) {
            awaitCommitted(options, records);
            Moment end = new Moment();
            System.out.printf("{\"records\":%d,\"seconds\":%.3f,\"cpu_seconds\":%.3f,"
                    + "\"warm_records\":%d,\"warm_seconds\":%.3f,\"warm_cpu_seconds\":%.3f}%n",
                records, end.wall - Moment.started(), end.cpu, records - halfway, end.wall - half.wall, end.cpu - half.cpu);
        } else {
            running.await();
            System.out.println("running");
            while (System.in.read() >= 0) {}
        }
        // Closed in order, so that the next start finds its state.
        streams.close(Duration.ofSeconds(30));
        Runtime.getRuntime().halt(0);
    }

    private static Map<String, String> options(String[] arguments) {
        Map<String, String> options = new HashMap<>();
        for (int index = 0; index < arguments.length; index++) {
            boolean flag = index + 1 == arguments.length || arguments[index + 1].startsWith("--");
            options.put(arguments[index].substring(2), flag ? "" : arguments[++index]);
        }
        return options;
    }

    private static Properties settings(Map<String, String> options) {
        Properties settings = new Properties();
        settings.put("application.id", options.get("id"));
        settings.put("bootstrap.servers", options.get("brokers"));
        settings.put("state.dir", options.get("state-dir"));
        settings.put("num.stream.threads", "1");
        settings.put("processing.guarantee",
            options.getOrDefault("guarantee", "exactly-once").equals("exactly-once") ? "exactly_once_v2" : "at_least_once");
        settings.put("commit.interval.ms", options.getOrDefault("commit", "100"));
        settings.put("statestore.cache.max.bytes", options.getOrDefault("cache", "536870912"));
        settings.put("default.timestamp.extractor", Counting.class.getName());
        settings.put("replication.factor", "1");
        settings.put("producer.compression.type", "lz4");
        settings.put("producer.batch.size", "131072");
        if (options.containsKey("linger")) {
            settings.put("producer.linger.ms", options.get("linger"));
        }
        settings.put("consumer.auto.offset.reset", "earliest");
        return settings;
    }

    private static Topology topology(Map<String, String> options) {
        Serde<String> strings = Serdes.String();
        Serde<byte[]> bytes = Serdes.ByteArray();
        StreamsBuilder builder = new StreamsBuilder();
        String output = options.get("output");
        String workload = options.get("workload");
        if (workload.equals("passthrough")) {
            builder.stream(options.get("input"), Consumed.with(bytes, bytes)).to(output, Produced.with(bytes, bytes));
            return builder.build();
        }
        if (workload.equals("json-filter")) {
            builder.stream(options.get("input"), Consumed.with(bytes, bytes))
                .filter((key, value) -> matches(value))
                .to(output, Produced.with(bytes, bytes));
            return builder.build();
        }
        KStream<String, byte[]> events = builder.stream(options.get("input"), Consumed.with(strings, bytes));
        switch (workload) {
            case "keyed-count":
                events.groupByKey(Grouped.with(strings, bytes))
                    .count(Materialized.<String, Long, KeyValueStore<Bytes, byte[]>>as("counts").withCachingEnabled())
                    .toStream()
                    .mapValues(Streams::rows)
                    .to(output, Produced.with(strings, bytes));
                break;
            case "keyed-last":
                events.groupByKey(Grouped.with(strings, bytes))
                    .reduce((before, now) -> now,
                        Materialized.<String, byte[], KeyValueStore<Bytes, byte[]>>as("last").withCachingEnabled())
                    .toStream()
                    .to(output, Produced.with(strings, bytes));
                break;
            case "tumbling-count":
                events.groupByKey(Grouped.with(strings, bytes))
                    .windowedBy(TimeWindows.ofSizeWithNoGrace(Duration.ofMinutes(1)))
                    .count()
                    .toStream()
                    .mapValues(Streams::rows)
                    .to(output, Produced.with(WindowedSerdes.timeWindowedSerdeFrom(String.class, 60_000), bytes));
                break;
            case "hopping-count":
                events.groupByKey(Grouped.with(strings, bytes))
                    .windowedBy(TimeWindows.ofSizeWithNoGrace(Duration.ofMinutes(1)).advanceBy(Duration.ofSeconds(20)))
                    .count()
                    .toStream()
                    .mapValues(Streams::rows)
                    .to(output, Produced.with(WindowedSerdes.timeWindowedSerdeFrom(String.class, 60_000), bytes));
                break;
            case "session-count":
                events.groupByKey(Grouped.with(strings, bytes))
                    .windowedBy(SessionWindows.ofInactivityGapWithNoGrace(Duration.ofSeconds(20)))
                    .count()
                    .toStream()
                    .mapValues(rows -> rows == null ? null : rows(rows))
                    .to(output, Produced.with(WindowedSerdes.sessionWindowedSerdeFrom(String.class), bytes));
                break;
            case "dedup":
                builder.addStateStore(Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore("kept"), strings, Serdes.Long())
                    .withCachingEnabled());
                events.processValues(Dedup::new, "kept").to(output, Produced.with(strings, bytes));
                break;
            case "stream-table-join":
                events.leftJoin(last(events.filter((key, value) -> Features.amount(value) > 500), "large"),
                        (event, large) -> amounts("amount", event, "large", large), Joined.with(strings, bytes, bytes))
                    .to(output, Produced.with(strings, bytes));
                break;
            case "table-table-join":
                last(events.filter((key, value) -> Features.amount(value) > 500), "large")
                    .outerJoin(last(events.filter((key, value) -> Features.amount(value) <= 500), "small"),
                        (large, small) -> amounts("large", large, "small", small))
                    .toStream()
                    .to(output, Produced.with(strings, bytes));
                break;
            case "stream-stream-join":
                events.filter((key, value) -> Features.amount(value) > 500)
                    .join(events.filter((key, value) -> Features.amount(value) <= 500),
                        (large, small) -> amounts("large", large, "small", small),
                        JoinWindows.ofTimeDifferenceWithNoGrace(Duration.ofSeconds(10)), StreamJoined.with(strings, bytes, bytes))
                    .to(output, Produced.with(strings, bytes));
                break;
            case "foreign-key-join":
                last(events, "last")
                    .join(last(events.filter((key, value) -> Features.amount(value) > 900)
                            .selectKey((key, value) -> merchant(value))
                            .repartition(Repartitioned.with(strings, bytes)), "large"),
                        Streams::merchant, (payment, large) -> amounts("amount", payment, "large", large))
                    .toStream()
                    .to(output, Produced.with(strings, bytes));
                break;
            case "trailing-features":
                builder.addStateStore(Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore("rows"), strings, bytes)
                    .withCachingEnabled());
                events.processValues(Features::new, "rows").to(output, Produced.with(strings, bytes));
                break;
            case "trees":
                events.processValues(() -> new Trees(options.get("model"))).to(output, Produced.with(strings, bytes));
                break;
            default:
                throw new IllegalArgumentException("no workload " + workload);
        }
        return builder.build();
    }

    /** {@code amount > 500 and country <> 'FR'}, reading no further than needed. */
    private static boolean matches(byte[] value) {
        try (JsonParser parser = JSON.createParser(value)) {
            boolean large = false;
            boolean abroad = false;
            parser.nextToken();
            for (String name = parser.nextFieldName(); name != null; name = parser.nextFieldName()) {
                JsonToken token = parser.nextToken();
                if (name.equals("amount")) {
                    large = token.isNumeric() && parser.getDoubleValue() > 500;
                    if (!large) {
                        return false;
                    }
                } else if (name.equals("country")) {
                    abroad = token == JsonToken.VALUE_STRING && !parser.getText().equals("FR");
                    if (!abroad) {
                        return false;
                    }
                }
                if (large && abroad) {
                    return true;
                }
            }
            return false;
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    private static KTable<String, byte[]> last(KStream<String, byte[]> events, String name) {
        return events.toTable(Materialized.<String, byte[], KeyValueStore<Bytes, byte[]>>as(name)
            .withKeySerde(Serdes.String()).withValueSerde(Serdes.ByteArray()).withCachingEnabled());
    }

    private static byte[] amounts(String name, byte[] value, String other, byte[] otherValue) {
        String amount = value == null ? "null" : Double.toString(Features.amount(value));
        String otherAmount = otherValue == null ? "null" : Double.toString(Features.amount(otherValue));
        return ("{\"" + name + "\":" + amount + ",\"" + other + "\":" + otherAmount + "}").getBytes(StandardCharsets.ISO_8859_1);
    }

    private static byte[] rows(Long count) {
        return ("{\"rows\":" + count + "}").getBytes(StandardCharsets.ISO_8859_1);
    }

    /** A JSON object with more fields at its end. */
    private static byte[] with(byte[] value, String fields) {
        byte[] result = Arrays.copyOf(value, value.length + fields.length());
        byte[] added = fields.getBytes(StandardCharsets.ISO_8859_1);
        result[value.length - 1] = ',';
        System.arraycopy(added, 0, result, value.length, added.length);
        return result;
    }

    private static String merchant(byte[] value) {
        try (JsonParser parser = JSON.createParser(value)) {
            parser.nextToken();
            for (String name = parser.nextFieldName(); name != null; name = parser.nextFieldName()) {
                parser.nextToken();
                if (name.equals("merchant")) {
                    return parser.getText();
                }
            }
            throw new IllegalArgumentException("a record without merchant");
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** The first record of a key in ten seconds: of each key the time of the last one that was kept. */
    private static final class Dedup implements FixedKeyProcessor<String, byte[], byte[]> {
        private static final long WITHIN = 10_000;

        private FixedKeyProcessorContext<String, byte[]> context;
        private KeyValueStore<String, Long> kept;

        @Override
        public void init(FixedKeyProcessorContext<String, byte[]> context) {
            this.context = context;
            this.kept = context.getStateStore("kept");
        }

        @Override
        public void process(FixedKeyRecord<String, byte[]> record) {
            Long last = kept.get(record.key());
            if (last == null || record.timestamp() - last >= WITHIN) {
                kept.put(record.key(), record.timestamp());
                context.forward(record);
            }
        }
    }

    /**
     * The rows of 10 minutes, and sum and average of an hour. The rows of a key's last hour are one value of a key-value
     * store, time and amount of each, the oldest first: one read and one write a record, both mostly in the cache. A
     * window store with a range scan for each record does half as many records a second.
     */
    private static final class Features implements FixedKeyProcessor<String, byte[], byte[]> {
        private static final int ROW = 16;
        private static final long HOUR = 3_600_000;
        private static final long TEN_MINUTES = 600_000;

        private FixedKeyProcessorContext<String, byte[]> context;
        private KeyValueStore<String, byte[]> rows;
        private long streamTime;

        @Override
        public void init(FixedKeyProcessorContext<String, byte[]> context) {
            this.context = context;
            this.rows = context.getStateStore("rows");
        }

        @Override
        public void process(FixedKeyRecord<String, byte[]> record) {
            long time = record.timestamp();
            streamTime = Math.max(streamTime, time);
            byte[] found = rows.get(record.key());
            ByteBuffer before = ByteBuffer.wrap(found == null ? new byte[0] : found);
            int from = 0;
            while (from < before.capacity() && before.getLong(from) <= streamTime - HOUR) {
                from += ROW;
            }
            // A late row goes where it belongs.
            int place = before.capacity();
            while (place > from && before.getLong(place - ROW) > time) {
                place -= ROW;
            }
            double amount = amount(record.value());
            ByteBuffer after = ByteBuffer.allocate(before.capacity() - from + ROW);
            after.put(before.array(), from, place - from).putLong(time).putDouble(amount);
            int seen = after.position();
            after.put(before.array(), place, before.capacity() - place);
            rows.put(record.key(), after.array());

            long recent = 0;
            long count = 0;
            double sum = 0;
            for (int at = 0; at < seen; at += ROW) {
                long rowTime = after.getLong(at);
                if (rowTime > time - HOUR) {
                    count++;
                    sum += after.getDouble(at + 8);
                    recent += rowTime > time - TEN_MINUTES ? 1 : 0;
                }
            }
            context.forward(record.withValue(with(record.value(),
                "\"rows_10m\":" + recent + ",\"spend_1h\":" + sum + ",\"mean_1h\":" + sum / count + "}")));
        }

        private static double amount(byte[] value) {
            try (JsonParser parser = JSON.createParser(value)) {
                parser.nextToken();
                for (String name = parser.nextFieldName(); name != null; name = parser.nextFieldName()) {
                    parser.nextToken();
                    if (name.equals("amount")) {
                        return parser.getDoubleValue();
                    }
                }
                throw new IllegalArgumentException("a record without amount");
            } catch (IOException e) {
                throw new UncheckedIOException(e);
            }
        }
    }

    /** The score of a model over ten columns, with onnxruntime on one thread and a tensor that is used again. */
    private static final class Trees implements FixedKeyProcessor<String, byte[], byte[]> {
        private static final String[] COLUMNS = {"amount", "f1", "f2", "f3", "f4", "f5", "f6", "f7", "f8", "f9"};
        private static final Set<String> OUTPUT = Set.of("probabilities");

        private final OrtSession session;
        private final FloatBuffer inputs;
        private final Map<String, OnnxTensor> feed;
        private FixedKeyProcessorContext<String, byte[]> context;

        Trees(String model) {
            try {
                OrtEnvironment environment = OrtEnvironment.getEnvironment();
                OrtSession.SessionOptions options = new OrtSession.SessionOptions();
                options.setIntraOpNumThreads(1);
                options.setInterOpNumThreads(1);
                session = environment.createSession(model, options);
                inputs = ByteBuffer.allocateDirect(4 * COLUMNS.length).order(ByteOrder.nativeOrder()).asFloatBuffer();
                feed = Map.of("features", OnnxTensor.createTensor(environment, inputs, new long[] {1, COLUMNS.length}));
            } catch (OrtException e) {
                throw new IllegalStateException(e);
            }
        }

        @Override
        public void init(FixedKeyProcessorContext<String, byte[]> context) {
            this.context = context;
        }

        @Override
        public void process(FixedKeyRecord<String, byte[]> record) {
            read(record.value());
            try (OrtSession.Result result = session.run(feed, OUTPUT)) {
                float score = ((OnnxTensor) result.get(0)).getFloatBuffer().get(1);
                context.forward(record.withValue(with(record.value(), "\"score\":" + score + "}")));
            } catch (OrtException e) {
                throw new IllegalStateException(e);
            }
        }

        private void read(byte[] value) {
            try (JsonParser parser = JSON.createParser(value)) {
                parser.nextToken();
                for (String name = parser.nextFieldName(); name != null; name = parser.nextFieldName()) {
                    parser.nextToken();
                    for (int column = 0; column < COLUMNS.length; column++) {
                        if (COLUMNS[column].equals(name)) {
                            inputs.put(column, (float) parser.getDoubleValue());
                        }
                    }
                }
            } catch (IOException e) {
                throw new UncheckedIOException(e);
            }
        }
    }

    /** Counts the records that are read, at the one place that sees each and costs nothing. */
    public static final class Counting implements TimestampExtractor {
        @Override
        public long extract(ConsumerRecord<Object, Object> record, long partitionTime) {
            if (READ.incrementAndGet() == halfway) {
                half = new Moment();
            }
            return record.timestamp();
        }
    }

    private static void awaitCommitted(Map<String, String> options, long records) throws Exception {
        while (READ.get() < records) {
            Thread.sleep(5);
        }
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", options.get("brokers")))) {
            String topic = options.get("input");
            Map<TopicPartition, OffsetSpec> wanted = new HashMap<>();
            for (var partition : admin.describeTopics(Set.of(topic)).allTopicNames().get().get(topic).partitions()) {
                wanted.put(new TopicPartition(topic, partition.partition()), OffsetSpec.latest());
            }
            var ends = admin.listOffsets(wanted).all().get();
            boolean done = false;
            while (!done) {
                Thread.sleep(5);
                var committed = admin.listConsumerGroupOffsets(options.get("id")).partitionsToOffsetAndMetadata().get();
                done = ends.entrySet().stream().allMatch(end ->
                    end.getValue().offset() == 0
                        || committed.get(end.getKey()) != null
                        && committed.get(end.getKey()).offset() >= end.getValue().offset());
            }
        }
    }

    private static final class Restored implements StateRestoreListener {
        final AtomicLong records = new AtomicLong();
        private volatile long first;
        private volatile long last;

        @Override
        public synchronized void onRestoreStart(TopicPartition partition, String store, long from, long to) {
            first = first == 0 ? System.nanoTime() : first;
        }

        @Override
        public void onBatchRestored(TopicPartition partition, String store, long to, long count) {
            records.addAndGet(count);
        }

        @Override
        public synchronized void onRestoreEnd(TopicPartition partition, String store, long total) {
            last = System.nanoTime();
        }

        double seconds() {
            return (last - first) / 1e9;
        }
    }

    /** Wall and CPU seconds. */
    private static final class Moment {
        final double wall = System.currentTimeMillis() / 1e3;
        final double cpu =
            ((com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean()).getProcessCpuTime() / 1e9;

        static double started() {
            return ManagementFactory.getRuntimeMXBean().getStartTime() / 1e3;
        }
    }
}
