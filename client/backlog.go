package client

import (
	"bufio"
	"context"
	"errors"
	"sync"
	"time"

	"holdfast/internal/wire"
)

// What a watch's consumer has not taken yet waits here, and not in the connection: there it would take, from all others, the room
// that QUIC's flow control gives the connection as a whole (RFC 9000, section 4.1), and their answers would not come.
const (
	backlogMax     = 256 << 10 // bytes of a watch; a frame more may come when there is none
	backlogLinkMax = 16 << 20  // of all watches of a link
	// slowGrace is how long a full backlog waits for its consumer, and others perhaps for room, before the stream is given up.
	slowGrace = time.Second
)

// errSlow ends a stream whose consumer takes nothing. Whoever wants more opens another one when it does.
var errSlow = errors.New("the watch was not read for so long that its stream was given up for the others'; open another")

// backlog is what a stream has brought and its consumer has not taken.
type backlog struct {
	link *link

	mu     sync.Mutex
	frames [][]byte
	bytes  int
	err    error         // what the stream ended with, behind the frames
	more   chan struct{} // of one place: there is something to take
	room   chan struct{} // likewise, to put
}

func newBacklog(l *link) *backlog {
	return &backlog{link: l, more: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

// fill reads a stream to its end.
func (b *backlog) fill(ctx context.Context, st Stream) {
	r := bufio.NewReader(st)
	for {
		frame, err := wire.ReadFrame(r)
		if err == nil {
			err = b.put(ctx, frame)
		}
		if err != nil {
			if errors.Is(err, errSlow) {
				st.Abort(0)
			}
			b.mu.Lock()
			b.err = err
			b.mu.Unlock()
			wake(b.more)
			return
		}
	}
}

// put waits for room, slowGrace at most since the consumer took something last.
func (b *backlog) put(ctx context.Context, frame []byte) error {
	var timer *time.Timer
	for {
		b.mu.Lock()
		if b.bytes == 0 || b.bytes+len(frame) <= backlogMax && b.link.waiting.Load()+int64(len(frame)) <= backlogLinkMax {
			b.frames = append(b.frames, frame)
			b.bytes += len(frame)
			b.link.waiting.Add(int64(len(frame)))
			b.mu.Unlock()
			wake(b.more)
			if timer != nil {
				timer.Stop()
			}
			return nil
		}
		b.mu.Unlock()
		if timer == nil {
			timer = time.NewTimer(slowGrace)
		} else {
			timer.Reset(slowGrace)
		}
		select {
		case <-b.room:
		case <-timer.C:
			return errSlow
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// take returns the oldest frame, or what the stream ended with. It waits for one of them, or the end of ctx.
func (b *backlog) take(ctx context.Context) ([]byte, error) {
	for {
		b.mu.Lock()
		if len(b.frames) > 0 {
			frame := b.frames[0]
			b.frames[0] = nil
			b.frames = b.frames[1:]
			b.drop(len(frame))
			b.mu.Unlock()
			wake(b.room)
			return frame, nil
		}
		err := b.err
		b.mu.Unlock()
		if err != nil {
			return nil, err
		}
		select {
		case <-b.more:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// drop gives the room of n bytes back. b.mu is held.
func (b *backlog) drop(n int) {
	b.bytes -= n
	b.link.waiting.Add(-int64(n))
}

// end gives all room back. Fill has returned.
func (b *backlog) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drop(b.bytes)
	b.frames = nil
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
