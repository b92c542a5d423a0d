package raftnet

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"

	"holdfast/transport/courier"
)

// Path is a connection that carries datagrams to a member, proven to be that node. All methods may be called
// concurrently.
type Path interface {
	courier.Path
	// ReceiveDatagram waits for the next one. It ends with the connection.
	ReceiveDatagram(ctx context.Context) ([]byte, error)
	// Close ends the connection. The reason is shown to the peer.
	Close(reason string)
}

// On a link shorter than nearRTT, with less loss than nearLoss, streams do as well and cost less: what is lost comes
// again within a few milliseconds, and what comes in numbers travels together.
const (
	nearRTT  = 2 * time.Millisecond
	nearLoss = 0.003
)

// ServePath takes datagrams from node on a path, and sends some there, until it ends or ctx does. A path is of use beside
// a connection that ServeConn serves; it may be the same one.
func (n *Net) ServePath(ctx context.Context, node string, path Path) {
	p, err := n.enter(node)
	if err != nil {
		path.Close(err.Error())
		return
	}
	defer n.wg.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	select {
	case <-n.serving:
	case <-n.closing:
		return
	case <-ctx.Done():
		return
	}
	n.wg.Go(func() {
		select {
		case <-n.closing:
			cancel()
		case <-ctx.Done():
		}
	})
	detach := p.post.Attach(path)
	defer detach()
	for {
		b, err := path.ReceiveDatagram(ctx)
		if err != nil {
			return
		}
		if err := n.open(p, b); err != nil {
			n.metrics.dropped("refused", 1)
			n.opts.Log.Warn("a datagram of a member was refused and the connection closed; if it goes on, see whether both "+
				"run the same version", "peer", node, "err", err)
			path.Close(err.Error())
			return
		}
	}
}

// open takes a datagram apart and hands over what is in it.
func (n *Net) open(p *peer, b []byte) error {
	if !n.admits(p, courier.SenderOf(b)) { // the courier would take it for the peer, started anew
		n.metrics.dropped("ancient", 1)
		return nil
	}
	life, letters, err := p.post.Receive(b)
	if err != nil {
		return err
	}
	for _, b := range letters {
		if b[0] == kindNote {
			ask, err := parseNote(b)
			if err != nil {
				return err
			}
			if ask.what == noteBulk {
				p.bulk.setTheirs(int(min(ask.number, stripeMax)))
				continue
			}
			if answer, ok := p.hush.read(time.Now(), ask); ok {
				p.send(answer, courier.Once)
			}
			continue
		}
		lane, number, batch, err := openLetter(b, n.opts.Cluster, p.node)
		if err != nil {
			return err
		}
		in := &p.in[lane-1]
		if in.enter(life) != nil {
			n.metrics.dropped("ancient", 1)
			continue
		}
		n.take(p, in, life, number, batch)
	}
	return nil
}

// A letter is a batch in a datagram: its lane (1 byte), its number in the lane (uvarint), and the batch without what the
// connection proves: cluster and sender.
func appendLetter(b []byte, lane kind, number uint64) []byte {
	return binary.AppendUvarint(append(b, byte(lane)), number)
}

const maxLetterHeader = 1 + binary.MaxVarintLen64

func openLetter(b []byte, cluster uint64, node string) (lane kind, number uint64, batch pb.MessageBatch, err error) {
	lane = kind(b[0])
	if lane < kindSwift || lane > lanes {
		return 0, 0, batch, fmt.Errorf("letter of lane %d: %w", b[0], errFormat)
	}
	if number, b, err = splitNumber(b[1:]); err != nil {
		return 0, 0, batch, err
	}
	if !wellFormed(b, requestsField) {
		return 0, 0, batch, fmt.Errorf("letter: %w", errFormat)
	}
	if err = decode(func() error { return batch.Unmarshal(b) }); err != nil {
		return 0, 0, batch, fmt.Errorf("letter: %w", err)
	}
	if batch.DeploymentId != 0 || batch.SourceAddress != "" || batch.BinVer != 0 {
		return 0, 0, batch, fmt.Errorf("letter that names its sender: %w", errFormat)
	}
	batch.DeploymentId, batch.SourceAddress, batch.BinVer = cluster, node, raftio.TransportBinVersion
	return lane, number, batch, checkMessages(batch)
}

// mail sends messages of a lane as datagrams, as far as they fit and the link is one on which that is better, and
// returns those that are left for a stream.
func (p *peer) mail(lane kind, messages []pb.Message) (left []pb.Message) {
	rtt, loss, ok := p.post.Link()
	if !ok || rtt < nearRTT && loss < nearLoss {
		return messages
	}
	if p.mailOne(lane, messages) {
		return nil
	}
	if len(messages) == 1 {
		return messages
	}
	for i := range messages {
		if !p.mailOne(lane, messages[i:i+1]) {
			if lane == kindLog { // what follows must not come before it
				return append(left, messages[i:]...)
			}
			left = append(left, messages[i])
		}
	}
	return left
}

func (p *peer) mailOne(lane kind, messages []pb.Message) bool {
	batch := pb.MessageBatch{Requests: messages}
	size := batch.Size()
	if size+maxLetterHeader > p.post.MaxMessage() {
		return false
	}
	out := &p.out[lane-1]
	out.mu.Lock()
	defer out.mu.Unlock()
	b := appendLetter(make([]byte, 0, size+maxLetterHeader), lane, out.last+1)
	start := len(b)
	b = b[:start+size]
	n, err := batch.MarshalTo(b[start:])
	if err != nil || n != size { // the stream says what is wrong
		return false
	}
	if !p.post.Send(b, p.care(messages)) {
		return false
	}
	out.last++
	return true
}

// care is how much messages matter: a heartbeat, and the answer to it, is made up for by the next one, unless a read
// waits for it. Of two followers the faster makes a commit, but what one of them has forwarded goes one way, and so does
// the news there that it is committed.
func (p *peer) care(messages []pb.Message) courier.Care {
	care := courier.Once
	for _, m := range messages {
		switch m.Type {
		case pb.Heartbeat, pb.HeartbeatResp:
			if m.Hint != 0 {
				care = max(care, courier.Sure)
			}
		case pb.Ping, pb.Pong, pb.NoOP:
		case pb.Propose, pb.ReadIndex, pb.ReadIndexResp, pb.TimeoutNow:
			return courier.Vital
		case pb.Replicate:
			if len(m.Entries) == 0 && time.Since(time.Unix(0, p.forwarded.Load())) < forwardedLately {
				return courier.Vital
			}
			care = courier.Sure
		default:
			care = courier.Sure
		}
	}
	return care
}

// forwardedLately is how long ago a peer may have forwarded a proposal and still wait for it.
const forwardedLately = time.Second

// PathsWanted is how many connections to node carry datagrams at best, the one of ServeConn included, and a channel that
// is closed when that changes. Up to one, none is wanted beside it.
func (n *Net) PathsWanted(node string) (paths int, changed <-chan struct{}, err error) {
	p, err := n.peer(node)
	if err != nil {
		return 0, nil, err
	}
	paths, changed = p.post.Wanted()
	return paths, changed, nil
}

// Mail is what couriers have done, by node.
func (n *Net) Mail() map[string]courier.Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := make(map[string]courier.Stats, len(n.peers))
	for node, p := range n.peers {
		all[node] = p.post.Stats()
	}
	return all
}
