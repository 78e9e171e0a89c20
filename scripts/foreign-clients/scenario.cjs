// A scenario through toxiproxy-node-client, unchanged: every toxic it knows, against the interface whose address is
// given. Times are only ever compared with what a toxic asked for from below, so that a busy machine fails nothing.
"use strict";

const assert = require("node:assert/strict");
const net = require("node:net");
const { Toxiproxy } = require("toxiproxy-node-client");

const echo = net.createServer((stream) => {
    stream.on("error", () => {});
    stream.pipe(stream);
});

function connect(proxy) {
    const [host, port] = proxy.listen.split(":");
    return new Promise((resolve, reject) => {
        const stream = net.connect({ host, port: Number(port) }, () => resolve(stream));
        stream.once("error", reject);
    });
}

// Sends `bytes` bytes and tells how many came back, in how many reads and milliseconds, and how the connection ended
// where it did before all were there.
function say(stream, bytes) {
    return new Promise((resolve) => {
        const began = performance.now();
        let [seen, reads] = [0, 0];
        const done = (end) => resolve({ seen, reads, end, took: performance.now() - began });
        const patience = setTimeout(() => done("silence"), 600);
        stream.on("data", (data) => {
            seen += data.length;
            reads += 1;
            if (seen === bytes) {
                clearTimeout(patience);
                done(undefined);
            }
        });
        stream.once("error", (error) => (clearTimeout(patience), done(error.code)));
        stream.once("end", () => (clearTimeout(patience), done("end")));
        stream.write(Buffer.alloc(bytes, "x"));
    });
}

// What becomes of a new connection while the toxic is on.
async function under(proxy, body, bytes) {
    const toxic = await proxy.addToxic(body);
    const stream = await connect(proxy);
    const result = await say(stream, bytes);
    stream.destroy();
    await toxic.remove();
    return result;
}

async function main(host) {
    await new Promise((resolve) => echo.listen(0, "127.0.0.1", resolve));
    const upstream = `127.0.0.1:${echo.address().port}`;
    const toxiproxy = new Toxiproxy(host);
    assert.match(JSON.stringify(await toxiproxy.getVersion()), /2\.\d+\.\d+/);

    const proxy = await toxiproxy.createProxy({ name: "echo", listen: "localhost:0", upstream });
    assert.equal(proxy.enabled, true);
    await assert.rejects(toxiproxy.createProxy({ name: "echo", listen: "localhost:0", upstream }), /409/);
    await assert.rejects(toxiproxy.get("nobody"), /404/);
    await assert.rejects(proxy.addToxic({ type: "down", attributes: {} }), /400/);

    const slow = await under(proxy, { type: "latency", attributes: { latency: 200, jitter: 0 } }, 10);
    assert.ok(slow.seen === 10 && slow.took >= 200, JSON.stringify(slow));
    const narrow = await under(proxy, { type: "bandwidth", attributes: { rate: 10 } }, 2500);
    assert.ok(narrow.seen === 2500 && narrow.took >= 245, JSON.stringify(narrow));
    const sliced = await under(
        proxy,
        { type: "slicer", attributes: { average_size: 1, size_variation: 0, delay: 5000 } },
        20,
    );
    assert.ok(sliced.seen === 20 && sliced.reads > 5 && sliced.took >= 95, JSON.stringify(sliced));
    const silent = await under(proxy, { type: "timeout", stream: "upstream", attributes: { timeout: 0 } }, 10);
    assert.deepEqual([silent.seen, silent.end], [0, "silence"]);
    const closed = await under(proxy, { type: "timeout", attributes: { timeout: 100 } }, 10);
    assert.deepEqual([closed.seen, closed.end], [0, "end"]);
    const reset = await under(proxy, { type: "reset_peer", attributes: { timeout: 0 } }, 10);
    assert.deepEqual([reset.seen, reset.end], [0, "ECONNRESET"]);
    const limited = await under(proxy, { type: "limit_data", attributes: { bytes: 7 } }, 10);
    assert.deepEqual([limited.seen, limited.end], [7, "end"]);

    const slowClose = await proxy.addToxic({ type: "slow_close", attributes: { delay: 250 } });
    const stream = await connect(proxy);
    await say(stream, 3);
    const began = performance.now();
    stream.end();
    await new Promise((resolve) => stream.once("end", resolve));
    assert.ok(performance.now() - began >= 250);
    await slowClose.remove();

    // Names, updates, and a share of connections.
    const named = await proxy.addToxic({
        name: "mine", type: "latency", stream: "upstream", toxicity: 0, attributes: { latency: 9000, jitter: 1 },
    });
    assert.ok((await say(await connect(proxy), 5)).seen === 5, "a toxicity of 0 meets nobody");
    const changed = await named.update({ toxicity: 0.25, attributes: { latency: 50 } });
    assert.deepEqual([changed.toxicity, changed.attributes], [0.25, { latency: 50, jitter: 1 }]);
    assert.deepEqual((await proxy.getToxic("mine")).toJson(), changed.toJson());
    const off = await proxy.update({ enabled: false, listen: proxy.listen, upstream });
    assert.equal(off.enabled, false);
    await assert.rejects(connect(proxy), /ECONNREFUSED/);
    await toxiproxy.reset();
    assert.ok((await say(await connect(proxy), 5)).seen === 5);
    await assert.rejects(proxy.getToxic("mine"), /404/);

    const populated = await toxiproxy.populate([
        { name: "echo", listen: proxy.listen, upstream },
        { name: "other", listen: "127.0.0.1:0", upstream },
    ]);
    assert.deepEqual(Object.keys(populated), ["echo", "other"]);
    assert.equal(populated.echo.listen, proxy.listen);
    for (const one of Object.values(await toxiproxy.getAll())) {
        await one.remove();
    }
    assert.deepEqual(await toxiproxy.getAll(), {});
}

main(process.argv[2]).then(
    () => {
        console.log("toxiproxy-node-client: held");
        process.exit(0);
    },
    (error) => {
        console.error(error);
        process.exit(1);
    },
);
