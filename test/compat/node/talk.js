// talk.js HOST:PORT: the everyday of the npm package etcd3 against one server. Every answer is a line on standard output,
// so that two servers can be compared; ids and the server's own numbers are left out here.
'use strict';

const { Etcd3 } = require('etcd3');

const limit = 60_000; // of all of it, in milliseconds

const say = (what, answer) => console.log(`${what}: ${JSON.stringify(answer, (key, v) => (Buffer.isBuffer(v) ? v.toString() : hide(key, v)))}`);

function hide(key, v) {
  if (['cluster_id', 'member_id', 'raft_term', 'ID', 'lease'].includes(key)) return v === '0' ? v : '<own>';
  return v && v.type === 'Buffer' ? Buffer.from(v.data).toString() : v;
}

// refused is how a call that must not go through failed.
async function refused(what, call) {
  try {
    say(what, { unexpected: await call() });
  } catch (err) {
    say(what, { error: err.constructor.name, message: err.message });
  }
}

// once waits for an event of an emitter.
const once = (emitter, event) => new Promise((resolve, reject) => {
  emitter.once(event, resolve);
  emitter.once('error', reject);
});

async function keys(client) {
  say('put', await client.put('k/a').value('1'));
  say('put again', await client.put('k/a').value('2').getPrevious());
  say('put', await client.put('k/b').value(Buffer.from('bytes')));
  say('get', await client.get('k/a').string());
  say('number', await client.get('k/a').number());
  say('none', await client.get('k/none').string());
  say('exists', [await client.get('k/a').exists(), await client.get('k/none').exists()]);
  say('whole answer', await client.get('k/b').exec());
  say('all', await client.getAll().prefix('k/').strings());
  say('sorted', await client.getAll().prefix('k/').sort('Value', 'Descend').limit(1).exec());
  say('keys', await client.getAll().prefix('k/').keys());
  say('count', await client.getAll().prefix('k/').count());
  say('past', await client.get('k/a').revision(2).string());
  say('touch', await client.put('k/a').touch());
  say('delete', await client.delete().key('k/a').getPrevious());
  say('delete', await client.delete().prefix('k/').exec());
  await refused('future revision', () => client.get('k/a').revision(9999).string());
  await refused('empty key', () => client.put('').value('x').exec());
  const space = client.namespace('space/');
  await space.put('in').value('1');
  say('namespace', await client.getAll().prefix('space/').strings());
}

async function watches(client) {
  const live = await client.watch().prefix('w/').withPreviousKV().create();
  const events = [];
  const done = new Promise((resolve) => {
    const note = (type) => (kv, prev) => {
      events.push({ type, key: kv.key.toString(), value: kv.value.toString(), prev: prev && prev.value.toString() });
      if (events.length === 4) resolve();
    };
    live.on('put', note('put')).on('delete', note('delete'));
  });
  await client.put('w/a').value('1');
  await client.put('other').value('1');
  await client.put('w/a').value('2');
  await client.delete().key('w/a');
  await client.put('w/b').value('3');
  await done;
  say('events', events);
  await live.cancel();

  const at = (await client.get('w/b').exec()).header.revision;
  const past = client.watch().key('w/b').startRevision(at).watcher();
  const kv = await once(past, 'put');
  say('from the past', { key: kv.key.toString(), value: kv.value.toString() });
  await past.cancel();
}

async function leases(client) {
  const lease = client.lease(30);
  say('lease', /^[0-9]+$/.test(await lease.grant()));
  await lease.put('l/a').value('1');
  say('leased', await client.get('l/a').string());
  await lease.keepaliveOnce();
  say('alive', lease.revoked());
  await lease.revoke();
  say('after', await client.get('l/a').string());
  await refused('kept no longer', () => lease.put('l/b').value('1').exec());

  const short = client.lease(2, { autoKeepAlive: false });
  await short.put('l/short').value('1');
  const gone = await client.watch().key('l/short').create();
  await once(gone, 'delete');
  say('ran out', await client.get('l/short').string());
  await gone.cancel();
}

async function locks(client) {
  const lock = await client.lock('mutex').ttl(30).acquire();
  await refused('second', () => client.lock('mutex').ttl(30).acquire());
  await lock.release();
  say('inside', await client.lock('mutex').ttl(30).do(async () => 'done'));
  say('left', await client.getAll().prefix('mutex').count());
}

// changedTo waits until the observer has seen a leader; between two there may be none for a moment.
const changedTo = (observer, value) => new Promise((resolve, reject) => {
  observer.on('change', (v) => v === value && resolve(v)).on('error', reject);
});

async function elections(client) {
  const first = client.election('chief', 30);
  const campaign = first.campaign('one');
  await once(campaign, 'elected');
  say('leader', await first.leader());
  const observer = await client.election('chief').observe();
  say('observed', observer.leader());
  const changed = changedTo(observer, 'uno');
  await campaign.proclaim('uno');
  say('proclaimed', await changed);
  const second = client.election('chief', 30).campaign('two');
  const next = changedTo(observer, 'two');
  await campaign.resign();
  await once(second, 'elected');
  say('next', await next);
  await second.resign();
  say('nobody', await first.leader());
  await observer.cancel();
}

async function transactions(client) {
  const txn = () => client.if('t/a', 'Create', '==', 0).then(client.put('t/a').value('new')).else(client.get('t/a'));
  say('first', await txn().commit());
  say('second', await txn().commit());
  say('and', await client.if('t/a', 'Value', '==', 'new').and('t/none', 'Version', '==', 0).then(client.put('t/b').value('1'), client.delete().key('t/a')).commit());
  await client.put('sum').value(0);
  const add = () => client.stm({ retries: 50 }).transact((tx) => tx.get('sum').number().then((n) => tx.put('sum').value(n + 1)));
  await Promise.all(Array.from({ length: 5 }, add));
  say('sum', await client.get('sum').number());
}

async function main() {
  const client = new Etcd3({ hosts: `http://${process.argv[2]}`, dialTimeout: 5000 });
  for (const part of [keys, watches, leases, locks, elections, transactions]) {
    await part(client);
    await client.delete().all();
  }
  client.close();
}

const timer = setTimeout(() => {
  console.error(`not done within ${limit} ms`);
  process.exit(1);
}, limit);

main().then(() => clearTimeout(timer), (err) => {
  console.error(err);
  process.exit(1);
});
