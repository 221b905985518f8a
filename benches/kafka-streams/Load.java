import java.nio.charset.StandardCharsets;
import java.util.BitSet;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Writes card payments as JSON, the same in every run: {@code java Load BROKERS TOPIC RECORDS KEYS [trees]}. Each is two
 * milliseconds after the one before, of one of so many cards, or, where KEYS is {@code each}, of a card of its own. With
 * {@code trees} they have the other nine inputs of the model. Prints how many
 * keys there are.
 */
public final class Load {
    private static final long FIRST = 1_767_225_600_000L;
    private static final String[] COUNTRIES = {"DE", "FR", "US", "GB"};

    private long state = 42;

    public static void main(String[] arguments) throws Exception {
        String topic = arguments[1];
        int records = Integer.parseInt(arguments[2]);
        int keys = arguments[3].equals("each") ? 0 : Integer.parseInt(arguments[3]);
        boolean trees = arguments.length > 4;
        Properties settings = new Properties();
        settings.put("bootstrap.servers", arguments[0]);
        settings.put("compression.type", "lz4");
        settings.put("linger.ms", "20");
        settings.put("batch.size", "262144");
        settings.put("buffer.memory", "134217728");
        AtomicReference<Exception> failed = new AtomicReference<>();
        BitSet seen = new BitSet();
        Load load = new Load();
        try (var producer = new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer())) {
            for (int index = 0; index < records; index++) {
                // A prime that divides no number of records: each card once, in no order.
                int card = keys > 0 ? (int) Long.remainderUnsigned(load.next(), keys) : (int) (index * 1_000_003L % records);
                seen.set(card);
                byte[] key = padded("card-", card, 12).getBytes(StandardCharsets.ISO_8859_1);
                long at = FIRST + index * 2L;
                producer.send(new ProducerRecord<>(topic, null, at, key, load.value(at, trees)), (metadata, exception) -> {
                    if (exception != null) {
                        failed.set(exception);
                    }
                });
            }
        }
        if (failed.get() != null) {
            throw failed.get();
        }
        System.out.println(seen.cardinality());
    }

    /** Numbers that look random and are the same in every run (splitmix64), as in benches/engine.rs. */
    private long next() {
        state += 0x9e37_79b9_7f4a_7c15L;
        long z = state;
        z = (z ^ (z >>> 30)) * 0xbf58_476d_1ce4_e5b9L;
        z = (z ^ (z >>> 27)) * 0x94d0_49bb_1331_11ebL;
        return z ^ (z >>> 31);
    }

    private byte[] value(long at, boolean trees) {
        StringBuilder value = new StringBuilder(160).append("{\"amount\":");
        decimal(value, (int) Long.remainderUnsigned(next(), 100_000), 2);
        String country = COUNTRIES[(int) (next() & 3)];
        value.append(",\"merchant\":\"").append(padded("merchant-", (int) Long.remainderUnsigned(next(), 5000), 5));
        value.append("\",\"country\":\"").append(country).append("\",\"at\":").append(at);
        for (int column = 1; trees && column < 10; column++) {
            value.append(",\"f").append(column).append("\":");
            decimal(value, (int) Long.remainderUnsigned(next(), 1000), 1);
        }
        return value.append('}').toString().getBytes(StandardCharsets.ISO_8859_1);
    }

    private static String padded(String prefix, int number, int digits) {
        String text = Integer.toString(number);
        return prefix + "0".repeat(digits - text.length()) + text;
    }

    /** Without zeros at its end. */
    private static void decimal(StringBuilder text, int digits, int places) {
        int unit = places == 2 ? 100 : 10;
        text.append(digits / unit);
        int rest = digits % unit;
        if (rest > 0) {
            text.append('.');
            if (places == 2 && rest % 10 == 0) {
                text.append(rest / 10);
            } else {
                text.append(places == 2 && rest < 10 ? "0" : "").append(rest);
            }
        }
    }
}
