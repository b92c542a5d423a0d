// etcd's client for JavaScript, unchanged, with an agent. Usage: npm install && node index.js [HOST:PORT]
'use strict';

const assert = require('node:assert');
const { Etcd3 } = require('etcd3');

async function main() {
  const client = new Etcd3({ hosts: process.argv[2] || '127.0.0.1:2379' });
  try {
    const watcher = await client.watch().prefix('examples/js/').create();
    const seen = new Promise((resolve) => watcher.once('put', (kv) => resolve(kv.key.toString())));

    await client.put('examples/js/door').value('open');
    console.log('the watch saw', await seen);
    console.log('the door is', await client.get('examples/js/door').string());

    // Only if nobody else has changed it.
    const moved = await client
      .if('examples/js/door', 'Value', '==', 'open')
      .then(client.put('examples/js/door').value('closed'))
      .commit();
    assert.ok(moved.succeeded);

    // A lock is held as long as its lease, and freed when this process dies.
    await client.lock('examples/js/lock').ttl(10).do(() => console.log('alone in here'));

    await watcher.cancel();
    await client.delete().prefix('examples/js/');
  } finally {
    client.close();
  }
}

main().catch((err) => {
  console.error(err);
  process.exitCode = 1;
});
