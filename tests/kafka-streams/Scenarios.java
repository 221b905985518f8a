import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.io.UncheckedIOException;
import java.time.Duration;
import java.util.Comparator;
import java.util.HashMap;
import java.util.HashSet;
import java.util.Iterator;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.function.Function;
import java.util.TreeMap;
import java.util.function.Predicate;
import java.util.stream.Collectors;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.TestInputTopic;
import org.apache.kafka.streams.TopologyTestDriver;
import org.apache.kafka.streams.kstream.Branched;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.EmitStrategy;
import org.apache.kafka.streams.kstream.GlobalKTable;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.JoinWindows;
import org.apache.kafka.streams.kstream.Joined;
import org.apache.kafka.streams.kstream.KGroupedStream;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.KTable;
import org.apache.kafka.streams.kstream.KeyValueMapper;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Named;
import org.apache.kafka.streams.kstream.SessionWindows;
import org.apache.kafka.streams.kstream.SlidingWindows;
import org.apache.kafka.streams.kstream.StreamJoined;
import org.apache.kafka.streams.kstream.Suppressed.BufferConfig;
import org.apache.kafka.streams.kstream.Suppressed;
import org.apache.kafka.streams.kstream.TimeWindowedKStream;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.kstream.Windowed;
import org.apache.kafka.streams.kstream.internals.SessionWindow;
import org.apache.kafka.streams.processor.StateStore;
import org.apache.kafka.streams.processor.StateStoreContext;
import org.apache.kafka.streams.processor.api.ContextualProcessor;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.query.Position;
import org.apache.kafka.streams.state.BuiltInDslStoreSuppliers;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.SessionBytesStoreSupplier;
import org.apache.kafka.streams.state.SessionStore;
import org.apache.kafka.streams.state.Stores;
import org.apache.kafka.streams.state.WindowStore;

/**
 * Topologies of Kafka Streams over given records, in memory: the oracle of what operators mean. Reads scenarios, one JSON object
 * a line, and answers each with a line {@code {"outputs": [{key, value, timestamp, cause}, …]}}, or {@code {"error": …}}.
 *
 * <p>A scenario has {@code steps}, one after the other, and {@code records} of a {@code topic} with {@code key} (a text or null),
 * {@code value} (null, or an object with {@code amount}, a whole number or null) and {@code timestamp}. Keys of windows are
 * objects of {@code key}, {@code start} and {@code end}; a cause is the number of the record.
 */
@SuppressWarnings("unchecked")
public final class Scenarios {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final Serde<JsonNode> VALUES = Serdes.serdeFrom((topic, value) -> bytes(value), (topic, bytes) -> node(bytes));
    private static final Serde<Object> KEYS = (Serde<Object>) (Serde<?>) Serdes.String();
    private static final String INPUT = "payments";

    private final StreamsBuilder builder = new StreamsBuilder();
    private final ArrayNode outputs = JSON.createArrayNode();
    /** What is read besides, by topic. */
    private final Map<String, Object> others = new HashMap<>();
    private int names;
    /** The number of the record that is being processed. */
    private int cause;

    public static void main(String[] arguments) throws IOException {
        PrintStream out = new PrintStream(new java.io.FileOutputStream(java.io.FileDescriptor.out), true, "UTF-8");
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, "UTF-8"));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            ObjectNode answer = JSON.createObjectNode();
            try {
                answer.set("outputs", new Scenarios().run(JSON.readTree(line)));
            } catch (Exception e) {
                answer.put("error", e.toString());
            }
            out.println(answer);
        }
    }

    /** The values of all records. */
    public static final class Values extends Serdes.WrapperSerde<JsonNode> {
        /** Made by Kafka Streams. */
        public Values() {
            super(VALUES.serializer(), VALUES.deserializer());
        }
    }

    private static byte[] bytes(JsonNode value) {
        try {
            return value == null ? null : JSON.writeValueAsBytes(value);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    private static JsonNode node(byte[] bytes) {
        try {
            return bytes == null ? null : JSON.readTree(bytes);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    private ArrayNode run(JsonNode scenario) {
        Object node = stream(INPUT);
        for (JsonNode step : scenario.get("steps")) {
            node = apply(node, step);
        }
        KStream<Object, JsonNode> last =
            node instanceof KTable ? changes((KTable<Object, JsonNode>) node) : (KStream<Object, JsonNode>) node;
        last.process(() -> new ContextualProcessor<Object, JsonNode, Void, Void>() {
            @Override
            public void process(Record<Object, JsonNode> record) {
                ObjectNode output = outputs.addObject();
                output.set("key", key(record.key()));
                output.set("value", record.value());
                output.put("timestamp", record.timestamp());
                output.put("cause", cause);
            }
        });
        Properties settings = new Properties();
        settings.put("application.id", "scenario");
        settings.put("bootstrap.servers", "nowhere:1");
        settings.put("statestore.cache.max.bytes", "0");
        settings.put("dsl.store.suppliers.class", BuiltInDslStoreSuppliers.InMemoryDslStoreSuppliers.class.getName());
        // Of this process alone: others may run scenarios at the same time.
        settings.put("state.dir", System.getProperty("java.io.tmpdir") + "/scenarios-" + ProcessHandle.current().pid());
        // Some tables do not know of what they are.
        settings.put("default.key.serde", Serdes.StringSerde.class.getName());
        settings.put("default.value.serde", Values.class.getName());
        // Each record may close windows.
        settings.put("__emit.interval.ms.kstreams.windowed.aggregation__", 0L);
        settings.put("__emit.interval.ms.kstreams.outer.join.spurious.results.fix__", 0L);
        try (TopologyTestDriver driver = new TopologyTestDriver(builder.build(), settings)) {
            Map<String, TestInputTopic<String, JsonNode>> inputs = new HashMap<>();
            for (JsonNode record : scenario.get("records")) {
                TestInputTopic<String, JsonNode> input = inputs.computeIfAbsent(record.get("topic").textValue(),
                    topic -> driver.createInputTopic(topic, new StringSerializer(), VALUES.serializer()));
                JsonNode value = record.get("value");
                input.pipeInput(record.get("key").textValue(), value.isNull() ? null : value, record.get("timestamp").asLong());
                cause++;
            }
        }
        return outputs;
    }

    private static JsonNode key(Object key) {
        if (key instanceof Windowed) {
            Windowed<String> windowed = (Windowed<String>) key;
            return JSON.createObjectNode().put("key", windowed.key())
                .put("start", windowed.window().start()).put("end", windowed.window().end());
        }
        return JSON.getNodeFactory().textNode((String) key);
    }

    private Object apply(Object node, JsonNode step) {
        String op = step.get("op").asText();
        KStream<Object, JsonNode> stream = node instanceof KStream ? (KStream<Object, JsonNode>) node : null;
        KTable<Object, JsonNode> table = node instanceof KTable ? (KTable<Object, JsonNode>) node : null;
        switch (op) {
            case "filter": {
                long least = step.get("least").asLong();
                return stream != null
                    ? stream.filter((key, value) -> isAtLeast(value, least))
                    : table.filter((key, value) -> isAtLeast(value, least));
            }
            case "select": {
                long factor = step.get("factor").asLong();
                return stream != null
                    ? stream.mapValues(value -> times(value, factor))
                    : table.mapValues(value -> times(value, factor), Materialized.with(null, VALUES));
            }
            case "rekey": {
                long modulo = step.get("modulo").asLong();
                return stream.selectKey((key, value) -> (Object) bucket(value, modulo)).mapValues(value -> times(value, 1));
            }
            case "branch": {
                long least = step.get("least").asLong();
                String name = "branches" + names++ + "-";
                Map<String, KStream<Object, JsonNode>> branches = stream.split(Named.as(name))
                    .branch((key, value) -> isAtLeast(value, least), Branched.as("large"))
                    .defaultBranch(Branched.as("others"));
                return branches.get(name + "others").mapValues(value -> times(value, 1))
                    .merge(branches.get(name + "large").mapValues(value -> times(value, 2)));
            }
            case "to-stream":
                return changes(table);
            case "to-table":
                return withoutVainDeletes(stream).toTable(inMemory());
            case "join-table": {
                KTable<Object, JsonNode> cards = (KTable<Object, JsonNode>) others.computeIfAbsent("cards",
                    topic -> withoutVainDeletes(stream(topic)).toTable(inMemory()));
                String kind = step.get("kind").asText();
                if (stream != null) {
                    Joined<Object, JsonNode, JsonNode> joined =
                        Joined.with(KEYS, VALUES, VALUES);
                    return kind.equals("left")
                        ? stream.leftJoin(cards, Scenarios::both, joined)
                        : stream.join(cards, Scenarios::both, joined);
                }
                return kind.equals("left") ? table.leftJoin(cards, Scenarios::both)
                    : kind.equals("outer") ? table.outerJoin(cards, Scenarios::both)
                    : table.join(cards, Scenarios::both);
            }
            case "join-global": {
                GlobalKTable<Object, JsonNode> towns = (GlobalKTable<Object, JsonNode>) others.computeIfAbsent("towns",
                    topic -> builder.globalTable(topic, Consumed.with(KEYS, VALUES), inMemory()));
                long modulo = step.get("modulo").asLong();
                KeyValueMapper<Object, JsonNode, Object> on = (key, value) -> bucket(value, modulo);
                return step.get("kind").asText().equals("left")
                    ? stream.leftJoin(towns, on, Scenarios::both)
                    : stream.join(towns, on, Scenarios::both);
            }
            case "join-as-of": {
                Materialized<Object, JsonNode, KeyValueStore<Bytes, byte[]>> versions =
                    Materialized.<Object, JsonNode>as(Stores.persistentVersionedKeyValueStore(
                            "store" + names++, Duration.ofMillis(step.get("history").asLong())))
                        .withKeySerde(KEYS).withValueSerde(VALUES);
                KTable<Object, JsonNode> limits = builder.table("limits", Consumed.with(KEYS, VALUES), versions);
                Joined<Object, JsonNode, JsonNode> joined = Joined.with(KEYS, VALUES, VALUES);
                long grace = step.get("grace").asLong();
                if (grace > 0) {
                    joined = joined.withGracePeriod(Duration.ofMillis(grace));
                }
                return step.get("kind").asText().equals("left")
                    ? stream.leftJoin(limits, Scenarios::both, joined)
                    : stream.join(limits, Scenarios::both, joined);
            }
            case "join-stream": {
                KStream<Object, JsonNode> refunds = (KStream<Object, JsonNode>) others.computeIfAbsent("refunds",
                    topic -> stream(topic));
                JoinWindows windows = JoinWindows
                    .ofTimeDifferenceAndGrace(Duration.ZERO, Duration.ofMillis(step.get("grace").asLong()))
                    .before(Duration.ofMillis(step.get("before").asLong()))
                    .after(Duration.ofMillis(step.get("after").asLong()));
                StreamJoined<Object, JsonNode, JsonNode> joined =
                    StreamJoined.with(KEYS, VALUES, VALUES)
                        .withDslStoreSuppliers(new BuiltInDslStoreSuppliers.InMemoryDslStoreSuppliers());
                String kind = step.get("kind").asText();
                return kind.equals("left") ? stream.leftJoin(refunds, Scenarios::both, windows, joined)
                    : kind.equals("outer") ? stream.outerJoin(refunds, Scenarios::both, windows, joined)
                    : stream.join(refunds, Scenarios::both, windows, joined);
            }
            case "join-foreign": {
                KTable<Object, JsonNode> shops = (KTable<Object, JsonNode>) others.computeIfAbsent("shops",
                    topic -> withoutVainDeletes(stream(topic)).toTable(inMemory()));
                long modulo = step.get("modulo").asLong();
                Function<JsonNode, Object> shop = value -> bucket(value, modulo);
                KTable<Object, JsonNode> joined = step.get("kind").asText().equals("left")
                    ? table.leftJoin(shops, shop, Scenarios::both, inMemory())
                    : table.join(shops, shop, Scenarios::both, inMemory());
                return changes(joined).toTable(inMemory());
            }
            case "group":
                return group(table, step.get("modulo").asLong());
            case "aggregate":
                return aggregate((KStream<String, JsonNode>) (KStream<?, ?>) stream, step);
            case "suppress":
                return suppress(table, step);
            default:
                throw new IllegalArgumentException("no operator " + op);
        }
    }

    /** The changes of a table. */
    private static KStream<Object, JsonNode> changes(KTable<Object, JsonNode> table) {
        return withoutVainDeletes(table.toStream());
    }

    /** Without deletes of what was not there: a filter sends these, too, and joins send a result once more for them. */
    private static KStream<Object, JsonNode> withoutVainDeletes(KStream<Object, JsonNode> stream) {
        return stream.process(() -> new ContextualProcessor<Object, JsonNode, Object, JsonNode>() {
            private final Set<Object> keys = new HashSet<>();

            @Override
            public void process(Record<Object, JsonNode> record) {
                if (record.value() != null) {
                    keys.add(record.key());
                } else if (!keys.remove(record.key())) {
                    return;
                }
                context().forward(record);
            }
        });
    }

    private Object aggregate(KStream<String, JsonNode> stream, JsonNode step) {
        KGroupedStream<String, JsonNode> grouped = stream.groupByKey(Grouped.with(Serdes.String(), VALUES));
        String name = "store" + names++;
        if (!step.has("grace")) {
            return grouped.aggregate(Scenarios::nothing, (key, value, before) -> add(value, before),
                Materialized.<String, JsonNode>as(Stores.inMemoryKeyValueStore(name))
                    .withKeySerde(Serdes.String()).withValueSerde(VALUES).withCachingDisabled());
        }
        Duration grace = millis(step, "grace");
        EmitStrategy emit = step.get("close").asBoolean() ? EmitStrategy.onWindowClose() : EmitStrategy.onWindowUpdate();
        if (step.has("session")) {
            Duration gap = millis(step, "session");
            return grouped.windowedBy(SessionWindows.ofInactivityGapAndGrace(gap, grace)).emitStrategy(emit)
                .aggregate(Scenarios::nothing, (key, value, before) -> add(value, before), (key, one, other) -> merge(one, other),
                    Materialized.<String, JsonNode>as(OpenSessions.supplier(name, gap.plus(grace).toMillis()))
                        .withKeySerde(Serdes.String()).withValueSerde(VALUES).withCachingDisabled());
        }
        TimeWindowedKStream<String, JsonNode> windowed = step.has("sliding")
            ? grouped.windowedBy(SlidingWindows.ofTimeDifferenceAndGrace(millis(step, "sliding"), grace))
            : grouped.windowedBy(TimeWindows.ofSizeAndGrace(millis(step, "hopping"), grace).advanceBy(millis(step, "every")));
        return windowed.emitStrategy(emit)
            .aggregate(Scenarios::nothing, (key, value, before) -> add(value, before),
                Materialized.<String, JsonNode, WindowStore<Bytes, byte[]>>as(name)
                    // In memory a window goes before it can be sent if it is not kept for longer than it is open.
                    .withStoreType(Materialized.StoreType.IN_MEMORY).withRetention(Duration.ofDays(1))
                    .withKeySerde(Serdes.String()).withValueSerde(VALUES).withCachingDisabled());
    }

    private KStream<Object, JsonNode> stream(String topic) {
        return builder.stream(topic, Consumed.with(KEYS, VALUES));
    }

    private Materialized<Object, JsonNode, KeyValueStore<Bytes, byte[]>> inMemory() {
        return Materialized.<Object, JsonNode>as(Stores.inMemoryKeyValueStore("store" + names++))
            .withKeySerde(KEYS).withValueSerde(VALUES).withCachingDisabled();
    }

    private static JsonNode both(JsonNode left, JsonNode right) {
        ObjectNode result = JSON.createObjectNode();
        result.set("amount", isNull(left) ? JSON.nullNode() : left.get("amount"));
        result.set("other", isNull(right) ? JSON.nullNode() : right.get("amount"));
        return result;
    }

    private static Object suppress(KTable<Object, JsonNode> table, JsonNode step) {
        if (step.get("time").isNull()) {
            return table.suppress((Suppressed<Object>) (Suppressed<?>) Suppressed.untilWindowCloses(BufferConfig.unbounded()));
        }
        Duration time = Duration.ofMillis(step.get("time").asLong());
        return table.suppress(step.get("most").isNull()
            ? Suppressed.untilTimeLimit(time, BufferConfig.unbounded())
            : Suppressed.untilTimeLimit(time, BufferConfig.maxRecords(step.get("most").asLong()).emitEarlyWhenFull()));
    }

    /** An aggregate over a table; a group without rows is not there. */
    private KTable<Object, JsonNode> group(KTable<Object, JsonNode> table, long modulo) {
        KTable<String, JsonNode> groups = table
            .groupBy((key, value) -> KeyValue.pair(bucket(value, modulo), value), Grouped.with(Serdes.String(), VALUES))
            .aggregate(() -> JSON.createObjectNode().put("rows", 0L),
                (key, value, before) -> change(value, before, 1), (key, value, before) -> change(value, before, -1),
                Materialized.<String, JsonNode>as(Stores.inMemoryKeyValueStore("store" + names++))
                    .withKeySerde(Serdes.String()).withValueSerde(VALUES).withCachingDisabled());
        return (KTable<Object, JsonNode>) (KTable<?, ?>) groups.mapValues(group -> {
            JsonNode totals = nothing();
            for (JsonNode amount : group.withArray("amounts")) {
                totals = add(JSON.createObjectNode().set("amount", amount), totals);
            }
            return ((ObjectNode) totals).set("rows", group.get("rows"));
        });
    }

    /** A row more or less; of no rows null. */
    private static JsonNode change(JsonNode value, JsonNode before, long more) {
        ObjectNode after = before.deepCopy();
        after.put("rows", before.get("rows").asLong() + more);
        if (after.get("rows").asLong() == 0) {
            return null;
        }
        ArrayNode amounts = after.withArray("amounts");
        if (!isNull(value) && more > 0) {
            amounts.add(value.get("amount").asLong());
        } else if (!isNull(value)) {
            for (int i = 0; i < amounts.size(); i++) {
                if (amounts.get(i).asLong() == value.get("amount").asLong()) {
                    amounts.remove(i);
                    break;
                }
            }
        }
        return after;
    }

    private static Duration millis(JsonNode step, String name) {
        return Duration.ofMillis(step.get(name).asLong());
    }

    private static boolean isNull(JsonNode value) {
        return value == null || !value.hasNonNull("amount");
    }

    private static boolean isAtLeast(JsonNode value, long least) {
        return !isNull(value) && value.get("amount").asLong() >= least;
    }

    private static JsonNode times(JsonNode value, long factor) {
        if (value == null) {
            return null;
        }
        ObjectNode result = JSON.createObjectNode();
        if (isNull(value)) {
            return result.putNull("amount");
        }
        return result.put("amount", value.get("amount").asLong() * factor);
    }

    private static String bucket(JsonNode value, long modulo) {
        return isNull(value) ? null : Long.toString(value.get("amount").asLong() % modulo);
    }

    private static JsonNode nothing() {
        return JSON.createObjectNode().put("rows", 0L).putNull("amount").putNull("least").putNull("largest");
    }

    /** SQL's count(*), sum, min and max. */
    private static JsonNode add(JsonNode value, JsonNode before) {
        ObjectNode after = before.deepCopy();
        after.put("rows", before.get("rows").asLong() + 1);
        if (!isNull(value)) {
            long amount = value.get("amount").asLong();
            boolean first = before.get("amount").isNull();
            after.put("amount", first ? amount : before.get("amount").asLong() + amount);
            after.put("least", first ? amount : Math.min(before.get("least").asLong(), amount));
            after.put("largest", first ? amount : Math.max(before.get("largest").asLong(), amount));
        }
        return after;
    }

    private static JsonNode merge(JsonNode one, JsonNode other) {
        ObjectNode both = one.deepCopy();
        both.put("rows", one.get("rows").asLong() + other.get("rows").asLong());
        if (one.get("amount").isNull()) {
            for (String column : new String[] {"amount", "least", "largest"}) {
                both.set(column, other.get(column));
            }
        } else if (!other.get("amount").isNull()) {
            both.put("amount", one.get("amount").asLong() + other.get("amount").asLong());
            both.put("least", Math.min(one.get("least").asLong(), other.get("least").asLong()));
            both.put("largest", Math.max(one.get("largest").asLong(), other.get("largest").asLong()));
        }
        return both;
    }

    /**
     * Sessions of which records find those that are open. How long others are found is a matter of a store's retention, which has to
     * be longer than that in memory for closed ones to be sent.
     */
    private static final class OpenSessions implements SessionStore<Bytes, byte[]> {
        private final String name;
        /** How long after its end, in stream time, a session is open. */
        private final long open;
        private final TreeMap<Windowed<Bytes>, byte[]> sessions = new TreeMap<>(
            Comparator.<Windowed<Bytes>>comparingLong(session -> session.window().end())
                .thenComparingLong(session -> session.window().start()).thenComparing(Windowed::key));
        private long streamTime;

        private OpenSessions(String name, long open) {
            this.name = name;
            this.open = open;
        }

        static SessionBytesStoreSupplier supplier(String name, long open) {
            return new SessionBytesStoreSupplier() {
                @Override
                public String name() {
                    return name;
                }

                @Override
                public SessionStore<Bytes, byte[]> get() {
                    return new OpenSessions(name, open);
                }

                @Override
                public String metricsScope() {
                    return "open-sessions";
                }

                @Override
                public long segmentIntervalMs() {
                    return 1;
                }

                @Override
                public long retentionPeriod() {
                    return Duration.ofDays(1).toMillis();
                }
            };
        }

        @Override
        public void put(Windowed<Bytes> session, byte[] aggregate) {
            streamTime = Math.max(streamTime, session.window().end());
            if (aggregate == null) {
                sessions.remove(session);
            } else {
                sessions.put(session, aggregate);
            }
        }

        @Override
        public void remove(Windowed<Bytes> session) {
            sessions.remove(session);
        }

        @Override
        public KeyValueIterator<Windowed<Bytes>, byte[]> findSessions(Bytes key, long earliestEnd, long latestStart) {
            long openFrom = Math.max(earliestEnd, streamTime - open);
            return those(session -> session.key().equals(key) && session.window().end() >= openFrom
                && session.window().start() <= latestStart);
        }

        @Override
        public KeyValueIterator<Windowed<Bytes>, byte[]> findSessions(long earliestEnd, long latestEnd) {
            return those(session -> session.window().end() >= earliestEnd && session.window().end() <= latestEnd);
        }

        @Override
        public byte[] fetchSession(Bytes key, long start, long end) {
            return sessions.get(new Windowed<>(key, new SessionWindow(start, end)));
        }

        @Override
        public KeyValueIterator<Windowed<Bytes>, byte[]> fetch(Bytes key) {
            return those(session -> session.key().equals(key));
        }

        @Override
        public KeyValueIterator<Windowed<Bytes>, byte[]> fetch(Bytes from, Bytes to) {
            throw new UnsupportedOperationException();
        }

        private KeyValueIterator<Windowed<Bytes>, byte[]> those(Predicate<Windowed<Bytes>> wanted) {
            Iterator<KeyValue<Windowed<Bytes>, byte[]>> found = sessions.entrySet().stream()
                .filter(session -> wanted.test(session.getKey()))
                .map(session -> KeyValue.pair(session.getKey(), session.getValue()))
                .collect(Collectors.toList()).iterator();
            return new KeyValueIterator<Windowed<Bytes>, byte[]>() {
                @Override
                public boolean hasNext() {
                    return found.hasNext();
                }

                @Override
                public KeyValue<Windowed<Bytes>, byte[]> next() {
                    return found.next();
                }

                @Override
                public Windowed<Bytes> peekNextKey() {
                    throw new UnsupportedOperationException();
                }

                @Override
                public void close() {
                }
            };
        }

        @Override
        public String name() {
            return name;
        }

        @Override
        public void init(StateStoreContext context, StateStore root) {
            context.register(root, (key, value) -> { });
        }

        @Override
        public Position getPosition() {
            return Position.emptyPosition();
        }

        @Override
        public boolean persistent() {
            return false;
        }

        @Override
        public boolean isOpen() {
            return true;
        }

        @Override
        public void flush() {
        }

        @Override
        public void close() {
        }
    }
}
