// A server and a client on node's own http2: a call with trailers, and events one by one.
const http2 = require("node:http2");
const fs = require("node:fs");
const [, , role, where, ca] = process.argv;

if (role === "serve") {
  const server = http2.createServer();
  server.on("stream", (stream, head) => {
    if (head[":path"] === "/events") {
      stream.respond({ ":status": 200, "content-type": "text/event-stream" });
      // The next event only when the client says, on a stream of its own, that it has the one before.
      server.events = stream;
      stream.write("data: 0\n\n");
      return;
    }
    if (head[":path"].startsWith("/next/")) {
      const number = Number(head[":path"].slice(6));
      if (number < 3) server.events.write(`data: ${number}\n\n`);
      else server.events.end();
      stream.respond({ ":status": 204 }, { endStream: true });
      return;
    }
    let body = "";
    stream.on("data", (piece) => (body += piece));
    stream.on("end", () => {
      stream.additionalHeaders({ ":status": 103, link: "</a.css>; rel=preload" });
      stream.respond({ ":status": 200, "content-type": "application/grpc", "x-te": head.te ?? "" }, { waitForTrailers: true });
      stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": "0" }));
      stream.end(`echo:${body}`);
    });
  });
  server.listen(Number(where), "127.0.0.1");
} else {
  const client = http2.connect(where, ca && where.startsWith("https") ? { ca: fs.readFileSync(ca) } : {});
  client.on("error", (error) => { console.error(error); process.exit(1); });
  const told = { events: [] };
  const call = client.request({ ":method": "POST", ":path": "/t.T/Unary", "content-type": "application/grpc", te: "trailers" });
  call.on("response", (head) => { told.status = head[":status"]; told.te = head["x-te"]; });
  call.on("trailers", (trailers) => { told.trailers = { ...trailers }; });
  call.setEncoding("utf8");
  told.body = "";
  call.on("data", (piece) => (told.body += piece));
  call.on("end", () => {
    const events = client.request({ ":path": "/events" });
    events.setEncoding("utf8");
    events.on("data", (piece) => {
      told.events.push(piece.match(/data: (\d+)/)[1]);
      client.request({ ":path": `/next/${told.events.length}` }).resume();
    });
    events.on("end", () => { console.log(JSON.stringify(told)); client.close(); process.exit(0); });
  });
  call.end("hello");
  setTimeout(() => { console.error("too late", JSON.stringify(told)); process.exit(1); }, 15000).unref();
}
