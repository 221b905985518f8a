import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.List;
import java.util.Properties;
import java.util.stream.Collectors;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * How long a record takes through a processor that copies or filters payments, end to end:
 * {@code java Latency BROKERS INPUT OUTPUT RATE SECONDS [WARMUP-SECONDS]}. Records are sent in an open loop: each has the
 * time at which it is due as its timestamp, also when it is sent late. A consumer that reads what is committed takes the
 * time at which it gets the result, which must have the timestamp of its record. Prints JSON; milliseconds.
 */
public final class Latency {
    private static final String[] COUNTRIES = {"DE", "FR", "US", "GB"};
    private static volatile boolean ended;

    public static void main(String[] arguments) throws Exception {
        String brokers = arguments[0];
        String input = arguments[1];
        String output = arguments[2];
        int rate = Integer.parseInt(arguments[3]);
        int seconds = Integer.parseInt(arguments[4]);
        int warmup = arguments.length > 5 ? Integer.parseInt(arguments[5]) : 10;

        Properties reading = new Properties();
        reading.put("bootstrap.servers", brokers);
        reading.put("isolation.level", "read_committed");
        reading.put("max.poll.records", "10000");
        Clock clock = new Clock();
        long start = clock.millis() + 500;
        long first = start + warmup * 1000L;
        long last = first + seconds * 1000L;
        Thread sender = new Thread(() -> send(brokers, input, rate, clock, start, last), "sender");
        // Whole milliseconds; what takes longer than a minute is a minute.
        long[] counts = new long[60_001];
        long total = 0;
        try (var consumer = new KafkaConsumer<>(reading, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            List<TopicPartition> partitions = consumer.partitionsFor(output).stream()
                .map(info -> new TopicPartition(output, info.partition())).collect(Collectors.toList());
            consumer.assign(partitions);
            consumer.seekToEnd(partitions);
            partitions.forEach(consumer::position);
            sender.start();
            long quiet = last + 5000;
            while (!ended || clock.millis() < quiet) {
                var records = consumer.poll(Duration.ofMillis(100));
                double now = clock.now();
                for (ConsumerRecord<byte[], byte[]> record : records) {
                    if (record.timestamp() >= first && record.timestamp() < last) {
                        counts[(int) Math.min(60_000, Math.max(0, Math.round(now - record.timestamp())))]++;
                        total++;
                    }
                }
            }
        }
        System.out.printf("{\"records\":%d,\"p50\":%d,\"p90\":%d,\"p99\":%d,\"p999\":%d,\"max\":%d}%n",
            total, percentile(counts, total, 0.5), percentile(counts, total, 0.9), percentile(counts, total, 0.99),
            percentile(counts, total, 0.999), percentile(counts, total, 1.0));
    }

    private static void send(String brokers, String input, int rate, Clock clock, long start, long last) {
        Properties writing = new Properties();
        writing.put("bootstrap.servers", brokers);
        writing.put("linger.ms", "0");
        java.util.SplittableRandom random = new java.util.SplittableRandom(42);
        try (var producer = new KafkaProducer<>(writing, new ByteArraySerializer(), new ByteArraySerializer())) {
            for (long sent = 0; ; sent++) {
                double due = start + sent * 1000.0 / rate;
                if (due >= last) {
                    break;
                }
                while (clock.now() < due) {
                    Thread.sleep(1);
                }
                String key = String.format("card-%012d", random.nextInt(100_000));
                String value = "{\"amount\":" + random.nextInt(100_000) / 100.0
                    + ",\"merchant\":\"merchant-" + (10_000 + random.nextInt(5000))
                    + "\",\"country\":\"" + COUNTRIES[random.nextInt(4)] + "\",\"at\":" + (long) due + "}";
                producer.send(new ProducerRecord<>(input, null, (long) due,
                    key.getBytes(StandardCharsets.ISO_8859_1), value.getBytes(StandardCharsets.ISO_8859_1)));
            }
        } catch (InterruptedException e) {
            throw new IllegalStateException(e);
        }
        ended = true;
    }

    private static int percentile(long[] counts, long total, double part) {
        long below = 0;
        for (int millis = 0; millis < counts.length; millis++) {
            below += counts[millis];
            if (below > 0 && below >= part * total) {
                return millis;
            }
        }
        return -1;
    }

    /** Epoch milliseconds that never jump. */
    private static final class Clock {
        private final long origin = System.nanoTime();
        private final long epoch = System.currentTimeMillis();

        double now() {
            return epoch + (System.nanoTime() - origin) / 1e6;
        }

        long millis() {
            return (long) now();
        }
    }
}
