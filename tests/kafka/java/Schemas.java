import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.google.protobuf.DescriptorProtos.FileDescriptorProto;
import com.google.protobuf.Descriptors.Descriptor;
import com.google.protobuf.Descriptors.FileDescriptor;
import com.google.protobuf.DynamicMessage;
import com.google.protobuf.TextFormat;
import com.google.protobuf.TimestampProto;
import com.google.protobuf.WrappersProto;
import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericDatumWriter;
import org.apache.avro.io.BinaryEncoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.io.EncoderFactory;
import org.apache.avro.io.JsonEncoder;

/**
 * Java's own libraries of Avro and Protobuf: one JSON command a line on stdin, one JSON answer a line on stdout. Bytes are
 * base64.
 */
public final class Schemas {
    private static final ObjectMapper JSON = new ObjectMapper();

    private Schemas() {}

    public static void main(String[] arguments) throws Exception {
        PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
        System.setOut(System.err);
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            ObjectNode answer = JSON.createObjectNode();
            try {
                run(JSON.readTree(line), answer);
            } catch (Exception e) {
                answer.put("error", e.toString());
            }
            out.println(answer);
        }
    }

    private static void run(JsonNode command, ObjectNode answer) throws Exception {
        switch (command.path("do").asText()) {
            case "avro-write": {
                Schema schema = new Schema.Parser().parse(command.get("schema").asText());
                Object value = new GenericDatumReader<>(schema)
                        .read(null, DecoderFactory.get().jsonDecoder(schema, command.get("value").asText()));
                answer.put("bytes", avro(schema, value));
                return;
            }
            case "avro-read": {
                Schema writer = new Schema.Parser().parse(command.get("writer").asText());
                Schema reader = new Schema.Parser().parse(command.get("reader").asText());
                byte[] bytes = Base64.getDecoder().decode(command.get("bytes").asText());
                Object value = new GenericDatumReader<>(writer, reader)
                        .read(null, DecoderFactory.get().binaryDecoder(bytes, null));
                ByteArrayOutputStream text = new ByteArrayOutputStream();
                JsonEncoder encoder = EncoderFactory.get().jsonEncoder(reader, text);
                new GenericDatumWriter<>(reader).write(value, encoder);
                encoder.flush();
                answer.put("value", text.toString(StandardCharsets.UTF_8));
                // What Java writes again of what it read.
                answer.put("bytes", avro(reader, value));
                return;
            }
            case "protobuf-write": {
                DynamicMessage.Builder builder = DynamicMessage.newBuilder(message(command));
                TextFormat.merge(command.get("value").asText(), builder);
                answer.put("bytes", Base64.getEncoder().encodeToString(builder.build().toByteArray()));
                return;
            }
            case "protobuf-read": {
                byte[] bytes = Base64.getDecoder().decode(command.get("bytes").asText());
                DynamicMessage message = DynamicMessage.parseFrom(message(command), bytes);
                answer.put("value", TextFormat.printer().emittingSingleLine(true).printToString(message).trim());
                answer.put("bytes", Base64.getEncoder().encodeToString(message.toByteArray()));
                return;
            }
            default: throw new IllegalArgumentException(command.toString());
        }
    }

    private static String avro(Schema schema, Object value) throws Exception {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        BinaryEncoder encoder = EncoderFactory.get().binaryEncoder(bytes, null);
        new GenericDatumWriter<>(schema).write(value, encoder);
        encoder.flush();
        return Base64.getEncoder().encodeToString(bytes.toByteArray());
    }

    private static Descriptor message(JsonNode command) throws Exception {
        byte[] descriptor = Base64.getDecoder().decode(command.get("descriptor").asText());
        FileDescriptor[] wellKnown = {TimestampProto.getDescriptor(), WrappersProto.getDescriptor()};
        FileDescriptor file =
                FileDescriptor.buildFrom(FileDescriptorProto.parseFrom(descriptor), wellKnown, true);
        return file.findMessageTypeByName(command.get("message").asText());
    }
}
