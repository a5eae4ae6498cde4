import java.io.ByteArrayOutputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Base64;
import java.util.zip.DeflaterOutputStream;
import java.util.zip.GZIPOutputStream;

/** Sends one image in each protocol with nothing but the JDK; prints a line of name, status and response for each. */
public class Client {
    private static final HttpClient CLIENT = HttpClient.newHttpClient();
    private static String server;

    public static void main(String[] arguments) throws Exception {
        server = arguments[0];
        String model = arguments[1];
        byte[] image = Files.readAllBytes(Path.of(arguments[2]));
        // Of a MIME encoder, whose lines of 76 characters a JSON string writes with \r\n.
        String lines = Base64.getMimeEncoder().encodeToString(image).replace("\r\n", "\\r\\n");
        String urlSafe = Base64.getUrlEncoder().withoutPadding().encodeToString(image);
        String v1 = "{\"instances\": [{\"image_bytes\": {\"b64\": \"" + lines + "\"}}]}";
        String v2 = "{\"id\": null, \"inputs\": [{\"name\": \"image\", \"datatype\": \"BYTES\", \"shape\": [1, 1], "
                + "\"parameters\": null, \"data\": [\"" + urlSafe + "\"]}], \"outputs\": null}";
        byte[] json = v2.getBytes(StandardCharsets.UTF_8);
        post("raw", "/predict", "image/jpeg", "identity", BodyPublishers.ofFile(Path.of(arguments[2])));
        post("raw, chunked", "/predict", "image/jpeg", "gzip",
                BodyPublishers.fromPublisher(BodyPublishers.ofByteArray(gzip(image))));
        post("V1", "/v1/models/" + model + ":predict", "application/json", "identity", BodyPublishers.ofString(v1));
        post("V2", "/v2/models/" + model + "/infer", "application/json", "identity", BodyPublishers.ofByteArray(json));
        post("V2, gzip", "/v2/models/" + model + "/infer", "application/json", "gzip",
                BodyPublishers.ofByteArray(gzip(json)));
        post("V2, deflate", "/v2/models/" + model + "/infer", "application/json; charset=utf-8", "deflate",
                BodyPublishers.ofByteArray(deflate(json)));
    }

    private static void post(String name, String path, String type, String encoding, BodyPublisher body)
            throws Exception {
        var request = HttpRequest.newBuilder(URI.create(server + path))
                .header("Content-Type", type).header("Content-Encoding", encoding).POST(body).build();
        var response = CLIENT.send(request, BodyHandlers.ofString());
        System.out.println(name + "\t" + response.statusCode() + "\t" + response.body().strip());
    }

    private static byte[] gzip(byte[] content) throws Exception {
        var buffer = new ByteArrayOutputStream();
        try (var output = new GZIPOutputStream(buffer)) {
            output.write(content);
        }
        return buffer.toByteArray();
    }

    private static byte[] deflate(byte[] content) throws Exception {
        var buffer = new ByteArrayOutputStream();
        try (var output = new DeflaterOutputStream(buffer)) {
            output.write(content);
        }
        return buffer.toByteArray();
    }
}
