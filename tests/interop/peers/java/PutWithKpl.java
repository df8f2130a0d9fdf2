import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.google.common.util.concurrent.ListenableFuture;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.net.URI;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutionException;
import software.amazon.awssdk.auth.credentials.EnvironmentVariableCredentialsProvider;
import software.amazon.kinesis.producer.KinesisProducer;
import software.amazon.kinesis.producer.KinesisProducerConfiguration;
import software.amazon.kinesis.producer.UserRecordFailedException;
import software.amazon.kinesis.producer.UserRecordResult;

/**
 * Reads lists of user records, one per line. Puts each list with the KPL, flushes, and prints the records' results.
 *
 * <p>Arguments: the URL of the endpoint, the stream, and a folder for the KPL's binary.
 */
class PutWithKpl {
    private static final ObjectMapper JSON = new ObjectMapper();

    public static void main(String[] args) throws Exception {
        URI endpoint = URI.create(args[0]);
        String stream = args[1];
        KinesisProducer producer = new KinesisProducer(new KinesisProducerConfiguration()
                .setKinesisEndpoint(endpoint.getHost())
                .setKinesisPort(endpoint.getPort())
                .setCloudwatchEndpoint(endpoint.getHost())
                .setCloudwatchPort(endpoint.getPort())
                .setStsEndpoint(endpoint.getHost())
                .setStsPort(endpoint.getPort())
                .setVerifyCertificate(false)
                .setRegion(System.getenv("AWS_REGION"))
                .setCredentialsProvider(EnvironmentVariableCredentialsProvider.create())
                .setMetricsLevel("none")
                .setTempDirectory(args[2])
                .setRateLimit(Long.MAX_VALUE)
                // Long, so that a slow machine does not close aggregates early: only flushes and sizes close them.
                .setRecordMaxBufferedTime(2_000));
        PrintStream out = new PrintStream(System.out, true, "UTF-8");
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, "UTF-8"));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            for (ObjectNode result : put(producer, stream, JSON.readTree(line))) {
                out.println(JSON.writeValueAsString(result));
            }
        }
        producer.destroy();
        // The KPL's threads would keep the process alive.
        System.exit(0);
    }

    private static List<ObjectNode> put(KinesisProducer producer, String stream, JsonNode records) throws Exception {
        List<ListenableFuture<UserRecordResult>> futures = new ArrayList<>();
        List<ObjectNode> results = new ArrayList<>();
        for (JsonNode record : records) {
            results.add(JSON.createObjectNode());
            String hashKey = record.get("explicit_hash_key").textValue();
            ByteBuffer data = ByteBuffer.wrap(record.get("data").binaryValue());
            try {
                futures.add(producer.addUserRecord(stream, record.get("partition_key").textValue(), hashKey, data));
            } catch (IllegalArgumentException refused) {
                futures.add(null);
                results.get(results.size() - 1).put("refused", refused.getMessage());
            }
        }
        // In the KPL, a flush can overtake earlier puts.
        Thread.sleep(100);
        while (producer.getOutstandingRecordsCount() > 0) {
            producer.flush();
            Thread.sleep(100);
        }
        for (int i = 0; i < futures.size(); i++) {
            if (futures.get(i) == null) {
                continue;
            }
            try {
                UserRecordResult result = futures.get(i).get();
                results.get(i).put("shard_id", result.getShardId());
                results.get(i).put("sequence_number", result.getSequenceNumber());
            } catch (ExecutionException failed) {
                String why = String.valueOf(failed.getCause());
                if (failed.getCause() instanceof UserRecordFailedException) {
                    why = ((UserRecordFailedException) failed.getCause()).getResult().getAttempts().toString();
                }
                results.get(i).put("failed", why);
            }
        }
        return results;
    }
}
