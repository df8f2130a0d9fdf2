import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.PrintStream;
import java.net.URI;
import java.util.ArrayList;
import java.util.List;
import software.amazon.awssdk.services.kinesis.KinesisAsyncClient;
import software.amazon.awssdk.services.kinesis.model.GetRecordsResponse;
import software.amazon.awssdk.services.kinesis.model.HashKeyRange;
import software.amazon.awssdk.services.kinesis.model.Record;
import software.amazon.awssdk.services.kinesis.model.Shard;
import software.amazon.awssdk.services.kinesis.model.ShardIteratorType;
import software.amazon.kinesis.retrieval.AggregatorUtil;
import software.amazon.kinesis.retrieval.KinesisClientRecord;

/**
 * Reads a stream with the AWS SDK, deaggregates it with the KCL's code, and prints the user records.
 *
 * <p>Argument: the stream.
 */
class ReadWithKcl {
    private static final ObjectMapper JSON = new ObjectMapper();

    public static void main(String[] args) throws Exception {
        PrintStream out = new PrintStream(System.out, false, "UTF-8");
        URI endpoint = URI.create(System.getenv("AWS_ENDPOINT_URL"));
        try (KinesisAsyncClient client = KinesisAsyncClient.builder().endpointOverride(endpoint).build()) {
            for (Shard shard : client.listShards(request -> request.streamName(args[0])).get().shards()) {
                HashKeyRange range = shard.hashKeyRange();
                List<KinesisClientRecord> records = new AggregatorUtil()
                        .deaggregate(records(client, args[0], shard), range.startingHashKey(), range.endingHashKey());
                for (KinesisClientRecord record : records) {
                    print(out, shard, record);
                }
            }
        }
        out.flush();
    }

    /** Returns all Kinesis records of a shard. */
    private static List<KinesisClientRecord> records(KinesisAsyncClient client, String stream, Shard shard)
            throws Exception {
        List<KinesisClientRecord> records = new ArrayList<>();
        String iterator = client.getShardIterator(request -> request
                .streamName(stream)
                .shardId(shard.shardId())
                .shardIteratorType(ShardIteratorType.TRIM_HORIZON)).get().shardIterator();
        while (iterator != null) {
            String from = iterator;
            GetRecordsResponse page = client.getRecords(request -> request.shardIterator(from)).get();
            for (Record record : page.records()) {
                records.add(KinesisClientRecord.fromRecord(record));
            }
            boolean atEnd = page.records().isEmpty() && page.millisBehindLatest() == 0;
            iterator = atEnd ? null : page.nextShardIterator();
        }
        return records;
    }

    private static void print(PrintStream out, Shard shard, KinesisClientRecord record) throws Exception {
        byte[] data = new byte[record.data().remaining()];
        record.data().get(data);
        ObjectNode line = JSON.createObjectNode();
        line.put("shard_id", shard.shardId());
        line.put("sequence_number", record.sequenceNumber());
        line.put("sub_sequence_number", record.subSequenceNumber());
        line.put("partition_key", record.partitionKey());
        line.put("explicit_hash_key", record.explicitHashKey());
        line.put("data", data);
        out.println(JSON.writeValueAsString(line));
    }
}
