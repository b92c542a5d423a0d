package member

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"

	"holdfast/kv"
	"holdfast/member/nodehost"
)

// The ticks are the cluster's: members that join later count on them, so a lone member has them too.
const (
	tickMillis     = 100
	electionTicks  = 10
	heartbeatTicks = 1
)

const (
	maxInMemLog       = 32 << 20 // of entries not yet applied; beyond it proposals are refused as Busy
	maxQueueBytes     = 8 << 20  // to or from one peer; beyond it messages are dropped, which raft repairs
	snapshotEntries   = 10_000   // entries between two snapshots, at most: a restart replays that many
	snapshotLogBytes  = 256 << 20
	keepEntries       = 5_000     // kept behind a snapshot for followers that lag
	keepLogBytes      = 128 << 20 // and at most about that many bytes of them
	snapshotTimeout   = time.Minute
	electionFirstWait = time.Millisecond
	electionMaxWait   = 20 * time.Millisecond
)

// openHost opens the library's NodeHost and examines the raft log. What it finds wrong is an error of this goroutine;
// the library would panic in one of its own.
func (m *Member) openHost() (err error) {
	installLogger(m.cfg.Log)
	dir := filepath.Join(m.cfg.Dir, raftDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := adoptHostName(dir); err != nil {
		return err
	}
	if err := trimLogs(dir, m.cfg.Log); err != nil {
		return err
	}
	m.logs = &logFactory{halt: m.halt, stall: m.stall, write: m.cfg.LogWrite}
	if err := protect("open raft log in "+dir, func() error {
		m.host, err = nodehost.New(m.hostConfig(dir))
		if err == nil && m.host == nil {
			err = errors.New("the library gave up") // it recovers from its own panics
		}
		return err
	}); err != nil {
		return hostError(dir, err)
	}
	m.session = m.host.GetNoOPSession(shardID)
	return m.examineLog()
}

func (m *Member) hostConfig(dir string) config.NodeHostConfig {
	logdb := config.GetTinyMemLogDBConfig()
	logdb.Shards = 1
	logdb.KVWriteBufferSize = 64 << 10 // tan allocates sixteen of them
	logdb.SaveBufferSize = 4 << 10
	logdb.MaxSaveBufferSize = 1 << 20
	return config.NodeHostConfig{
		DeploymentID:        m.id.Cluster,
		NodeHostID:          m.id.Node,
		NodeHostDir:         dir,
		RTTMillisecond:      tickMillis,
		RaftAddress:         m.id.Node,
		RaftEventListener:   m.leader,
		MaxSendQueueSize:    maxQueueBytes,
		MaxReceiveQueueSize: maxQueueBytes,
		Expert: config.ExpertConfig{
			LogDBFactory:        m.logs,
			TransportFactory:    m.net,
			NodeRegistryFactory: m.registry,
			Engine: config.EngineConfig{
				ExecShards: 1, CommitShards: 1, ApplyShards: 1, SnapshotShards: 1, CloseShards: 1,
			},
			LogDB: logdb,
			FS:    m.fs,
		},
	}
}

// founders returns the first members of the cluster: as recorded when this replica first started, because the library
// refuses others, else those of the configuration, else this replica alone.
func (m *Member) founders() (map[uint64]nodehost.Target, error) {
	recorded, err := m.logs.db.GetBootstrapInfo(shardID, m.id.Replica)
	if err != nil && !errors.Is(err, raftio.ErrNoBootstrapInfo) {
		return nil, err
	}
	founders := make(map[uint64]nodehost.Target)
	for replica, node := range recorded.Addresses {
		founders[replica] = node
	}
	if len(founders) > 0 {
		return founders, nil
	}
	for replica, node := range m.cfg.Peers {
		founders[replica] = node
	}
	founders[m.id.Replica] = m.id.Node
	return founders, nil
}

// startReplica starts raft. Founders are told of each other; afterwards the log has the members.
func (m *Member) startReplica() error {
	cfg := config.Config{
		ReplicaID:               m.id.Replica,
		ShardID:                 shardID,
		CheckQuorum:             true,
		PreVote:                 true,
		OrderedConfigChange:     true,
		ElectionRTT:             electionTicks,
		HeartbeatRTT:            heartbeatTicks,
		SnapshotEntries:         m.cfg.SnapshotEntries,
		CompactionOverhead:      max(m.cfg.SnapshotEntries*keepEntries/snapshotEntries, 1),
		MaxInMemLogSize:         maxInMemLog,
		SnapshotCompressionType: config.Snappy,
		EntryCompressionType:    config.NoCompression, // see packCommand
	}
	if m.id.Join {
		// Whoever joined is a learner until the log, or a snapshot of it, says otherwise. The library panics on a replica
		// that starts as the other of the two.
		cfg.IsNonVoting = !m.votes
		return protect("start replica", func() error { return m.host.StartOnDiskReplica(nil, true, m.newFSM, cfg) })
	}
	return protect("start replica", func() error {
		founders, err := m.founders()
		if err != nil {
			return err
		}
		return m.host.StartOnDiskReplica(founders, false, m.newFSM, cfg)
	})
}

// electAlone makes a replica that is the only voter of its cluster call its election at once, instead of after one to
// two election timeouts. The message is the one by which a leader hands over; raft treats it as a timeout that has
// passed, so it is safe at any time, and while a change of membership is not applied yet it is ignored. Until the
// membership is known the replica is woken, or it would take the next tick to find out.
func (m *Member) electAlone(ctx context.Context) error {
	for wait := electionFirstWait; ; wait = min(2*wait, electionMaxWait) {
		now, changed := m.leader.get()
		voters, known := m.voters()
		switch {
		case now.replica != 0, known && voters > 1:
			return nil
		case known && voters == 1:
			m.nudge(pb.TimeoutNow)
		default:
			m.nudge(pb.NoOP)
		}
		timer := time.NewTimer(wait)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
		timer.Stop()
	}
}

// nudge delivers a message from this replica to itself.
func (m *Member) nudge(t pb.MessageType) {
	m.net.recv(pb.MessageBatch{
		DeploymentId: m.id.Cluster,
		BinVer:       raftio.TransportBinVersion,
		Requests:     []pb.Message{{Type: t, ShardID: shardID, To: m.id.Replica, From: m.id.Replica}},
	})
}

// voters returns how many voters with data the cluster has, this replica included, as far as that is applied here.
// Known is false before anything is, after the end, and for a replica that is no voter.
func (m *Member) voters() (n int, known bool) {
	s, known := m.shard()
	if _, voter := s.Replicas[m.id.Replica]; !known || !voter {
		return 0, false
	}
	return len(s.Replicas), true
}

// shard is what the host knows of the cluster's shard. Known is false before anything is applied, and once the host is being
// closed. It may be called at any time.
func (m *Member) shard() (_ nodehost.ShardInfo, known bool) {
	info, err := askHost(m, func(h *nodehost.Host) (*nodehost.Info, error) {
		return h.GetNodeHostInfo(nodehost.InfoOption{SkipLogInfo: true}), nil
	})
	if err != nil || info == nil {
		return nodehost.ShardInfo{}, false
	}
	i := slices.IndexFunc(info.ShardInfoList, func(s nodehost.ShardInfo) bool { return s.ShardID == shardID })
	if i < 0 || info.ShardInfoList[i].Pending {
		return nodehost.ShardInfo{}, false
	}
	return info.ShardInfoList[i], true
}

// askHost is what the host answers, or ErrClosed once it is being closed, which waits for ask: the library forgets its parts
// while it closes, and looks at them without a lock when it is asked. Nothing asks the host in another way, from Run's start on.
func askHost[T any](m *Member, ask func(*nodehost.Host) (T, error)) (answer T, err error) {
	m.hostOpen.RLock()
	defer m.hostOpen.RUnlock()
	if m.hostClosed {
		return answer, nodehost.ErrClosed
	}
	return ask(m.host)
}

// requestSnapshot asks for a snapshot, after which the log can be cut.
func (m *Member) requestSnapshot(how nodehost.SnapshotOption) (*nodehost.RequestState, error) {
	return askHost(m, func(h *nodehost.Host) (*nodehost.RequestState, error) {
		return h.RequestSnapshot(shardID, how, snapshotTimeout)
	})
}

// closeHost ends the host, once nobody asks it anything any more; see askHost. What raft's loop was asked has to be answered first: an
// answer to a question that the end has taken back is a panic of the library. It comes as soon as the loop goes round, for which
// the end would have to wait too.
func (m *Member) closeHost() {
	m.hostOpen.Lock()
	m.hostClosed = true
	m.hostOpen.Unlock()
	m.askingRaft.Wait()
	if m.host != nil {
		m.host.Close()
	}
}

// protect turns a panic of the library on this goroutine into an error.
func protect(doing string, fn func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%s: %v", doing, r)
		}
	}()
	if err := fn(); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

// hostError gives the errors of an open a code and a remedy.
func hostError(dir string, err error) error {
	switch {
	case noRoom(err):
		return kv.Errorf(kv.NoSpace, "no room on the disk to start; free some on the file system of %s: %w", dir, err)
	case errors.Is(err, fs.ErrPermission):
		return kv.Errorf(kv.Invalid, "%s belongs to another user: %w", dir, err)
	}
	return err
}
