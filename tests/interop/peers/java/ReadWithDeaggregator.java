import com.amazonaws.client.builder.AwsClientBuilder.EndpointConfiguration;
import com.amazonaws.kinesis.deagg.RecordDeaggregator;
import com.amazonaws.services.kinesis.AmazonKinesis;
import com.amazonaws.services.kinesis.AmazonKinesisClientBuilder;
import com.amazonaws.services.kinesis.clientlibrary.types.UserRecord;
import com.amazonaws.services.kinesis.model.GetRecordsRequest;
import com.amazonaws.services.kinesis.model.GetRecordsResult;
import com.amazonaws.services.kinesis.model.Record;
import com.amazonaws.services.kinesis.model.Shard;
import com.amazonaws.services.lambda.runtime.events.KinesisEvent;
import com.amazonaws.services.lambda.runtime.events.KinesisEvent.KinesisEventRecord;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.PrintStream;
import java.util.ArrayList;
import java.util.List;

/**
 * Reads a stream with the AWS SDK for Java 1.x, deaggregates it with AWS's module for Lambda, and prints the user
 * records.
 *
 * <p>Argument: the stream.
 */
class ReadWithDeaggregator {
    private static final ObjectMapper JSON = new ObjectMapper();

    public static void main(String[] args) throws Exception {
        PrintStream out = new PrintStream(System.out, false, "UTF-8");
        AmazonKinesis client = AmazonKinesisClientBuilder.standard()
                .withEndpointConfiguration(
                        new EndpointConfiguration(System.getenv("AWS_ENDPOINT_URL"), System.getenv("AWS_REGION")))
                .build();
        // This version of the SDK does not have ListShards.
        for (Shard shard : client.describeStream(args[0]).getStreamDescription().getShards()) {
            for (UserRecord record : RecordDeaggregator.deaggregate(records(client, args[0], shard))) {
                print(out, shard, record);
            }
        }
        out.flush();
        client.shutdown();
    }

    /** Returns all Kinesis records of a shard, as a Lambda function receives them. */
    private static List<KinesisEventRecord> records(AmazonKinesis client, String stream, Shard shard) {
        List<KinesisEventRecord> records = new ArrayList<>();
        String iterator = client.getShardIterator(stream, shard.getShardId(), "TRIM_HORIZON").getShardIterator();
        while (iterator != null) {
            GetRecordsResult page = client.getRecords(new GetRecordsRequest().withShardIterator(iterator));
            for (Record record : page.getRecords()) {
                KinesisEvent.Record kinesis = new KinesisEvent.Record();
                kinesis.setSequenceNumber(record.getSequenceNumber());
                kinesis.setApproximateArrivalTimestamp(record.getApproximateArrivalTimestamp());
                kinesis.setPartitionKey(record.getPartitionKey());
                kinesis.setData(record.getData());
                KinesisEventRecord event = new KinesisEventRecord();
                event.setKinesis(kinesis);
                records.add(event);
            }
            boolean atEnd = page.getRecords().isEmpty() && page.getMillisBehindLatest() == 0;
            iterator = atEnd ? null : page.getNextShardIterator();
        }
        return records;
    }

    private static void print(PrintStream out, Shard shard, UserRecord record) throws Exception {
        byte[] data = new byte[record.getData().remaining()];
        record.getData().get(data);
        ObjectNode line = JSON.createObjectNode();
        line.put("shard_id", shard.getShardId());
        line.put("sequence_number", record.getSequenceNumber());
        line.put("sub_sequence_number", record.getSubSequenceNumber());
        line.put("partition_key", record.getPartitionKey());
        line.put("explicit_hash_key", record.getExplicitHashKey());
        line.put("data", data);
        out.println(JSON.writeValueAsString(line));
    }
}
