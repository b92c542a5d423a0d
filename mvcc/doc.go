// Package mvcc is the store behind a replica: every revision of every key, in one bbolt file.
//
// The raft log is what makes a command durable, so the store is lazy: Apply changes memory only, and a flush writes what
// has gathered, and last the index of the newest entry in it. After a crash the log is replayed from that index, and the
// outcome is the same, because everything a reader can see is a function of the log and of the compact revision in it.
// No clock, no map order, no local setting and no chance enters Apply.
//
// # Where a change lives
//
//	Apply -> active overlay --freeze--> flushing overlay --bbolt transaction--> file
//	    \--> tail (revision order, for watches; bounded once flushed)
//
// An overlay is a skip list over (key, newest revision first) with one writer and readers that take no lock. A reader
// picks up its revision, then the overlays, then, if it still needs one, a bbolt transaction; a record that is in both
// is the same record. So readers never wait for Apply or for a flush, nor these for readers.
//
// The file has four buckets:
//
//	rev   revision -> record {key, value, ..., link} appended in order; replayed by watches
//	key   key -> {revision, version, ...}            its newest version
//	side  what the log says beside keys, without a history
//	meta  format, state (applied index, revision, ...), sweep (how far compaction has got)
//
// Each record is linked to the one that it replaced, so that a key as it stood at some revision is found from the newest
// version backwards. An index with an entry for each version would find it at once, but a flush would have to change
// pages in proportion to the whole history: overwriting 10,000 keys 3,000 times between two flushes wrote 2,161 bytes a
// put with it, and 431 without.
//
// A value is stored once. Nothing that grows with the number of keys is held in memory, and opening reads no more than
// meta. Records and index entries carry a checksum that is verified whenever they are read.
//
// # Compaction
//
// Compact(C) takes effect at once for readers: revisions below C are refused. Run frees the space later, by walking the
// revisions between the former compact revision and C: what they superseded is what can go. All changes at C and after
// it stay, and so does the newest version of each key.
//
// # Leases
//
// A lease, and each key that lives under it, is an entry in bucket side. A revocation walks the entries of its lease and
// deletes the keys at one revision. The store knows no time: a lease ends when the log says so, and Options.OnLease tells
// who keeps it.
//
// # Retry keys
//
// How the newest RetriesKept writes with a retry key ended is in bucket side too, so that one that comes again is answered
// and not applied.
//
// # Alarms
//
// Alarms and the feature level of the cluster are entries of the side table that Apply also has in memory, because it
// judges each command by them: see Barred.
//
// # Defragmentation
//
// bbolt never gives pages back. Defragment copies the file into a new one while flushes go on, copies what they have
// added, holds them up for the last of it, and puts the new file in the place of the old: see there.
//
// # Locks
//
// flushMu (one flush, sweep, restore or swap of a defragmentation at a time), then applyMu (one batch at a time), then the mutex of the watch hub.
// No bbolt call is made under the hub's mutex.
package mvcc
