import java.nio.charset.StandardCharsets;
import java.util.HexFormat;
import org.apache.kafka.clients.producer.internals.BuiltInPartitioner;

/**
 * Writes like-api/tests/data/partition-vectors.tsv: keys (as hex of their bytes) and the partition
 * of 32 to which Java's producer sends each, asked of the code that KafkaProducer itself calls.
 * Needed again only if the list of keys changes:
 *
 *   java -cp "$TEST_KAFKA_LIBS/*" tests/testkit/java/PartitionVectors.java \
 *     >like-api/tests/data/partition-vectors.tsv
 */
public final class PartitionVectors {
    private static final int PARTITIONS = 32;

    // Every length modulo 4 (murmur2 reads words of four bytes and then the rest), both signs of
    // the hash, and bytes above 0x7f, which Java has signed and C has not.
    private static final String[] KEYS = {
        "a", "ab", "abc", "abcd", "abcde", "p1", "p2", "p42", "product-1", "product-12", "product-123",
        "product-1234", "B00005N5PF", "urn:isbn:9780131103627", "~._:-", "0", "00000000",
        "0197aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee", "x".repeat(128), "Z".repeat(127),
        "é", "日本語", "naïve café", "\u00ff\u00ff\u00ff", "🙂", "ключ", "\u007f\u0080", "ünïcödé-product",
    };

    public static void main(String[] args) {
        for (String key : KEYS) {
            byte[] bytes = key.getBytes(StandardCharsets.UTF_8);
            System.out.println(HexFormat.of().formatHex(bytes) + "\t" + BuiltInPartitioner.partitionForKey(bytes, PARTITIONS));
        }
    }
}
