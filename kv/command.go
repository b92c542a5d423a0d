package kv

import "time"

// Command is one change: it is encoded once at the door, and the same bytes are queue record, uplink message and raft
// entry. All Ops of a command apply at one revision or none does.
type Command struct {
	ID     ID
	By     By
	Guards []Guard // preconditions; if one fails nothing is applied and the answer is PreconditionFailed
	Ops    []Op

	// Write and Wait say what this node may do instead of waiting for a quorum, Device whose share of its queue that
	// takes. They are for the door that took the command and are not encoded: whatever is kept or sent no longer has a
	// choice.
	Write  Write
	Wait   time.Duration // how long WriteAuto waits for a quorum, 0 for the node's default
	Device string        // principal, or address without one; empty for nobody
	Share  int64         // bytes of the queue that Device may take, 0 for the node's own limit
}

// Write says what acknowledges a command.
type Write uint8

// The ways to write. A node without a queue for the key takes WriteAuto as WriteSync and refuses WriteQueue as Invalid.
const (
	WriteSync  Write = iota // a quorum, or a refusal
	WriteAuto               // a quorum, or after Wait this node's queue
	WriteQueue              // this node's queue
)

// ID makes a command safe to send again. Both parts are optional; a command with neither is never sent twice once a
// byte of it has left the node.
type ID struct {
	Seq Seq      // place in an origin's queue
	Key [16]byte // retry key of a synchronous write, all zero for none
}

// IsZero reports whether the command may be sent once only.
func (id ID) IsZero() bool { return id == ID{} }

// Lane is a strand of a queue; order is total within one.
type Lane uint8

// The lanes, in the order they are drained.
const (
	LaneHigh Lane = iota
	LaneNormal
	LaneBulk
)

// Seq is the place of a command in its origin's queue. N starts at 1; a Seq with N 0 is none.
type Seq struct {
	Origin [16]byte // who numbers: a node or a device
	Epoch  uint64   // queue epoch, granted by the cluster
	Lane   Lane
	N      uint64
}

// IsZero reports whether s is no place at all.
func (s Seq) IsZero() bool { return s.N == 0 }

// Guard is a precondition. It holds if the Compare holds, or if Or is set and the last writer of the key is Or.
type Guard struct {
	Compare
	Or Seq
}

// Op is one step of a command or query: Put, Delete, Range, Txn, Each, Skip, Compact, LeaderTerm, OpenEpoch,
// OpenQueue, SetRecord, Records, LeaseGrant, LeaseRevoke, LeaseKeepAlive, LeaseTTL, LeaseList, SetAlarm, Alarms,
// SetFeature, Audit, or those in auth.go. The set is closed; internal/wire has a tag for each.
type Op interface{ op() }

// Put sets a key.
type Put struct {
	Key         []byte
	Value       []byte
	Lease       int64 // 0 for none
	PrevKV      bool  // answer with the value replaced
	IgnoreValue bool  // keep the present value; the key must exist
	IgnoreLease bool  // keep the present lease; the key must exist
}

// Delete removes the keys of a range; see Range for Key and End.
type Delete struct {
	Key, End []byte
	PrevKV   bool // answer with the values removed
}

// Range reads keys. An empty End means Key alone, "\x00" all keys from Key on, else the half-open [Key, End).
type Range struct {
	Key, End             []byte
	Limit                int64 // most keys to answer with, 0 for all
	Revision             int64 // read as of this revision, 0 for the newest
	Sort                 Target
	Order                Order
	KeysOnly, CountOnly  bool
	Uncounted            bool  // the answer's Count is not looked at: whoever answers may stop once it knows More
	MinMod, MaxMod       int64 // bounds on ModRevision, inclusive, 0 for none
	MinCreate, MaxCreate int64 // bounds on CreateRevision, inclusive, 0 for none
}

// Order is the direction of a Range.
type Order uint8

// The orders. OrderNone is ascending by key, whatever Sort says, except that a Sort other than by key sorts ascending.
const (
	OrderNone Order = iota
	OrderAscend
	OrderDescend
)

// Head is how many keys of the range, in order of key, the answer is taken from, 0 for all. As etcd has it, a Range with a
// limit and no order takes one more than its limit, even if it names what to sort by: these it sorts and then cuts.
func (r Range) Head() int64 {
	if r.Limit <= 0 || r.Order != OrderNone || r.MinMod != 0 || r.MaxMod != 0 || r.MinCreate != 0 || r.MaxCreate != 0 {
		return 0
	}
	return r.Limit + 1
}

// Txn applies Then if all Compares hold, else Else. Txns nest.
type Txn struct {
	Compares   []Compare
	Then, Else []Op
}

// Target is the part of a key that is compared or sorted by.
type Target uint8

// The targets.
const (
	TargetKey Target = iota // sort only
	TargetVersion
	TargetCreate
	TargetMod
	TargetValue
	TargetLease // compare only
)

// Relation is how a Compare relates what stands there to what is given.
type Relation uint8

// The relations.
const (
	Equal Relation = iota
	Greater
	Less
	NotEqual
)

// Compare holds if every key of the range relates to the given value. A key that is absent has version, create and mod
// revision and lease 0; comparing its value fails, as in etcd. A range without any key is compared as one absent key.
type Compare struct {
	Key, End []byte
	Target   Target
	Relation Relation
	Num      int64  // for version, create, mod, lease
	Value    []byte // for value
}

// Compact gives up the history before Revision. A Compact that carries a Term is time-driven and void unless Term is
// the current LeaderTerm's nonce.
type Compact struct {
	Revision int64
	Physical bool   // answer only when the space is free for reuse
	Term     uint64 // 0: asked for by a client
}

// LeaderTerm is the first command of a new leader; time-driven commands carry its Nonce and are void under another.
type LeaderTerm struct {
	Nonce uint64
}

// Each applies commands one after the other, each by itself: at its own revision, under its own ID, with its own
// Outcome. It is the only Op of its command and does not nest. One raft entry carries a whole batch this way.
type Each struct {
	Commands []Command
}

// Skip gives up the sequences From to the command's own ID.Seq.N of its lane, both inclusive, as far as they were not
// used. It is the only Op of its command. Of its own sequence the result tells what became: Succeeded if it is given up, a Count
// of 1 if a command had it before, with that command's revision or error.
type Skip struct {
	From uint64
}

// OpenQueue grants Origin the next queue epoch if Have is its present one, 0 for none; the Count of the answer is the
// epoch granted. Else PreconditionFailed, whose Revision is the present epoch. It does not move the revision.
type OpenQueue struct {
	Origin [16]byte
	Have   uint64
}

// OpenEpoch names the history. It is the first command of a cluster; once an epoch is set another OpenEpoch changes
// nothing, so a founder that crashed proposes it again. It does not move the revision.
type OpenEpoch struct {
	Epoch Epoch
}

// SetRecord sets one of the cluster's own records (tokens, nodes, policy), which live beside the keys and never move the
// revision. A nil Value removes it. Unless Have is -1 the record must be at version Have, 0 for absent; else
// PreconditionFailed, whose Revision is the present version. The Count of the answer is the new version. One that carries a
// Term is proposed by a leader, and refused as NoLeader unless Term is the current LeaderTerm's nonce.
type SetRecord struct {
	Name  []byte
	Value []byte
	Have  int64
	Term  uint64 // 0: asked for by anybody
}

// Records asks for the records whose names begin with Prefix, in order: a KeyValue each, with Key and Value, and the
// record's version in Version. No client may ask for them.
type Records struct {
	Prefix []byte
}

// LeaseGrant makes a lease. ID is chosen at the door and never 0 in the log; TTL is in seconds. A TTL below the least,
// negative ones included, is raised to it: the answer has what counts. LeaseExists if the id is taken, LeaseTTLTooLarge
// beyond 9,000,000,000 s. Later ops of the same command may use it. It does not move the revision.
type LeaseGrant struct {
	ID, TTL int64
}

// LeaseRevoke ends a lease and deletes its keys, in order and at one revision; without keys it does not move it. It is the
// only Op of its command. LeaseNotFound if there is no such lease. Term is as in Compact.
type LeaseRevoke struct {
	ID   int64
	Term uint64
}

// LeaseKeepAlive renews a lease for its full TTL. The leader answers it; it never enters the log. It is the only Op of its
// command, which has no guards. LeaseNotFound if the lease is gone, also by the end of its time. In an Each it stands
// beside others of its kind only: see Renewals.
type LeaseKeepAlive struct {
	ID int64
}

// Renewals returns the commands that renew a lease each, if c is one or a batch of nothing else; nil if it is not.
func Renewals(c *Command) []Command {
	if len(c.Ops) != 1 || len(c.Guards) > 0 || c.Write == WriteQueue {
		return nil
	}
	switch op := c.Ops[0].(type) {
	case LeaseKeepAlive:
		return []Command{*c}
	case Each:
		for i := range op.Commands {
			one := &op.Commands[i]
			if len(one.Ops) != 1 || len(one.Guards) > 0 || !one.ID.IsZero() {
				return nil
			}
			if _, ok := one.Ops[0].(LeaseKeepAlive); !ok {
				return nil
			}
		}
		return op.Commands // nil if there are none
	}
	return nil
}

// LeaseTTL asks how long a lease has left, in whole seconds, and for its keys. For a lease that is gone the answer is a TTL
// of -1 and no error. Only the leader knows: a LocalOnly query is NotCached elsewhere. It is for queries, as LeaseList is.
type LeaseTTL struct {
	ID   int64
	Keys bool
}

// LeaseList asks for all leases: their ids, and the TTLs that were granted, in both fields.
type LeaseList struct{}

// SetAlarm raises an alarm, or disarms it. To raise one that stands, and to disarm one that does not, changes nothing and
// is no error. The Alarms of the answer are the alarm that stands now, or that stood. It never moves the revision.
type SetAlarm struct {
	Alarm Alarm
	Raise bool
}

// Alarms asks for the alarms that stand, in order of member and kind.
type Alarms struct{}

// SetFeature raises the feature level of the cluster; a lower one than the present changes nothing. A replica that does
// not know the level stops. It never moves the revision.
type SetFeature struct {
	Level uint64
}

// Audit compares the replicas, at a Term as in Compact; void, it changes nothing and asks for nothing. Without a Revision
// each replica digests the state right there, beside its work. With one, each that has done so and got the same Revision
// and Compact compares its Sum with this one, and where they differ raises AlarmCorrupt. It never changes the state.
type Audit struct {
	Term              uint64
	Revision, Compact int64
	Sum               uint32
}

func (Put) op()            {}
func (Delete) op()         {}
func (Range) op()          {}
func (Txn) op()            {}
func (Compact) op()        {}
func (LeaderTerm) op()     {}
func (Each) op()           {}
func (Skip) op()           {}
func (OpenEpoch) op()      {}
func (OpenQueue) op()      {}
func (SetRecord) op()      {}
func (Records) op()        {}
func (LeaseGrant) op()     {}
func (LeaseRevoke) op()    {}
func (LeaseKeepAlive) op() {}
func (LeaseTTL) op()       {}
func (LeaseList) op()      {}
func (SetAlarm) op()       {}
func (Alarms) op()         {}
func (SetFeature) op()     {}
func (Audit) op()          {}

// ReadOnly reports whether none of ops, nested ones included, changes anything: then they are a Query.
func ReadOnly(ops []Op) bool {
	for _, op := range ops {
		switch op := op.(type) {
		case Range, LeaseTTL, LeaseList, Records, Alarms, ReadAuth, Authenticate:
		case Txn:
			if !ReadOnly(op.Then) || !ReadOnly(op.Else) {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// OutcomeRing is how many outcomes the replicated state keeps for each lane of an origin. A queue never has more
// commands sent and unanswered than that, so the outcome of one sent again can always be told.
const OutcomeRing = 64
